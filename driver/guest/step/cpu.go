package step

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hookbed/driver/bundle"
)

// readCPU reads for how long the threads of programs ran, ever.
func (x *executor) readCPU(p bundle.CPUCounter) (counters, error) {
	got := counters{}
	for _, handle := range p.Handles {
		pid, ok := x.processes[handle]
		if !ok {
			return nil, fmt.Errorf("no program %q runs", handle)
		}
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("read the CPU time of %q: %w", handle, err)
			}
			// Nanoseconds on a CPU, nanoseconds of waiting, turns (the kernel's
			// Documentation/scheduler/sched-stats.rst).
			ran, _, _ := strings.Cut(string(data), " ")
			n, err := strconv.ParseUint(ran, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("parse the CPU time of %q: %w", handle, err)
			}
			got[handle] += n
		}
	}
	return got, nil
}

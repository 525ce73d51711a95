package ftrace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
)

const functionGraph = "function_graph"

// Calls says what RecordCalls records.
type Calls struct {
	Idle      bool // the idle tasks, too
	BufferKiB int  // for each CPU
}

// CallRecording records the functions that processes enter in the kernel.
type CallRecording struct {
	settings
	how      Calls
	dir      string // of the buffer: an instance, or "" for the top level
	started  bool
	ended    bool
	instance string // the one that was made, or ""
}

// RecordCalls prepares a recording. It begins with the first process that is added. An error with
// fault.Unsupported says what this machine lacks, or who uses its tracer.
func RecordCalls(how Calls) (*CallRecording, error) {
	if !initialPIDs() {
		return nil, fault.Unsupported("record calls: this process is in a PID namespace, and tracefs takes PIDs of the machine")
	}
	t, err := openTree()
	if err != nil {
		return nil, err
	}
	return recordCallsIn(t, how)
}

// recordCallsIn prepares a recording in a tracefs, which it closes when it ends.
func recordCallsIn(t *tree, how Calls) (*CallRecording, error) {
	r := &CallRecording{settings: settings{t: t}, how: how}
	if err := r.prepare(); err != nil {
		return nil, errors.Join(err, r.leave())
	}
	return r, nil
}

// Instance says whether the recording has a tracing instance of its own.
func (r *CallRecording) Instance() bool { return r.instance != "" }

func (r *CallRecording) prepare() error {
	if err := r.chooseBuffer(); err != nil {
		return err
	}
	// These limit every function graph, in whatever instance.
	for file, value := range map[string]string{"set_graph_function": "", "set_graph_notrace": "", "max_graph_depth": "0", "tracing_thresh": "0"} {
		if err := r.setIfThere(file, value); err != nil {
			return err
		}
	}
	files := []setting{{"tracing_on", "0"}, {"buffer_size_kb", strconv.Itoa(r.how.BufferKiB)}, {"options/function-fork", "1"}}
	if r.Instance() {
		files = append(files, setting{"trace_clock", "global"}) // of all CPUs; a change empties the buffer
	}
	for _, f := range files {
		if err := r.set(filepath.Join(r.dir, f.file), f.value); err != nil {
			return err
		}
	}
	if err := r.empty(filepath.Join(r.dir, "set_ftrace_pid")); err != nil {
		return err
	}
	return r.setFormat()
}

// setFormat has the text say time, CPU and process of every line, and nothing that takes room.
// These options are the tracer's, and an instance may share them with all others (tracer_flags in
// kernel/trace/trace_functions_graph.c).
func (r *CallRecording) setFormat() error {
	on := []string{"funcgraph-abstime", "funcgraph-cpu", "funcgraph-proc", "funcgraph-irqs", "sleep-time", "context-info"}
	off := []string{"funcgraph-duration", "funcgraph-overhead", "funcgraph-overrun", "funcgraph-tail", "funcgraph-retval", "funcgraph-retaddr", "funcgraph-args", "latency-format"}
	for _, name := range on {
		if err := r.setIfThere(filepath.Join(r.dir, "options", name), "1"); err != nil {
			return err
		}
	}
	for _, name := range off {
		if err := r.setIfThere(filepath.Join(r.dir, "options", name), "0"); err != nil {
			return err
		}
	}
	return nil
}

// chooseBuffer makes an instance, and takes the top-level buffer if instances have no function
// graph (before Linux 6.11).
func (r *CallRecording) chooseBuffer() error {
	dir, err := r.t.makeInstance("calls")
	if err != nil {
		return err
	}
	if r.hasTracer(dir) {
		r.dir, r.instance = dir, dir
		r.journal, err = openJournal(r.t.journals)
		return err
	}
	if err := r.t.removeInstance(dir); err != nil {
		return err
	}
	if !r.hasTracer("") {
		return fault.Unsupported("this kernel (%s) has no %s tracer (CONFIG_FUNCTION_GRAPH_TRACER)", fault.KernelRelease(), functionGraph)
	}
	if err := r.checkUnused(); err != nil {
		return err
	}
	if r.journal, err = openJournal(r.t.journals); err != nil {
		return err
	}
	return r.remember(setting{"trace", ""}) // to be emptied, last of all
}

func (r *CallRecording) hasTracer(dir string) bool {
	tracers, _ := r.t.read(filepath.Join(dir, "available_tracers"))
	return slices.Contains(strings.Fields(tracers), functionGraph)
}

// checkUnused refuses the top-level buffer where another one uses it: what it holds could not be
// put back.
func (r *CallRecording) checkUnused() error {
	for _, want := range []setting{{"current_tracer", "nop"}, {"set_event", ""}, {"set_ftrace_filter", ""}, {"set_ftrace_notrace", ""}} {
		text, err := r.t.read(want.file)
		if err != nil {
			return fmt.Errorf("read %s of tracefs: %w", want.file, err)
		}
		if held := parseHeld(text); held != want.value {
			return fault.Unsupported("the machine's tracer is in use: %s of tracefs is %.60q, want %q; end that first", want.file, held, want.value)
		}
	}
	used, err := r.t.entries("")
	if err != nil {
		return err
	}
	if used > 0 {
		return fault.Unsupported("the machine's trace buffer holds %d entries of another user: empty it first, by writing nothing to the file trace of tracefs", used)
	}
	return nil
}

// Add has the recording observe a process and what it starts. The first begins it: without a
// process the tracer would record all.
func (r *CallRecording) Add(pid int) error {
	pids := []int{pid}
	if !r.started {
		pids = append(pids, softirqd()...)
	}
	if r.how.Idle && !r.started {
		pids = append(pids, 0)
	}
	for _, n := range pids {
		if err := r.t.add(filepath.Join(r.dir, "set_ftrace_pid"), strconv.Itoa(n)); err != nil {
			return err
		}
	}
	if r.started {
		return nil
	}
	r.started = true
	if err := r.set(filepath.Join(r.dir, "current_tracer"), functionGraph); err != nil {
		return err
	}
	return r.t.write(filepath.Join(r.dir, "tracing_on"), "1")
}

// softirqd are the threads that do softirqs when there are too many: packets of the flow, too.
func softirqd() (pids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, file := range names {
		name, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(name), "ksoftirqd/") {
			continue // it has ended, or is another
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// End stops the recording, reads it and leaves tracefs as it was.
func (r *CallRecording) End() (Record, error) {
	if r.ended {
		return Record{}, nil
	}
	got, err := r.collect()
	return got, errors.Join(err, r.leave())
}

func (r *CallRecording) collect() (Record, error) {
	if err := r.t.write(filepath.Join(r.dir, "tracing_on"), "0"); err != nil {
		return Record{}, err
	}
	return r.t.recorded(r.dir)
}

// leave puts everything back. An instance goes with its buffer.
func (r *CallRecording) leave() error {
	r.ended = true
	err := r.restore()
	if r.instance != "" {
		err = errors.Join(err, r.t.removeInstance(r.instance))
	}
	return errors.Join(err, r.t.Close())
}

// recorded is what the buffer of a directory holds, and how many entries it had no room for.
func (t *tree) recorded(dir string) (Record, error) {
	lost, err := t.overrun(dir)
	if err != nil {
		return Record{}, err
	}
	text, err := os.ReadFile(filepath.Join(t.root, dir, "trace"))
	if err != nil {
		return Record{}, fmt.Errorf("read what was recorded: %w", err)
	}
	return Record{Text: string(text), Values: map[string]float64{bundle.ValueLost: float64(lost)}}, nil
}

// entries is how many entries the buffer of a directory holds, overrun how many it had no room for.
func (t *tree) entries(dir string) (uint64, error) { return t.sumStats(dir, "entries: ") }
func (t *tree) overrun(dir string) (uint64, error) { return t.sumStats(dir, "overrun: ") }

// sumStats sums a figure of per_cpu/cpu*/stats.
func (t *tree) sumStats(dir, key string) (sum uint64, err error) {
	files, err := filepath.Glob(filepath.Join(t.root, dir, "per_cpu", "cpu*", "stats"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return 0, fmt.Errorf("read the buffer's figures: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			if text, ok := strings.CutPrefix(line, key); ok {
				n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
				if err != nil {
					return 0, fmt.Errorf("read the buffer's figures: %w", err)
				}
				sum += n
			}
		}
	}
	return sum, nil
}

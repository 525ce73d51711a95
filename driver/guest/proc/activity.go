package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

// UserHZ is the unit of /proc/stat on every architecture Go runs on.
const UserHZ = 100

// ReadActivity reads the node's counters; TCP is that of the thread's
// namespace.
func ReadActivity() (bundle.Activity, error) {
	act := bundle.Activity{UnixNano: time.Now().UnixNano()}
	texts := map[string]string{}
	for _, path := range []string{"/proc/stat", "/proc/softirqs", "/proc/thread-self/net/snmp", "/proc/loadavg"} {
		data, err := os.ReadFile(path)
		if err != nil {
			return act, fmt.Errorf("read activity: %w", err)
		}
		texts[path] = string(data)
	}
	act.CPU = ParseCPU(texts["/proc/stat"])
	act.Softirqs = parseSoftirqs(texts["/proc/softirqs"])
	act.TCP = ParseSNMP(texts["/proc/thread-self/net/snmp"], "Tcp")
	if f := strings.Fields(texts["/proc/loadavg"]); len(f) > 0 {
		act.Load1, _ = strconv.ParseFloat(f[0], 64)
	}
	if len(act.CPU) == 0 || len(act.Softirqs) == 0 || len(act.TCP) == 0 {
		return act, errors.New("read activity: /proc does not look as expected")
	}
	return act, nil
}

// Nanoseconds is what a clock says.
func Nanoseconds(clock int32) (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read clock %d: %w", clock, err)
	}
	return ts.Nano(), nil
}

// ParseCPU reads the first line of /proc/stat: seconds over all CPUs.
func ParseCPU(text string) map[string]float64 {
	line, _, _ := strings.Cut(text, "\n")
	f := strings.Fields(line)
	out := map[string]float64{}
	for i, name := range []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"} {
		if i+1 < len(f) {
			if n, err := strconv.ParseFloat(f[i+1], 64); err == nil {
				out[name] = n / UserHZ
			}
		}
	}
	return out
}

// parseSoftirqs sums /proc/softirqs over CPUs.
func parseSoftirqs(text string) map[string]uint64 {
	out := map[string]uint64{}
	for _, line := range strings.Split(text, "\n") {
		name, counts, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		for _, s := range strings.Fields(counts) {
			n, _ := strconv.ParseUint(s, 10, 64)
			out[name] += n
		}
	}
	return out
}

// ParseSNMP reads the two lines of a protocol of /proc/net/snmp, "Tcp" or "Ip":
// names, then values. MaxConn, which is -1, is left out.
func ParseSNMP(text, protocol string) map[string]uint64 {
	var names []string
	out := map[string]uint64{}
	for _, line := range strings.Split(text, "\n") {
		rest, ok := strings.CutPrefix(line, protocol+": ")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if names == nil {
			names = f
			continue
		}
		for i := 0; i < len(f) && i < len(names); i++ {
			if n, err := strconv.ParseUint(f[i], 10, 64); err == nil {
				out[names[i]] = n
			}
		}
	}
	return out
}

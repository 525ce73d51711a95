package bundle

import (
	"os"
	"strconv"
	"strings"
)

// Waited is for how long, in seconds and ever, some task of this machine has had to
// wait for a CPU; nil where the kernel does not say (before Linux 4.20, or without
// CONFIG_PSI).
func Waited() *float64 {
	data, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return nil
	}
	return parseWaited(string(data))
}

// parseWaited reads the total of the line "some", which is in microseconds
// (Documentation/accounting/psi.rst).
func parseWaited(text string) *float64 {
	for _, line := range strings.Split(text, "\n") {
		total, ok := strings.CutPrefix(line, "some ")
		if !ok {
			continue
		}
		if _, total, ok = strings.Cut(total, "total="); !ok {
			return nil
		}
		us, err := strconv.ParseFloat(strings.TrimSpace(total), 64)
		if err != nil {
			return nil
		}
		seconds := us / 1e6
		return &seconds
	}
	return nil
}

package bundle

import (
	"strconv"
	"strings"
)

// PressureFile is where the kernel accounts for waiting for CPUs, from Linux 4.20 on
// with CONFIG_PSI.
const PressureFile = "/proc/pressure/cpu"

// ParseWaited is for how long, in seconds and ever, some task of a machine has had to
// wait for a CPU, from the text of PressureFile: the total of its line "some", which
// is in microseconds (Documentation/accounting/psi.rst). It is nil where the text
// does not say.
func ParseWaited(text string) *float64 {
	for _, line := range strings.Split(text, "\n") {
		total, ok := strings.CutPrefix(line, "some ")
		if !ok {
			continue
		}
		if _, total, ok = strings.Cut(total, "total="); !ok {
			return nil
		}
		us, err := strconv.ParseUint(strings.TrimSpace(total), 10, 64) // as the kernel has it
		if err != nil {
			return nil
		}
		seconds := float64(us) / 1e6
		return &seconds
	}
	return nil
}

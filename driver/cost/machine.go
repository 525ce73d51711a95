package cost

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// unknown is written for what this computer does not report.
const unknown = "not told"

// Machine is what a ratio of two programs depends on in addition to the programs: the
// processor, the kernel, and what it does against branch target injection, since
// retpolines slow every indirect call and return thunks every return.
type Machine struct {
	Processor string `json:"processor"`
	Kernel    string `json:"kernel"`
	SpectreV2 string `json:"spectre_v2"` // as /sys/devices/system/cpu/vulnerabilities has it
}

// ThisMachine describes this computer.
func ThisMachine() Machine { return machineOf(os.DirFS("/")) }

func machineOf(root fs.FS) Machine {
	m := Machine{Processor: unknown, Kernel: unknown, SpectreV2: unknown}
	for line := range strings.Lines(content(root, "proc/cpuinfo")) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.Processor = strings.TrimSpace(value)
			break
		}
	}
	if release := content(root, "proc/sys/kernel/osrelease"); release != "" {
		m.Kernel = release
	}
	if state := content(root, "sys/devices/system/cpu/vulnerabilities/spectre_v2"); state != "" {
		m.SpectreV2 = state
	}
	return m
}

// content is a file without the white space around it, "" if it cannot be read.
func content(root fs.FS, name string) string {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// note says on what numbers were seen.
func (m Machine) note() string {
	return fmt.Sprintf("Measured on %s, Linux %s, spectre_v2: %s.", m.Processor, m.Kernel, m.SpectreV2)
}

// Package sysfs reads and writes what the kernel shows of itself below /proc/sys and /sys,
// and the features of network devices.
package sysfs

import (
	"os"
	"strings"
)

// SetFact records a fact unless it is empty.
func SetFact(f map[string]string, key, value string) {
	if value = strings.TrimSpace(value); value != "" {
		f[key] = value
	}
}

// ReadLine is a file's first line, "" if it cannot be read.
func ReadLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.Join(strings.Fields(line), " ")
}

// GlobalSysctls are shown in the machine's first network namespace only.
func GlobalSysctls() []string {
	return []string{
		"net.core.bpf_jit_enable", "net.core.bpf_jit_harden", "net.core.default_qdisc",
		"net.core.rmem_max", "net.core.wmem_max", "net.core.netdev_max_backlog", "net.core.netdev_budget",
	}
}

// SysctlFacts reads keys as the calling thread sees them. The two on the JIT
// compiler have facts of short names.
func SysctlFacts(f map[string]string, keys []string) {
	for _, key := range keys {
		path, err := SysctlPath(key)
		if err != nil {
			continue
		}
		name := "sysctl." + key
		if short, ok := strings.CutPrefix(key, "net.core.bpf_"); ok {
			name = "bpf_" + short
		}
		SetFact(f, name, ReadLine(path))
	}
}

// Exists reports whether there is a file at path, as far as can be seen.
func Exists(path string) bool { _, err := os.Stat(path); return err == nil }

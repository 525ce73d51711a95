package main

import (
	"os"
	"strings"
)

// set records a fact unless it is empty.
func set(f map[string]string, key, value string) {
	if value = strings.TrimSpace(value); value != "" {
		f[key] = value
	}
}

// readLine is a file's first line, "" if it cannot be read.
func readLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.Join(strings.Fields(line), " ")
}

// globalSysctls are shown in the machine's first network namespace only.
func globalSysctls() []string {
	return []string{
		"net.core.bpf_jit_enable", "net.core.bpf_jit_harden", "net.core.default_qdisc",
		"net.core.rmem_max", "net.core.wmem_max", "net.core.netdev_max_backlog", "net.core.netdev_budget",
	}
}

// sysctlFacts reads keys as the calling thread sees them. The two on the JIT
// compiler have facts of short names.
func sysctlFacts(f map[string]string, keys []string) {
	for _, key := range keys {
		path, err := sysctlPath(key)
		if err != nil {
			continue
		}
		name := "sysctl." + key
		if short, ok := strings.CutPrefix(key, "net.core.bpf_"); ok {
			name = "bpf_" + short
		}
		set(f, name, readLine(path))
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

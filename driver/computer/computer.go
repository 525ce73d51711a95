// Package computer reports which CPUs and TCP congestion controls the computer that
// it runs on offers to experiments. It changes nothing, and it does not decide what
// an experiment may use.
package computer

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CPUs lists, in ascending order, the CPUs that programs of this process can be
// pinned to: they are online, and in the cpuset. nil if they cannot be read.
func CPUs() []int {
	var out []int
	onLostThread(func() { out = pinnable() })
	return out
}

// onLostThread calls f on a thread that ends with what f did to it. That is not the first thread,
// which does not end before the process, and whose mask others take for the process's.
func onLostThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked on another thread than the first
		if unix.Gettid() == unix.Getpid() {
			onLostThread(f) // on another, as this one is held
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// pinnable requests every CPU and returns those that the calling thread gets.
func pinnable() []int {
	var all, set unix.CPUSet
	most := 64 * len(all)
	for cpu := range most {
		all.Set(cpu)
	}
	if unix.SchedSetaffinity(0, &all) != nil || unix.SchedGetaffinity(0, &set) != nil {
		return nil
	}
	var out []int
	for cpu := range most {
		if set.IsSet(cpu) {
			out = append(out, cpu)
		}
	}
	return out
}

// List writes CPUs, in ascending order, as the kernel does: "0-3,8".
func List(cpus []int) string {
	var parts []string
	for i := 0; i < len(cpus); {
		end := i
		for end+1 < len(cpus) && cpus[end+1] == cpus[end]+1 {
			end++
		}
		part := strconv.Itoa(cpus[i])
		if end > i {
			part += "-" + strconv.Itoa(cpus[end])
		}
		parts = append(parts, part)
		i = end + 1
	}
	return strings.Join(parts, ",")
}

// ParseList reads a list as List writes it; nil if the text is not one.
func ParseList(text string) []int {
	var out []int
	for _, part := range strings.Split(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || to-from > 1<<16 {
			return nil
		}
		for cpu := from; cpu <= to; cpu++ {
			out = append(out, cpu)
		}
	}
	return out
}

// Congestion lists the TCP congestion controls that a network namespace may use,
// including those of modules that the kernel loads on request; and the restricted
// ones, which a namespace may not use (tcp_set_default_congestion_control in
// net/ipv4/tcp_cong.c). usable is nil if they cannot be read.
func Congestion() (usable, restricted []string) { return congestionBelow("/") }

func congestionBelow(root string) (usable, restricted []string) {
	sysctl := func(name string) []string {
		data, _ := os.ReadFile(filepath.Join(root, "proc/sys/net/ipv4", name))
		return strings.Fields(string(data))
	}
	available, allowed := sysctl("tcp_available_congestion_control"), sysctl("tcp_allowed_congestion_control")
	if len(available) == 0 || len(allowed) == 0 {
		return nil, nil
	}
	for _, name := range available {
		if slices.Contains(allowed, name) {
			usable = append(usable, name)
		} else {
			restricted = append(restricted, name)
		}
	}
	for _, name := range congestionModules(root) {
		if !slices.Contains(available, name) {
			usable = append(usable, name)
		}
	}
	return usable, restricted
}

var tcpModule = regexp.MustCompile(`(?m)^kernel/net/ipv4/tcp_(\w+)\.ko[.\w]*:`)

// congestionModules are the names of congestion controls by the files of their
// modules. Whether a namespace may use one is known only once it is loaded.
func congestionModules(root string) []string {
	release, _ := os.ReadFile(filepath.Join(root, "proc/sys/kernel/osrelease"))
	index, _ := os.ReadFile(filepath.Join(root, "lib/modules", strings.TrimSpace(string(release)), "modules.dep"))
	var out []string
	for _, m := range tcpModule.FindAllStringSubmatch(string(index), -1) {
		if m[1] != "diag" { // tcp_diag lists sockets
			out = append(out, m[1])
		}
	}
	slices.Sort(out)
	return out
}

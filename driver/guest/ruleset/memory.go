package ruleset

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hookbed/driver/guest/cgroup"
)

// What the kernel keeps of a rule set is read where it is charged: the tool
// runs in a memory cgroup of its own, and once it has ended the kernel memory
// still charged there is the rule set. nf_tables' rules and elements are charged
// since Linux 5.18; iptables' counters (16 bytes a rule and CPU) and the
// elements of an ipset are not, but an ipset shows the size of its elements.

// MemoryCgroup is a temporary memory cgroup.
type MemoryCgroup struct {
	*cgroup.Group
	v1 bool
}

// mountedMemory finds the mount of the memory controller: version 1 of it, else a version 2
// hierarchy.
func mountedMemory(mounts []cgroup.Mount) (dir string, v1 bool) {
	for _, m := range mounts {
		switch {
		case m.Version == 1 && slices.Contains(m.Controllers, "memory"):
			return m.Dir, true
		case m.Version == 2:
			dir = m.Dir
		}
	}
	return dir, false
}

// memoryTop finds the top of the memory controller's hierarchy; an error says why it
// cannot be used.
func memoryTop() (top string, v1 bool, err error) {
	mounts, err := cgroup.Mounted()
	if err != nil {
		return "", false, err
	}
	top, v1 = mountedMemory(mounts)
	if top == "" {
		return "", false, errors.New("no memory controller is mounted")
	}
	if !v1 {
		on, err := os.ReadFile(filepath.Join(top, "cgroup.subtree_control"))
		if err != nil {
			return "", false, err
		}
		if !slices.Contains(strings.Fields(string(on)), "memory") {
			return "", false, fmt.Errorf("the memory controller is off below %s", top)
		}
	}
	return top, v1, nil
}

// newMemoryCgroup makes a cgroup in top.
func newMemoryCgroup(top string, v1 bool) (*MemoryCgroup, error) {
	g, err := cgroup.Make(top, cgroup.Rules)
	if err != nil {
		return nil, err
	}
	return &MemoryCgroup{g, v1}, nil
}

// emptyLimit is how long, on a busy machine, what has ended may still be in its
// cgroup.
const emptyLimit = 30 * time.Second

// awaitEmpty waits until nothing runs in the cgroup: what ended leaves it, and
// frees its own kernel memory, a moment later.
func (g *MemoryCgroup) awaitEmpty() error {
	name := "cgroup.procs"
	if g.v1 {
		name = "tasks"
	}
	for deadline := time.Now().Add(emptyLimit); ; time.Sleep(time.Millisecond) {
		data, err := os.ReadFile(filepath.Join(g.Dir, name))
		if err != nil || len(data) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("something still runs in %s", g.Dir)
		}
	}
}

// run runs fn on a thread of its own in the cgroup and the namespace, so that
// the processes it starts are charged to the cgroup. The thread ends with it.
// Where the thread cannot get there fn is not run.
func (g *MemoryCgroup) run(enter, fn func() error) (ran bool, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good
		if err = errors.Join(g.join(), enter()); err == nil {
			ran, err = true, fn()
		}
	}()
	<-done
	return ran, err
}

// join moves the calling thread into a version 1 cgroup. In version 2 the
// threads of a process cannot be apart; there the process is started inside.
func (g *MemoryCgroup) join() error {
	if !g.v1 {
		return nil
	}
	return os.WriteFile(filepath.Join(g.Dir, "tasks"), []byte("0"), 0)
}

// startInside has a process start in a version 2 cgroup, if there is one. The
// caller calls done once it has started.
func (g *MemoryCgroup) startInside(attr *syscall.SysProcAttr) (done func(), err error) {
	if g == nil || g.v1 {
		return func() {}, nil
	}
	dir, err := os.Open(g.Dir)
	if err != nil {
		return nil, err
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	return func() { _ = dir.Close() }, nil
}

// kernelBytes is the kernel memory charged to the cgroup.
func (g *MemoryCgroup) kernelBytes() (uint64, error) {
	name := "memory.stat"
	if g.v1 {
		name = "memory.kmem.usage_in_bytes"
	}
	data, err := os.ReadFile(filepath.Join(g.Dir, name))
	if err != nil {
		return 0, err
	}
	if g.v1 {
		return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	}
	stat := parseStat(string(data))
	if n, ok := stat["kernel"]; ok { // since Linux 5.18
		return n, nil
	}
	data, err = os.ReadFile(filepath.Join(g.Dir, "memory.current"))
	if err != nil {
		return 0, err
	}
	all, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return all - min(all, stat["anon"]+stat["file"]), err
}

// What a process held is given back after a grace period of RCU or two. It is
// over when readings have not changed for settleQuiet; settleLimit bounds it.
const (
	settleQuiet = 100 * time.Millisecond
	settlePoll  = 5 * time.Millisecond
	settleLimit = 2 * time.Second
)

// settledBytes is kernelBytes once nothing is given back any more.
func (g *MemoryCgroup) settledBytes() (uint64, error) {
	start := time.Now()
	last, since := uint64(0), start
	for {
		n, err := g.kernelBytes()
		if n != last {
			last, since = n, time.Now()
		}
		if err != nil || time.Since(since) >= settleQuiet || time.Since(start) >= settleLimit {
			return n, err
		}
		time.Sleep(settlePoll)
	}
}

// parseStat reads lines of a name and a number: memory.stat.
func parseStat(text string) map[string]uint64 {
	out := map[string]uint64{}
	for _, line := range strings.Split(text, "\n") {
		name, value, _ := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			out[name] = n
		}
	}
	return out
}

// unreclaimable is the kernel memory of the whole machine that a rule set can
// be in, by the text of /proc/meminfo, in bytes.
func unreclaimable(meminfo string) int64 {
	var sum int64
	for _, line := range strings.Split(meminfo, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || !slices.Contains([]string{"SUnreclaim:", "VmallocUsed:", "Percpu:"}, f[0]) {
			continue
		}
		if kib, err := strconv.ParseInt(f[1], 10, 64); err == nil {
			sum += kib << 10
		}
	}
	return sum
}

// machineBytes is unreclaimable of this machine, now.
func machineBytes() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return unreclaimable(string(data)), nil
}

// Memory is what the kernel keeps of a rule set.
type Memory struct {
	Bytes float64
	Known bool
	Note  string // how it was read, or why it is not known
}

// MeasureMemory runs a load and reads the kernel memory that it leaves behind. enter
// moves a thread into the namespace of the load. A load that worked never fails for
// the reading: one that cannot be had is a note.
func MeasureMemory(enter func() error, load func(*MemoryCgroup) error) (Memory, error) {
	top, v1, err := memoryTop()
	if err != nil {
		return measureMachine(load, err)
	}
	group, err := newMemoryCgroup(top, v1)
	if err != nil {
		return measureMachine(load, err)
	}
	ran, err := group.run(enter, func() error { return load(group) })
	failed := group.awaitEmpty()
	if !ran {
		return measureMachine(load, errors.Join(err, failed, group.Remove()))
	}
	bytes, failed2 := group.settledBytes()
	var m Memory
	// What is charged to it stays allocated; the kernel charges it to the parent from then on.
	if failed = errors.Join(failed, failed2, group.Remove()); failed != nil {
		m.Note = fmt.Sprintf("memory: %v", failed)
	} else if err == nil {
		m = Memory{float64(bytes), true, "memory as charged to a cgroup"}
	}
	return m, err
}

// measureMachine measures by what the whole machine uses before and after.
func measureMachine(load func(*MemoryCgroup) error, why error) (Memory, error) {
	before, failed := machineBytes()
	if err := load(nil); err != nil {
		return Memory{}, err
	}
	after, failed2 := machineBytes()
	if failed = errors.Join(failed, failed2); failed != nil {
		return Memory{Note: fmt.Sprintf("memory: %v; %v", why, failed)}, nil
	}
	return Memory{float64(after - before), true, fmt.Sprintf("memory as the growth of the machine's, which others move too (%v)", why)}, nil
}

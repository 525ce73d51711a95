package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hookbed/driver/plan"
	"hookbed/driver/vm"
)

// State is what a lab writes down about itself, so that another driver can
// reach it or clear it away.
type State struct {
	Name     string      `json:"name"`
	Provider string      `json:"provider"`
	Detached bool        `json:"detached"`
	Driver   ProcessID   `json:"driver"`
	NetNS    string      `json:"netns,omitempty"` // from which guests are reachable, "" = this one
	Key      string      `json:"key,omitempty"`   // path of the login key
	Known    string      `json:"known_hosts,omitempty"`
	Nodes    []StateNode `json:"nodes,omitempty"`
	// Hypervisors are other computers that have machines and networks of the lab,
	// under the name Remote.
	Hypervisors []plan.Hypervisor `json:"hypervisors,omitempty"`
	Remote      string            `json:"remote,omitempty"`
}

// StateNode is how to reach a node.
type StateNode struct {
	Name string `json:"name"`
	Addr string `json:"addr"` // on the management network
}

// ProcessID names a process beyond the reuse of its number.
type ProcessID struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // field 22 of /proc/PID/stat, clock ticks since boot
}

func thisProcess() ProcessID { return ProcessID{os.Getpid(), startTime(os.Getpid())} }

func startTime(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The command name may hold spaces; fields count from after its ")".
	_, rest, _ := strings.Cut(string(data), ") ")
	if f := strings.Fields(rest); len(f) > 19 {
		return f[19]
	}
	return ""
}

func (p ProcessID) alive() bool { return p.PID > 0 && p.Start != "" && startTime(p.PID) == p.Start }

const stateFile = "lab.json"

// underLock calls do while no other driver makes, removes or sweeps labs under
// a state root: a lab that is half made or half gone looks like a dead one's. The
// kernel gives the lock up when the process ends.
func underLock(root string, do func() error) error {
	f, err := os.Open(root)
	if err != nil {
		return fmt.Errorf("lock the labs: %w", err)
	}
	defer f.Close()
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return do()
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock the labs of %s: %w", root, err)
		}
	}
}

// claim makes the directory of a lab, with its state in it.
func claim(dir string, s State) error {
	root := filepath.Dir(dir)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	return underLock(root, func() error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
		return saveState(dir, s)
	})
}

// release removes the directory of a lab.
func release(dir string) error {
	return underLock(filepath.Dir(dir), func() error { return os.RemoveAll(dir) })
}

func saveState(dir string, s State) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+stateFile)
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write lab state: %w", err)
	}
	return os.Rename(tmp, filepath.Join(dir, stateFile))
}

// Proxy is OpenSSH's ProxyCommand for a node that is reached through its hypervisor;
// "" for others.
func (s State) Proxy(node string) string {
	for _, h := range s.Hypervisors {
		if !slices.Contains(h.Nodes, node) {
			continue
		}
		argv := []string{"ssh"}
		for _, arg := range []string{"-i", home(h.Key), "-o", "UserKnownHostsFile=" + home(h.KnownHosts), "-o", "StrictHostKeyChecking=yes",
			"-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-p", strconv.Itoa(h.Port), h.User + "@" + h.Host} {
			argv = append(argv, "'"+strings.NewReplacer("'", `'\''`, "%", "%%").Replace(arg)+"'")
		}
		return strings.Join(slices.Insert(argv, len(argv)-1, "-W", "%h:%p"), " ")
	}
	return ""
}

// home is a path with "~/" as this user's, where that is known.
func home(file string) string {
	if full, err := expandHome(file); err == nil {
		return full
	}
	return file
}

// Labs lists the labs under a state root, running or left over.
func Labs(root string) ([]State, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var out []State
	for _, e := range entries {
		s := State{Name: e.Name()}
		if data, err := os.ReadFile(filepath.Join(root, e.Name(), stateFile)); err == nil {
			_ = json.Unmarshal(data, &s) // a torn file still names a lab to clear
		}
		out = append(out, s)
	}
	return out, nil
}

// InUse says whether a living driver owns the lab.
func (s State) InUse() bool { return !s.Detached && s.Driver.alive() }

// Clear takes a lab down, whatever is left of it, and removes its state.
func Clear(ctx context.Context, root, name string) error {
	dir := filepath.Join(root, name)
	if err := clearRemote(ctx, root, name); err != nil {
		return fmt.Errorf("clear lab %q: %w", name, err)
	}
	if err := vm.Cleanup(ctx, dir); err != nil {
		return fmt.Errorf("clear lab %q: %w", name, err)
	}
	return os.RemoveAll(dir)
}

// clearRemote takes down what a lab has on other computers.
func clearRemote(ctx context.Context, root, name string) error {
	labs, err := Labs(root)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range labs {
		if l.Name != name {
			continue
		}
		for i, h := range l.Hypervisors {
			if err := remoteSite(h, filepath.Join(root, name), l.Remote, i).clear(ctx); err != nil {
				errs = append(errs, fmt.Errorf("%w; if that computer is gone for good, remove %s", err, filepath.Join(root, name)))
			}
		}
	}
	return errors.Join(errs...)
}

// SweepRemote clears what labs whose driver died left on other computers, and
// returns their names. Those that it cannot clear, because a computer cannot be
// reached, are errors that need not stop anybody.
func SweepRemote(ctx context.Context, root string) (cleared []string, err error) {
	labs, err := Labs(root)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, l := range labs {
		if l.Detached || l.Driver.alive() || len(l.Hypervisors) == 0 {
			continue
		}
		if err := Clear(ctx, root, l.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		cleared = append(cleared, l.Name)
	}
	return cleared, errors.Join(errs...)
}

// Sweep clears the labs whose driver died without taking them down, and
// returns their names.
func Sweep(ctx context.Context, root string) (cleared []string, err error) {
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	err = underLock(root, func() error {
		cleared, err = sweep(ctx, root)
		return err
	})
	return cleared, err
}

func sweep(ctx context.Context, root string) (cleared []string, err error) {
	labs, err := Labs(root)
	if err != nil {
		return nil, err
	}
	for _, l := range labs {
		// Nobody waits under the lock for a computer that does not answer; see SweepRemote.
		if l.Detached || l.Driver.alive() || len(l.Hypervisors) > 0 {
			continue
		}
		if err := Clear(ctx, root, l.Name); err != nil {
			return cleared, err
		}
		cleared = append(cleared, l.Name)
	}
	return cleared, nil
}

// FreshName is a lab name no other running driver uses.
func FreshName(prefix string) string { return prefix + strconv.Itoa(os.Getpid()) }

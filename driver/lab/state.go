package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/analysis/durable"
	"hookbed/driver/lab/remote"
	"hookbed/driver/plan"
	"hookbed/driver/vm"
)

// State is what a lab writes down about itself, so that another driver can reach it or
// take it down.
type State struct {
	Name       string      `json:"name"` // also of its directory
	Experiment string      `json:"experiment,omitempty"`
	Provider   string      `json:"provider"`
	Detached   bool        `json:"detached"`        // meant to outlive its driver
	Driver     ProcessID   `json:"driver"`          // the owner
	User       string      `json:"user,omitempty"`  // who started the driver
	Since      time.Time   `json:"since,omitzero"`  // when the lab was begun
	NetNS      string      `json:"netns,omitempty"` // from which guests are reachable, "" = this one
	Key        string      `json:"key,omitempty"`   // path of the login key
	Known      string      `json:"known_hosts,omitempty"`
	Nodes      []StateNode `json:"nodes,omitempty"`
	// Hypervisors are other computers that have machines and networks of the lab,
	// under the name Remote.
	Hypervisors []plan.Hypervisor `json:"hypervisors,omitempty"`
	Remote      string            `json:"remote,omitempty"`
	// Token is in the marker of the lab's directory on each of them.
	Token string `json:"token,omitempty"`
	// Torn: the state cannot be read, so the lab's owner is not known.
	Torn bool `json:"torn,omitempty"`
}

// StateNode is how to reach a node.
type StateNode struct {
	Name string `json:"name"`
	Addr string `json:"addr"` // on the management network
}

// begun is the state of a lab that this process begins.
func begun(cfg Config) State {
	return State{Name: cfg.Name, Experiment: cfg.Experiment, Provider: cfg.Lab.Provider, Detached: cfg.Detached,
		Driver: thisProcess(), User: whoami(), Since: time.Now().UTC().Truncate(time.Second)}
}

// whoami names the user who started this process, as far as the environment shows.
func whoami() string {
	name := "user " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if by := os.Getenv("SUDO_USER"); by != "" && by != name {
		return name + " (by sudo of " + by + ")"
	}
	return name
}

// ProcessID names a process beyond the reuse of its number.
type ProcessID struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // field 22 of /proc/PID/stat, clock ticks since boot
	// Space is the PID namespace in which the process has this number; "" is the
	// reader's, as in states of releases that did not write it down.
	Space string `json:"pid_namespace,omitempty"`
	// Boot and Host are the computer's boot ID and name: state directories may be shared by
	// computers. "" as above.
	Boot string `json:"boot_id,omitempty"`
	Host string `json:"host,omitempty"`
}

func thisProcess() ProcessID {
	return ProcessID{PID: os.Getpid(), Start: startTime(os.Getpid()), Space: pidSpace(), Boot: bootID(), Host: hostName()}
}

// bootID is the kernel's name of this boot, "" where /proc does not have it.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// pidSpace names the PID namespace of this process, "" where /proc does not have it.
func pidSpace() string {
	name, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return name
}

// Elsewhere says whether the process is on another computer, or in another PID namespace,
// as that of a container: from here it cannot be seen whether it lives.
func (p ProcessID) Elsewhere() bool {
	if p.ofOtherBoot() {
		return p.onOtherHost()
	}
	return p.Space != "" && p.Space != pidSpace()
}

// ofOtherBoot says whether the process is of another boot than this process: on another
// computer, or before this one booted.
func (p ProcessID) ofOtherBoot() bool { return p.Boot != "" && p.Boot != bootID() }

func (p ProcessID) onOtherHost() bool { return p.ofOtherBoot() && p.Host != hostName() }

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

// Lives says whether the process runs. One that cannot be seen from here counts as
// alive: its lab may be in use, and is left alone.
func (p ProcessID) Lives() bool {
	switch {
	case p.PID <= 0:
		return false
	case p.ofOtherBoot():
		return p.Elsewhere()
	}
	return p.Elsewhere() || p.Start != "" && startTime(p.PID) == p.Start
}

const stateFile = "lab.json"

// underLock calls do while no other driver makes, removes or sweeps labs under
// a state root: a lab that is half made or half removed looks like one whose driver
// died. The kernel releases the lock when the process ends.
func underLock(root string, do func() error) error {
	l, err := durable.AwaitLock(context.Background(), root, 0, nil)
	if err != nil {
		return fmt.Errorf("lock the labs of %s: %w", root, err)
	}
	return errors.Join(do(), l.Unlock())
}

// ErrTaken is wrapped when a lab of the name is there already.
var ErrTaken = errors.New("a lab of this name is there already")

// claim makes the directory of a lab, with its state in it. It refuses a directory that
// another process has, or left.
func claim(dir string, s State) error {
	root := filepath.Dir(dir)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if err := durable.OnlyOurs(root); err != nil {
		return fmt.Errorf("keep a lab's state and keys: %w", err)
	}
	return underLock(root, func() error {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make state directory: %w", err)
		}
		if !vacant(dir) && !ours(dir) {
			return fmt.Errorf("%w: %s", ErrTaken, s.Name)
		}
		return saveState(dir, s)
	})
}

// release removes the directory of a lab that this process claimed, and no other.
func release(dir string) error {
	root := filepath.Dir(dir)
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return underLock(root, func() error {
		if !ours(dir) {
			return nil
		}
		return os.RemoveAll(dir)
	})
}

// ours says whether this process claimed a lab's directory.
func ours(dir string) bool {
	s := readState(dir)
	return !s.Torn && s.Driver == thisProcess()
}

// vacant says whether a directory holds nothing, or only the beginning of a state:
// its driver was killed between making it and writing that.
func vacant(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !durable.IsTempOf(e.Name(), stateFile) })
}

func saveState(dir string, s State) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, stateFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write lab state: %w", err)
	}
	return nil
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
	if full, err := remote.ExpandHome(file); err == nil {
		return full
	}
	return file
}

// Labs lists the labs under a state root, running or left over. What else is there:
// see Strays.
func Labs(root string) ([]State, error) {
	labs, _, err := listLabs(root)
	return labs, err
}

// Strays lists what is among the labs of a state root and is no lab: files, links,
// directories without a lab's state. This package does not read or remove them.
func Strays(root string) ([]string, error) {
	_, strays, err := listLabs(root)
	return strays, err
}

func listLabs(root string) (labs []State, strays []string, err error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list labs: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		_, err := os.Lstat(filepath.Join(dir, stateFile))
		if !e.IsDir() || err != nil && !vacant(dir) {
			strays = append(strays, dir)
			continue
		}
		labs = append(labs, readState(dir))
	}
	return labs, strays, nil
}

// readState reads the state of the lab in a directory. Its name is the directory's,
// whatever is written: labs are removed by it.
func readState(dir string) State {
	var s State
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	s.Torn = err != nil && !vacant(dir)
	if s.Name = filepath.Base(dir); s.Since.IsZero() {
		if info, err := os.Lstat(dir); err == nil {
			s.Since = info.ModTime()
		}
	}
	return s
}

// InUse says whether a living driver owns the lab. The one that brought a detached
// lab up has ended when it is up.
func (s State) InUse() bool { return s.Driver.Lives() }

// Left says whether the lab's owner died, and the lab was not meant to outlive it.
func (s State) Left() bool { return !s.Torn && !s.Detached && !s.InUse() }

// endLimit is how long a driver may take to end after a signal: it takes its lab down
// first.
const endLimit = teardownLimit + 30*time.Second

// EndOwner ends the living driver of a lab by a signal, as ^C does, and waits until it
// has taken its lab down. A driver that cannot be seen from here gets no signal; if it is on
// another computer, that is an error, since its lab cannot be taken down from here.
func (s State) EndOwner(ctx context.Context) error {
	if s.Driver.onOtherHost() && !s.Detached {
		return fmt.Errorf("lab %q is of driver %d on %s, and this is %s: take it down there; if that computer is gone for good, remove the lab's directory here", s.Name, s.Driver.PID, s.Driver.Host, hostName())
	}
	if !s.InUse() || s.Driver.Elsewhere() {
		return nil
	}
	// From here on no other process can have the number.
	fd, err := unix.PidfdOpen(s.Driver.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask driver %d to end: %w", s.Driver.PID, err)
	}
	defer unix.Close(fd)
	if !s.InUse() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ask driver %d to end: %w", s.Driver.PID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		if n, err := unix.Poll(poll, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for driver %d: %w", s.Driver.PID, err)
		} else if n > 0 {
			return nil
		}
	}
	return fmt.Errorf("wait for driver %d, which owns lab %q, to end: %w", s.Driver.PID, s.Name, ctx.Err())
}

// Clear takes down what is left of a lab, and removes its state. It does not touch what
// is no lab.
func Clear(ctx context.Context, root, name string) error {
	labs, err := Labs(root)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(labs, func(s State) bool { return s.Name == name }) {
		return nil // taken down already
	}
	dir := filepath.Join(root, name)
	if vacant(dir) {
		// Nothing was made yet. It may just be getting its state, and then it stays.
		return removeVacant(dir)
	}
	if err := clearRemote(ctx, root, name); err != nil {
		return fmt.Errorf("clear lab %q: %w", name, err)
	}
	if err := vm.Cleanup(ctx, dir); err != nil {
		return fmt.Errorf("clear lab %q: %w", name, err)
	}
	return nil
}

// removeVacant removes a directory that is vacant, and no other.
func removeVacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if durable.IsTempOf(e.Name(), stateFile) {
			errs = append(errs, removeIfThere(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(append(errs, removeIfThere(dir))...)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
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
			if err := newOther(h, filepath.Join(root, name), l.Remote, l.Token, i).clear(ctx); err != nil {
				errs = append(errs, fmt.Errorf("%w; if that computer is gone for good, remove %s", err, filepath.Join(root, name)))
			}
		}
	}
	return errors.Join(errs...)
}

// SweepRemote clears what labs whose driver died left on other computers, and returns
// their names. Those that it cannot clear, because a computer cannot be reached, are
// errors; a caller may go on with them.
func SweepRemote(ctx context.Context, root string) (cleared []string, err error) {
	labs, err := Labs(root)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, l := range labs {
		if !l.Left() || len(l.Hypervisors) == 0 {
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
		// Not under the lock: another computer may not answer. See SweepRemote.
		if !l.Left() || len(l.Hypervisors) > 0 {
			continue
		}
		if err := Clear(ctx, root, l.Name); err != nil {
			return cleared, err
		}
		cleared = append(cleared, l.Name)
	}
	return cleared, nil
}

// FreshName is a lab name that nothing under a state root has: the process's number,
// and a letter where a process of that number left a lab, or one of another PID
// namespace has it.
func FreshName(root, prefix string) string {
	name := prefix + strconv.Itoa(os.Getpid())
	for letter := 'a'; letter <= 'z'; letter++ {
		dir := filepath.Join(root, name)
		if _, err := os.Lstat(dir); err != nil || ours(dir) {
			break
		}
		name = prefix + strconv.Itoa(os.Getpid()) + string(letter)
	}
	return name
}

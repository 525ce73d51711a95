package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// State is the state of a machine.
type State string

// States of a machine. A machine that has ended is Gone: libvirt forgets it.
const (
	Running State = "running"
	Paused  State = "paused"
	Crashed State = "crashed"
	Gone    State = "gone"
)

// StartError is a machine that libvirt could not start.
type StartError struct {
	Machine string
	Log     string // the end of QEMU's log; may be empty
	Err     error
}

func (e *StartError) Error() string {
	msg := fmt.Sprintf("start machine %q: %v", e.Machine, e.Err)
	if e.Log != "" {
		msg += "; the end of QEMU's log: " + e.Log
	}
	return msg
}

func (e *StartError) Unwrap() error { return e.Err }

// Start defines and starts a machine. It runs until it ends by itself, or until
// Destroy or Close; unless the lab is detached, not longer than this process. If
// libvirt refuses, the error is a *StartError.
func (h *Hypervisor) Start(ctx context.Context, m Machine) error {
	text, err := h.describe(ctx, m)
	if err != nil {
		return fmt.Errorf("describe machine %q: %w", m.Name, err)
	}
	lookup := func() error { _, err := h.lv.DomainLookupByName(m.Name); return err }
	if err := h.checkUnused(ctx, &h.record.Machines, m.Name, lookup); err != nil {
		return fmt.Errorf("start machine %q: %w", m.Name, err)
	}
	if err := h.remember(&h.record.Machines, m.Name, m.UUID); err != nil {
		return fmt.Errorf("start machine %q: %w", m.Name, err)
	}
	if err := h.giveFiles(m); err != nil {
		return fmt.Errorf("start machine %q: %w", m.Name, err)
	}
	var flags libvirt.DomainCreateFlags
	if !h.cfg.Detached {
		flags = libvirt.DomainStartAutodestroy // when this connection ends
	}
	err = within(ctx, func() error { _, err := h.lv.DomainCreateXML(text, flags); return err })
	if err != nil {
		return &StartError{Machine: m.Name, Log: h.Log(ctx, m.Name), Err: err}
	}
	return nil
}

// describe is a machine as domain XML for this host.
func (h *Hypervisor) describe(ctx context.Context, m Machine) (string, error) {
	f, err := h.facts(ctx)
	if err != nil {
		return "", err
	}
	if err := f.supports(m.Accel); err != nil {
		return "", err
	}
	x, err := m.xml(f.models, f.as.User)
	if err != nil {
		return "", err
	}
	return x.Marshal()
}

// Log is QEMU's messages at the end of a machine's log, without the command line
// before them; "" if there are none.
func (h *Hypervisor) Log(ctx context.Context, name string) string {
	var said []string
	for line := range strings.Lines(h.logTail(ctx, "var/log/libvirt/qemu/"+name+".log")) {
		if line = strings.TrimSpace(line); strings.Contains(line, qemuBinary+": ") {
			said = append(said, line)
		}
	}
	return strings.Join(said, "; ")
}

// logTail is the end of a log of the computer that the machines run on, by its
// path below "/"; empty if it cannot be read, for example without root.
func (h *Hypervisor) logTail(ctx context.Context, path string) string {
	if h.cfg.Remote == nil {
		return logEnd(filepath.Join(h.root(), path))
	}
	out, _ := h.cfg.Remote.Run(ctx, "tail", "-c", "2048", "/"+path) // only adds to another error
	return string(out)
}

// Destroy ends a machine at once; it is not an error if there is none.
func (h *Hypervisor) Destroy(ctx context.Context, name string) error {
	return h.destroy(ctx, name, "")
}

// destroy ends a machine, if it has the UUID.
func (h *Hypervisor) destroy(ctx context.Context, name, uuid string) error {
	err := within(ctx, func() error {
		d, err := h.lv.DomainLookupByName(name)
		if err == nil && sameUUID(uuid, d.UUID) {
			err = h.lv.DomainDestroy(d)
		}
		return err
	})
	// It may have ended by itself between the two calls.
	if err != nil && !isNotFound(err) && !isCode(err, libvirt.ErrOperationInvalid) {
		return fmt.Errorf("destroy machine %q: %w", name, err)
	}
	return nil
}

// State reads the state of a machine; one that libvirt does not have is Gone.
func (h *Hypervisor) State(ctx context.Context, name string) (State, error) {
	state := Gone
	err := within(ctx, func() error {
		d, err := h.lv.DomainLookupByName(name)
		if err != nil {
			return err
		}
		n, _, err := h.lv.DomainGetState(d, 0)
		state = stateOf(libvirt.DomainState(n))
		return err
	})
	if isNotFound(err) {
		return Gone, nil
	}
	if err != nil {
		return "", fmt.Errorf("read state of machine %q: %w", name, err)
	}
	return state, nil
}

func stateOf(s libvirt.DomainState) State {
	switch s {
	case libvirt.DomainRunning, libvirt.DomainBlocked:
		return Running
	case libvirt.DomainPaused, libvirt.DomainPmsuspended:
		return Paused
	case libvirt.DomainCrashed:
		return Crashed
	default: // shutting down or off
		return Gone
	}
}

// Wait waits until a machine is in a state. A caller that waits for a guest's answer
// waits for Gone at the same time, to notice at once that there will be none.
func (h *Hypervisor) Wait(ctx context.Context, name string, want State) error {
	for {
		state, err := h.State(ctx, name)
		if err != nil || state == want {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for machine %q to be %s, it is %s: %w", name, want, state, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// AwaitEnd waits until libvirt has forgotten a machine that is Gone: its name is not
// free before.
func (h *Hypervisor) AwaitEnd(ctx context.Context, name string) error {
	for {
		names, err := h.List(ctx)
		if err != nil || !slices.Contains(names, name) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until libvirt has forgotten machine %q: %w", name, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// List is the names of all machines of libvirt, including those of other labs.
func (h *Hypervisor) List(ctx context.Context) ([]string, error) {
	var names []string
	err := within(ctx, func() error {
		domains, _, err := h.lv.ConnectListAllDomains(1, 0)
		for _, d := range domains {
			names = append(names, d.Name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	return names, nil
}

// CommandLine is the argument vector of a running machine's QEMU.
func (h *Hypervisor) CommandLine(ctx context.Context, name string) ([]string, error) {
	fail := func(err error) ([]string, error) {
		return nil, fmt.Errorf("read QEMU's command line of machine %q: %w", name, err)
	}
	if h.cfg.Remote != nil {
		line, err := h.cfg.Remote.Run(ctx, "sh", "-c", findCommandLine, "sh", name)
		if err != nil {
			return fail(err)
		}
		return arguments(line), nil
	}
	// Numbers in a private libvirtd's /run are those of its /proc.
	pid, err := os.ReadFile(filepath.Join(h.root(), "run/libvirt/qemu", name+".pid"))
	if err != nil {
		return fail(err)
	}
	line, err := os.ReadFile(filepath.Join(h.root(), "proc", strings.TrimSpace(string(pid)), "cmdline"))
	if err != nil {
		return fail(err)
	}
	return arguments(line), nil
}

// findCommandLine looks for machine $1 in /proc, which every user may read; only root
// may read the file with its process number. libvirt names a guest in its command
// line: "guest=NAME,debug-threads=on".
const findCommandLine = `file=$(grep -l -a -F "guest=$1," /proc/[0-9]*/cmdline 2>/dev/null | while read -r f; do
	case $(head -c 256 "$f" | tr '\0' ' ') in *qemu*) echo "$f"; break;; esac
done)
[ -n "$file" ] || { echo "no process of it" >&2; exit 1; }
exec cat "$file"`

// arguments are the arguments in a /proc/PID/cmdline.
func arguments(line []byte) []string {
	return strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
}

// sweep ends the machines and networks that the record names.
func (h *Hypervisor) sweep(ctx context.Context) error {
	var errs []error
	for _, name := range h.record.Machines {
		errs = append(errs, h.destroy(ctx, name, h.record.UUIDs[name]))
	}
	for _, name := range h.record.Networks {
		errs = append(errs, h.destroyNetwork(ctx, name, h.record.UUIDs[name]))
	}
	return errors.Join(errs...)
}

func isNotFound(err error) bool {
	return isCode(err, libvirt.ErrNoDomain) || isCode(err, libvirt.ErrNoNetwork)
}

func isCode(err error, code libvirt.ErrorNumber) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == uint32(code)
}

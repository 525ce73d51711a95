// Package ftrace records what the kernel does for a flow: the functions that it enters, by the
// function graph tracer; the packets that it drops, by an event; and the instructions that it
// executes, by a counter of the CPU. It works on tracefs (Documentation/trace/ftrace.rst) and
// leaves every file there as it found it.
package ftrace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hookbed/driver/guest/fault"
)

// Record is what a recording has.
type Record struct {
	Text   string
	Note   string
	Values map[string]float64
}

// tree is tracefs, mounted where nothing but this process has it.
type tree struct {
	mount    *os.File
	root     string
	journals string // directory of those of its recordings
}

// openTree mounts tracefs without a place in the file system (fsmount, Linux 5.2), so that no mount
// is left or missing afterwards. All mounts of tracefs show the same files.
func openTree() (*tree, error) {
	fs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return nil, fault.Unsupported("this kernel (%s) has no tracefs", fault.KernelRelease())
	}
	if err != nil {
		return nil, fmt.Errorf("open tracefs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("configure tracefs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount tracefs: %w", err)
	}
	return &tree{os.NewFile(uintptr(fd), "tracefs"), fmt.Sprintf("/proc/self/fd/%d", fd), journals}, nil
}

func (t *tree) Close() error { return t.mount.Close() }

// instances is the directory of tracing instances, each with a buffer and settings of its own.
const (
	instances      = "instances"
	instancePrefix = "hookbed-"
)

// makeInstance makes an instance of this process and returns its directory. It first puts back what
// processes left that are gone, and removes their instances.
func (t *tree) makeInstance(purpose string) (string, error) {
	if initialPIDs() {
		if err := t.putBack(); err != nil {
			return "", err
		}
	}
	t.sweep()
	dir := filepath.Join(instances, instancePrefix+purpose+"-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(filepath.Join(t.root, dir), 0o700); err != nil {
		return "", fmt.Errorf("make a tracing instance: %w", err)
	}
	return dir, nil
}

// sweep removes the instances of helpers that were killed before they could.
func (t *tree) sweep() {
	if !initialPIDs() {
		return // the numbers in the names mean other processes here
	}
	found, _ := filepath.Glob(filepath.Join(t.root, instances, instancePrefix+"*"))
	for _, dir := range found {
		pid := dir[strings.LastIndexByte(dir, '-')+1:]
		if _, err := os.Stat(filepath.Join("/proc", pid)); errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(dir)
		}
	}
}

func (t *tree) removeInstance(dir string) error {
	if err := os.Remove(filepath.Join(t.root, dir)); err != nil {
		return fmt.Errorf("remove tracing instance %s: %w", dir, err)
	}
	return nil
}

// initialPIDs says whether this process is in the first PID namespace (PROC_PID_INIT_INO in
// include/linux/proc_ns.h), whose numbers tracefs takes.
func initialPIDs() bool {
	ns, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && ns == "pid:[4026531836]"
}

func (t *tree) read(file string) (string, error) {
	data, err := os.ReadFile(filepath.Join(t.root, file))
	return strings.TrimSpace(string(data)), err
}

// write replaces what a file holds; a list is emptied first.
func (t *tree) write(file, value string) error {
	return t.put(file, value, os.O_WRONLY|os.O_TRUNC)
}

// add appends to a list.
func (t *tree) add(file, value string) error {
	return t.put(file, value, os.O_WRONLY|os.O_APPEND)
}

func (t *tree) put(file, value string, how int) error {
	f, err := os.OpenFile(filepath.Join(t.root, file), how, 0)
	if err != nil {
		return fmt.Errorf("set %s of tracefs: %w", file, err)
	}
	if value != "" {
		_, err = f.WriteString(value + "\n")
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set %s of tracefs to %q: %w", file, value, err)
	}
	return nil
}

func (t *tree) has(file string) bool {
	_, err := os.Stat(filepath.Join(t.root, file))
	return err == nil
}

// settings are files of tracefs that were changed, and what they held, oldest first.
type settings struct {
	t       *tree
	found   []setting
	journal *journal // nil: none is kept
}

type setting struct{ file, value string }

// set changes a file, unless it holds the value already, and remembers what it held.
func (s *settings) set(file, value string) error {
	text, err := s.t.read(file)
	if err != nil {
		return fmt.Errorf("read %s of tracefs: %w", file, err)
	}
	held := parseHeld(text)
	if held == value {
		return nil
	}
	if err := s.remember(setting{file, held}); err != nil {
		return err
	}
	return s.t.write(file, value)
}

// remember has restore put a file back, and Recover if this process is killed before.
func (s *settings) remember(held setting) error {
	if s.journal != nil {
		if err := s.journal.note(held); err != nil {
			return err
		}
	}
	s.found = append(s.found, held)
	return nil
}

// empty empties a list that is then added to, and remembers what it held.
func (s *settings) empty(file string) error {
	text, err := s.t.read(file)
	if err != nil {
		return fmt.Errorf("read %s of tracefs: %w", file, err)
	}
	if err := s.remember(setting{file, parseHeld(text)}); err != nil {
		return err
	}
	return s.t.write(file, "")
}

// setIfThere does so for a file that not every kernel has.
func (s *settings) setIfThere(file, value string) error {
	if !s.t.has(file) {
		return nil
	}
	return s.set(file, value)
}

// restore puts every file back, the newest first. A further call does nothing.
func (s *settings) restore() error {
	var errs []error
	for _, f := range slices.Backward(s.found) {
		errs = append(errs, s.t.write(f.file, f.value))
	}
	s.found = nil
	if s.journal != nil {
		errs = append(errs, s.journal.end())
		s.journal = nil
	}
	return errors.Join(errs...)
}

// parseHeld is what must be written to a file of tracefs so that it reads as text again: of a
// choice the one in brackets; of a list that is empty, which the kernel words as a remark, nothing.
// A buffer that was never used reads "7 (expanded: 1408)" and is expanded by its first use for good
// (ring_buffer_expanded in kernel/trace/trace.c); what it then has is the second number.
func parseHeld(text string) string {
	if strings.HasPrefix(text, "#") || text == "no pid" {
		return ""
	}
	if _, rest, ok := strings.Cut(text, "(expanded: "); ok {
		return strings.TrimSuffix(rest, ")")
	}
	if _, rest, ok := strings.Cut(text, "["); ok {
		if chosen, _, ok := strings.Cut(rest, "]"); ok {
			return chosen
		}
	}
	return text
}

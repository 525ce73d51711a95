// Package sealed is the first process of a guest without network and disk: it executes a
// block of trials from the initramfs, and powers the machine off.
package sealed

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/mark"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
)

// A sealed guest has no network and no disk: this helper is its first process,
// what it executes lies in the initramfs, and results leave by the second
// serial port. Nothing in it waits for anything outside, so that in virtual
// time the same block gives the same bytes.
const (
	sealedModules  = "/lib/modules/load"
	modulesHTTP    = "/lib/modules/load-http" // there only with sealedHTTP
	sealedRoot     = "/run/hookbed/endpoint"
	sealedExternal = "/run/hookbed/peers" // there only where a block needs it
	sealedHTTP     = "/run/hookbed/http"  // likewise
	sealedOut      = "/dev/ttyS1"
)

// IsFirstProcess says whether this process is the first of a sealed guest.
func IsFirstProcess() bool { return os.Getpid() == 1 && len(os.Args) > 0 && os.Args[0] == "/init" }

// Run executes the block and powers the machine off, whatever happened:
// results that do not end with SealedEnd show the driver that something went wrong.
func Run(ctx context.Context, errOut io.Writer) error {
	err := seal(ctx)
	if err != nil {
		// The console is the serial port that is not parsed.
		fmt.Fprintln(errOut, "hookbed: sealed guest:", err)
	}
	return errors.Join(err, unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

func seal(ctx context.Context) error {
	if err := PrepareMachine(); err != nil {
		return err
	}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return fmt.Errorf("read the processor's flags: %w", err)
	}
	if err := checkCopies(string(cpu)); err != nil {
		return err
	}
	// Garbage is collected between workloads only (settle).
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(proc.QuietLimit)
	data, err := os.ReadFile(bundle.SealedBlock)
	if err != nil {
		return fmt.Errorf("read block: %w", err)
	}
	var block bundle.Sealed
	if err := json.Unmarshal(data, &block); err != nil {
		return fmt.Errorf("decode block: %w", err)
	}
	if block.Schema != bundle.Schema {
		return fmt.Errorf("step language version %d is not spoken here, only %d", block.Schema, bundle.Schema)
	}
	if block.Symbols {
		// The first thing that is loaded may be a program of the first setup.
		if err := os.WriteFile("/proc/sys/net/core/bpf_jit_kallsyms", []byte("1\n"), 0); err != nil {
			return fmt.Errorf("have the kernel list BPF programs: %w", err)
		}
	}
	out, err := openRaw(sealedOut)
	if err != nil {
		return err
	}
	defer out.Close()
	hello := bundle.Hello{Schema: bundle.Schema, Node: "sealed", Blobs: bundle.SealedBlobs, EndpointRoot: sealedRoot, ExternalRoot: sealedExternal, HTTPRoot: sealedHTTP}
	s := sealedRun{ctx: ctx, out: out, start: func() (*childHelper, error) { return startChild(hello) }, settle: settle, show: mark.Symbols}
	return s.block(block)
}

// PrepareMachine mounts in an empty initramfs what programs expect, and loads its modules.
func PrepareMachine() error {
	mounts := []struct{ source, target, kind, data string }{
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""},
		{"devtmpfs", "/dev", "devtmpfs", ""},
		{"tmpfs", "/tmp", "tmpfs", "mode=1777"},
		{"bpf", "/sys/fs/bpf", "bpf", ""},
	}
	// The server of HTTP may need a cgroup of its own.
	if _, err := os.Stat(sealedHTTP); err == nil {
		mounts = append(mounts, struct{ source, target, kind, data string }{"cgroup2", "/sys/fs/cgroup", "cgroup2", ""})
	}
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := unix.Mount(m.source, m.target, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := os.MkdirAll("/run", 0o755); err != nil {
		return fmt.Errorf("make /run: %w", err)
	}
	if err := noHugePages(); err != nil {
		return err
	}
	if err := evenTurns(); err != nil {
		return err
	}
	// All modules are loaded here; asking for one later would start a program
	// that does not exist.
	if err := loadModules(); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte("\n"), 0); err != nil {
		return fmt.Errorf("turn module requests off: %w", err)
	}
	return netns.LoopbackUp()
}

// noHugePages stops khugepaged, which every few seconds joins pages of the process that runs:
// 20 ms of a workload, if it falls into one. A kernel without it has nothing to stop.
func noHugePages() error {
	err := os.WriteFile("/sys/kernel/mm/transparent_hugepage/enabled", []byte("never"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("turn transparent huge pages off: %w", err)
	}
	return nil
}

// loadModules loads the listed modules in their order.
func loadModules() error {
	list, err := os.ReadFile(sealedModules)
	if err != nil {
		return fmt.Errorf("read list of modules: %w", err)
	}
	more, err := os.ReadFile(modulesHTTP)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read list of modules: %w", err)
	}
	list = append(list, more...)
	for _, path := range strings.Fields(string(list)) {
		if err := loadModule(path); err != nil {
			return fmt.Errorf("load module %s: %w", path, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// openRaw opens a terminal device on which bytes arrive as they were written.
func openRaw(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open results port: %w", err)
	}
	term, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err == nil {
		term.Oflag &^= unix.OPOST
		term.Cflag = term.Cflag&^unix.CBAUD | unix.B115200
		err = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, term)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up results port: %w", err), f.Close())
	}
	return f, nil
}

// childHelper is a conversation with a helper that holds the nodes of one setup.
type childHelper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startChild starts this very program as the helper of one setup, as the
// local provider does.
func startChild(hello bundle.Hello) (*childHelper, error) {
	cmd := exec.Command("/proc/self/exe", "serve", "--node-netns", "--quiet")
	cmd.Stderr = io.Discard
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start helper: %w", err)
	}
	h := &childHelper{cmd: cmd, in: in, out: bufio.NewReader(out)}
	if r := h.call(bundle.Request{Hello: &hello}); r.Error != "" {
		return nil, errors.Join(fmt.Errorf("greet helper: %s", r.Error), h.close())
	}
	return h, nil
}

// call sends a request; a helper that does not answer is the rig's fault.
func (h *childHelper) call(req bundle.Request) bundle.Reply {
	fail := func(err error) bundle.Reply {
		return bundle.Reply{Error: "helper is gone: " + err.Error(), Fault: bundle.FaultRig}
	}
	line, err := json.Marshal(req)
	if err != nil {
		return fail(err)
	}
	if _, err := h.in.Write(append(line, '\n')); err != nil {
		return fail(err)
	}
	line, err = h.out.ReadBytes('\n')
	if err != nil {
		return fail(err)
	}
	var reply bundle.Reply
	if err := json.Unmarshal(line, &reply); err != nil {
		return fail(err)
	}
	return reply
}

// close makes the helper undo everything and waits for its end.
func (h *childHelper) close() error {
	return errors.Join(h.in.Close(), h.cmd.Wait())
}

// sealedRun executes a block and writes what came of it.
type sealedRun struct {
	ctx    context.Context
	out    io.Writer
	start  func() (*childHelper, error)
	settle func() // waits until the machine is quiet
	// show shows the kernel's symbols before each workload.
	show    func(kallsyms []byte)
	symbols bool               // it is wanted
	warm    bool               // a workload has run
	at      bundle.SealedReply // of the next line
}

func (s *sealedRun) block(b bundle.Sealed) error {
	if err := s.facts(); err != nil {
		return err
	}
	s.symbols = b.Symbols
	for i, setup := range b.Setups {
		if i > 0 && !s.warm {
			if err := s.warmUp(setup); err != nil {
				return fmt.Errorf("warm up with setup %s: %w", setup.Name, err)
			}
		}
		s.at = bundle.SealedReply{Setup: i, Trial: -1}
		if err := s.setup(setup); err != nil {
			return fmt.Errorf("setup %s: %w", setup.Name, err)
		}
	}
	mark.Close()
	s.at = bundle.SealedReply{Setup: len(b.Setups), Trial: -1}
	return s.say(bundle.SealedEnd, 0, bundle.Reply{})
}

// warmUp runs the first trial of a setup and writes nothing of it. The setup with which a block begins
// is not used (campaign.Compose): it warms the guest up, which it does not where the kernel does not
// support it. Marks are as in that setup.
func (s *sealedRun) warmUp(setup bundle.SealedSetup) error {
	results := s.out
	s.out, s.at = io.Discard, bundle.SealedReply{Trial: -1}
	setup.Trials = setup.Trials[:min(1, len(setup.Trials))]
	err := s.setup(setup)
	s.out = results
	return err
}

// say writes one line and waits until it has left, so that no interrupt of the
// port falls into what comes next.
func (s *sealedRun) say(phase string, chunk int, reply bundle.Reply) error {
	line := s.at
	line.Phase, line.Chunk, line.Reply = phase, chunk, reply
	data, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	if _, err := s.out.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	if f, ok := s.out.(*os.File); ok {
		// tcdrain(3); on what is no terminal there is nothing to wait for.
		_ = unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1)
	}
	return nil
}

func (s *sealedRun) facts() error {
	h, err := s.start()
	if err != nil {
		return err
	}
	s.at = bundle.SealedReply{Trial: -1}
	reply := h.call(bundle.Request{Facts: true})
	return errors.Join(s.say(bundle.SealedFacts, 0, reply), h.close())
}

// setup runs one setup. Errors are those of writing results only: whatever
// else fails is a result.
func (s *sealedRun) setup(setup bundle.SealedSetup) error {
	h, err := s.start()
	if err != nil {
		return s.say(string(bundle.Apply), 0, bundle.Reply{Error: err.Error(), Fault: bundle.FaultRig})
	}
	ok, err := s.chunks(h, string(bundle.Apply), setup.Apply)
	for i := 0; ok && err == nil && i < len(setup.Trials); i++ {
		s.at.Trial = i
		err = s.trial(h, setup.Trials[i])
	}
	s.at.Trial = -1
	var reply bundle.Reply
	if cerr := h.close(); cerr != nil {
		reply = bundle.Reply{Error: cerr.Error(), Fault: bundle.FaultRig}
	}
	return errors.Join(err, s.say(bundle.SealedClose, 0, reply))
}

func (s *sealedRun) trial(h *childHelper, t bundle.SealedTrial) error {
	begun := h.call(bundle.Request{Mark: true, Trial: &bundle.SealedAt{Setup: s.at.Setup, Trial: s.at.Trial}})
	if begun.Error != "" {
		return s.say(bundle.SealedUndo, 0, begun)
	}
	ok, err := s.chunks(h, string(bundle.Prove), t.Prove)
	if ok && err == nil {
		ok, err = s.showSymbols()
	}
	if ok && err == nil {
		s.settle()
		ok, err = s.chunks(h, string(bundle.Run), t.Run)
		s.warm = s.warm || ok
	}
	undo := h.call(bundle.Request{UndoTo: &begun.Mark})
	return errors.Join(err, s.say(bundle.SealedUndo, 0, undo))
}

// showSymbols shows the kernel's symbols if that is wanted: after the trial's programs were loaded, and
// before the machine settles.
func (s *sealedRun) showSymbols() (ok bool, err error) {
	if !s.symbols {
		return true, nil
	}
	text, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		return false, s.say(string(bundle.Run), 0, bundle.Reply{Error: "read the kernel's symbols: " + err.Error(), Fault: bundle.FaultRig})
	}
	s.show(text)
	return true, nil
}

// chunks executes chunks until one fails.
func (s *sealedRun) chunks(h *childHelper, phase string, chunks []bundle.Steps) (ok bool, err error) {
	for i, c := range chunks {
		reply := h.call(bundle.Request{Exec: &c})
		if err := s.say(phase, i, reply); err != nil {
			return false, err
		}
		if reply.Error != "" || s.ctx.Err() != nil {
			return false, nil //nolint:nilerr // the failure is in the reply that was just written
		}
	}
	return true, nil
}

// Settling: the machine is quiet when for this many looks in a row no more than
// one tick of the clock found it at work. Looks are bounded.
const (
	quietLooks = 5
	mostLooks  = 100
	lookEvery  = 200 * time.Millisecond
)

// settle collects this process's garbage and waits until what the kernel still
// does of its own - freeing maps, namespaces and sockets of what was before - is
// over, because either would take its time from whatever is measured next. Waiting
// is free in virtual time.
func settle() {
	debug.FreeOSMemory()
	before := busySeconds()
	for quiet, looks := 0, 0; quiet < quietLooks && looks < mostLooks; looks++ {
		time.Sleep(lookEvery)
		now := busySeconds()
		quiet++
		if now > before+1.5/proc.UserHZ {
			quiet = 0
		}
		before = now
	}
}

// busySeconds is how long the machine's CPU has not been idle.
func busySeconds() float64 {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	busy := 0.0
	for state, s := range proc.ParseCPU(string(data)) {
		if state != "idle" && state != "iowait" {
			busy += s
		}
	}
	return busy
}

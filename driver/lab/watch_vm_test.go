//go:build vm

package lab_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/campaign"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/vm"
	"hookbed/driver/watch"
	"hookbed/driver/workload"
	"hookbed/images"
)

// watchedExperiment is one short cell: the filter's rules, sockets, interrupts, page faults, programs
// that start and end.
const watchedExperiment = `
schema = 1
name = "watched"
[lab]
clock = "virtual"
[measure]
seeds = 1
warmup = "0s"
count = { TCP_RR = 30 }
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [10]
[[arm]]
name = "iptables"
datapath = "iptables"
`

// account compares a window's instructions with the guest's clock.
type account struct {
	marks   []string
	symbols []byte

	begin, last  uint64 // ns: of the window, and of the last reading
	instructions uint64 // since the last reading
	halted       bool   // since then

	all, idle, clocks, off, defined uint64
	wrong                           []string
}

func (a *account) Define(b *watch.Block) {
	if b.ID != uint32(a.defined) {
		a.wrong = append(a.wrong, fmt.Sprintf("block %d is defined as number %d", b.ID, a.defined))
	}
	a.defined++
}

func (a *account) Ran(b *watch.Block, n int, _ []watch.StackAccess) {
	a.instructions += uint64(n)
	a.all += uint64(n)
	a.halted = a.halted || b.Kind == watch.Halt && n == len(b.Size)
}

func (a *account) Clock(ns uint64) {
	a.clocks++
	passed := ns - a.last - a.instructions<<vm.ICountShift
	switch {
	case a.halted:
		a.idle += passed
	case passed != 0:
		a.off++
		a.wrong = append(a.wrong, fmt.Sprintf("at %d ns, after %d instructions, the clock is %d ns off", ns, a.instructions, int64(passed)))
	}
	a.last, a.instructions, a.halted = ns, 0, false
}

func (a *account) Mark(id watch.MarkID, setup, trial int64, ns uint64) {
	a.marks = append(a.marks, fmt.Sprintf("%d %d %d", id, setup, trial))
	if id == watch.MarkBegin {
		a.begin, a.last, a.instructions = ns, ns, 0
		return
	}
	if passed := ns - a.begin; passed != a.idle+a.all<<vm.ICountShift || ns != a.last {
		a.wrong = append(a.wrong, fmt.Sprintf("the window has %d ns, of which %d idle, and %d instructions", passed, a.idle, a.all))
	}
}

func (a *account) Symbols(text []byte) { a.symbols = text }

// sealer is a lab of sealed guests and the block of watchedExperiment.
func sealer(t *testing.T) (*lab.Sealer, lab.SealedBlock, *vm.Plugin, string) {
	t.Helper()
	dir := t.TempDir()
	guest := filepath.Join(dir, "guest")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", guest, "hookbed/driver/guest")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	catalog := plan.Catalog{Datapaths: datapath.Catalog(), Workloads: workload.Catalog(), Kernels: images.Kernels(), NICs: images.NICs()}
	spec, err := plan.Parse("watched.toml", []byte(watchedExperiment), catalog)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Expand(spec, catalog)
	if err != nil {
		t.Fatal(err)
	}
	block, err := campaign.Compose(p, 1)
	if err != nil {
		t.Fatal(err)
	}
	block.Block.Symbols = true
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	qemu, err := vm.QEMUVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plugin, err := watch.Build(t.Context(), store.Dir(), qemu)
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "lab")
	s, err := lab.OpenSealer(t.Context(), lab.Config{Name: "watched", Experiment: "watched", Lab: p.Spec.Lab, Nodes: 1, Store: store, StateDir: state, GuestPath: guest})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return s, block, &vm.Plugin{Path: plugin.Path}, state
}

// TestVMWatchedGuest: what a guest writes does not depend on whether it is watched, and what is
// watched is exact to the instruction.
func TestVMWatchedGuest(t *testing.T) {
	t.Parallel() // a guest uses one CPU
	s, block, plugin, state := sealer(t)
	plain, err := s.Run(t.Context(), block, nil)
	if err != nil {
		t.Fatal(err)
	}
	var a account
	// The second setup is the first that is measured.
	plugin.Args = []string{"setup=1", "trial=0"}
	block.Plugin, block.Watch = plugin, func(r io.Reader) error { return watch.Decode(r, &a) }
	watched, err := s.Run(t.Context(), block, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(watched, plain) {
		t.Error("the watched guest wrote other results")
	}
	if got := strings.Join(a.marks, ", "); got != "1 1 0, 2 1 0" {
		t.Errorf("marks %s, want one window", got)
	}
	if len(a.wrong) > 0 {
		t.Errorf("%d of %d clock readings are off; %s", a.off, a.clocks, strings.Join(a.wrong[:min(len(a.wrong), 20)], "\n"))
	}
	if a.clocks < 100 || a.all < 1_000_000 {
		t.Errorf("the window has %d clock readings, %d instructions, %d ns idle", a.clocks, a.all, a.idle)
	}
	for _, function := range []string{" T tcp_sendmsg\n", " ipt_do_table\t[ip_tables]\n"} {
		if !bytes.Contains(a.symbols, []byte(function)) {
			t.Errorf("the symbols lack %q", function)
		}
	}
	if left, err := os.ReadDir(state); err != nil || strings.Contains(fmt.Sprint(left), "stream") {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
}

// TestVMWatchFails: a plugin that QEMU refuses, and a watcher that fails, are errors that say so, and
// end the guest.
func TestVMWatchFails(t *testing.T) {
	t.Parallel() // a guest uses one CPU
	s, block, plugin, state := sealer(t)
	block.Plugin, block.Watch = &vm.Plugin{Path: plugin.Path, Args: []string{"nonsense=1"}}, func(r io.Reader) error { return watch.Decode(r, &account{}) }
	_, err := s.Run(t.Context(), block, nil)
	var refused *vm.StartError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "hookbed's trace plugin: it has no argument: nonsense=1") {
		t.Errorf("error %v, want what the plugin says", err)
	}
	wrong := errors.New("no room for what was seen")
	block.Plugin, block.Watch = plugin, func(r io.Reader) error {
		_, err := io.ReadFull(r, make([]byte, 1<<20))
		return errors.Join(err, wrong)
	}
	replies := 0
	_, err = s.Run(t.Context(), block, func(bundle.SealedReply) { replies++ })
	if !errors.Is(err, wrong) || replies == 0 {
		t.Errorf("error %v after %d results, want the watcher's", err, replies)
	}
	if left, err := os.ReadDir(state); err != nil || strings.Contains(fmt.Sprint(left), "block") {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
}

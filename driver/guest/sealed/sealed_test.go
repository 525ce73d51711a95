package sealed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
	"hookbed/driver/guest/step"
)

// TestMain lets the test binary stand in for the helper of a setup.
func TestMain(m *testing.M) {
	runtime.LockOSThread() // as the helper's main does
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case proc.FirstProcessCommand:
			end(proc.FirstProcess(os.Args[2:]...))
		case "serve":
			end(serve())
		}
	}
	if os.Getuid() != 0 {
		end(errors.New("the helper's tests make network namespaces and must run as root"))
	}
	os.Exit(m.Run())
}

// serve is what the helper does as startChild starts it.
func serve() error {
	if err := netns.Isolate(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return step.Serve(context.Background(), os.Stdin, os.Stdout, log, step.ServeOptions{Private: true, Quiet: true})
}

// end ends the process.
func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// sealedReplies executes a block here, with real helpers, and returns what a
// sealed guest would have written.
func sealedReplies(t *testing.T, ctx context.Context, b bundle.Sealed) []bundle.SealedReply {
	t.Helper()
	var out bytes.Buffer
	settled, shown := 0, 0
	show := func(text []byte) {
		if shown++; shown != settled+1 || !bytes.Contains(text, []byte(" T ")) {
			t.Errorf("symbols of %d bytes were shown after the machine had settled for the same workload", len(text))
		}
	}
	s := sealedRun{ctx: ctx, out: &out, settle: func() { settled++ }, show: show, start: func() (*childHelper, error) {
		return startChild(bundle.Hello{Schema: bundle.Schema, Node: "test", Blobs: t.TempDir()})
	}}
	if err := s.block(b); err != nil {
		t.Fatal(err)
	}
	replies, runs := repliesIn(t, out.String()), 0
	for _, r := range replies {
		if r.Phase == string(bundle.Run) && r.Chunk == 0 {
			runs++
		}
	}
	if settled != runs {
		t.Errorf("the machine settled %d times, want once before each of %d workloads", settled, runs)
	}
	if want := map[bool]int{true: runs}[b.Symbols]; shown != want {
		t.Errorf("symbols were shown %d times, want %d", shown, want)
	}
	return replies
}

// repliesIn are the lines that a sealed guest writes.
func repliesIn(t *testing.T, text string) (out []bundle.SealedReply) {
	t.Helper()
	for line := range strings.Lines(text) {
		var r bundle.SealedReply
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		out = append(out, r)
	}
	return out
}

func onNode(do ...bundle.Action) []bundle.Steps {
	var steps []bundle.Step
	for _, a := range do {
		steps = append(steps, bundle.Step{Node: "", Phase: bundle.Apply, Do: a})
	}
	return []bundle.Steps{{Name: "test", Steps: steps}}
}

// told is a reply as the order of phases shows it.
func told(replies []bundle.SealedReply) []string {
	var out []string
	for _, r := range replies {
		text := fmt.Sprintf("%d/%d %s %d", r.Setup, r.Trial, r.Phase, r.Chunk)
		if r.Reply.Error != "" {
			text += " " + r.Reply.Fault
		}
		out = append(out, text)
	}
	return out
}

// TestSealedBlockGoesOnAfterFailures: a failed proof ends its trial, a failed
// apply its setup, and nothing else.
func TestSealedBlockGoesOnAfterFailures(t *testing.T) {
	endpoint := onNode(bundle.Netns{Name: "client"})
	works := []bundle.Steps{{Name: "test", Steps: []bundle.Step{{In: "client", Phase: bundle.Prove, Do: bundle.Veth{Link: "a0", Peer: "b0", PeerIn: "client"}}}}}
	fails := []bundle.Steps{{Name: "test", Steps: []bundle.Step{{In: "client", Phase: bundle.Prove, Do: bundle.SetLink{Link: "nosuch", Up: true}}}}}
	got := told(sealedReplies(t, t.Context(), bundle.Sealed{Schema: bundle.Schema, Setups: []bundle.SealedSetup{
		{Name: "one", Apply: endpoint, Trials: []bundle.SealedTrial{
			{Name: "a", Prove: works, Run: onNode(bundle.Netns{Name: "other"})},
			{Name: "b", Prove: fails, Run: works},
			{Name: "c", Prove: works, Run: fails}, // the link of the first trial was undone
		}},
		{Name: "two", Apply: fails, Trials: []bundle.SealedTrial{{Name: "a", Prove: works}}},
		{Name: "three", Apply: endpoint},
	}}))
	want := []string{
		"0/-1 facts 0",
		"0/-1 apply 0", "0/0 prove 0", "0/0 run 0", "0/0 undo 0", "0/1 prove 0 rig", "0/1 undo 0", "0/2 prove 0", "0/2 run 0 rig", "0/2 undo 0", "0/-1 close 0",
		"1/-1 apply 0 rig", "1/-1 close 0",
		"2/-1 apply 0", "2/-1 close 0",
		"3/-1 end 0",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestWarmUpGoesOn: until a workload has run, the first trial of each setup warms the guest up. What
// comes of it is not written, and what is written does not show it.
func TestWarmUpGoesOn(t *testing.T) {
	made := onNode(bundle.Netns{Name: "client"})
	fails := onNode(bundle.SetLink{Link: "nosuch", Up: true})
	trials := []bundle.SealedTrial{{Name: "a", Run: made}, {Name: "b", Run: made}}
	got := func(setups ...bundle.SealedSetup) (lines []string, workloads int) {
		var out bytes.Buffer
		s := sealedRun{ctx: t.Context(), out: &out, settle: func() { workloads++ }, start: func() (*childHelper, error) {
			return startChild(bundle.Hello{Schema: bundle.Schema, Node: "test", Blobs: t.TempDir()})
		}}
		if err := s.block(bundle.Sealed{Schema: bundle.Schema, Setups: setups}); err != nil {
			t.Fatal(err)
		}
		return told(repliesIn(t, out.String())), workloads
	}
	works, refused := bundle.SealedSetup{Name: "works", Trials: trials}, bundle.SealedSetup{Name: "refused", Apply: fails, Trials: trials}
	lines, workloads := got(refused, refused, works, works)
	want := []string{
		"0/-1 facts 0",
		"0/-1 apply 0 rig", "0/-1 close 0",
		"1/-1 apply 0 rig", "1/-1 close 0",
		"2/0 run 0", "2/0 undo 0", "2/1 run 0", "2/1 undo 0", "2/-1 close 0",
		"3/0 run 0", "3/0 undo 0", "3/1 run 0", "3/1 undo 0", "3/-1 close 0",
		"4/-1 end 0",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if workloads != 5 {
		t.Errorf("%d workloads ran, want four, and one that warms the guest up", workloads)
	}
	if _, workloads := got(works, refused, works); workloads != 4 {
		t.Errorf("%d workloads ran behind a setup that warmed the guest up, want four", workloads)
	}
}

// TestSymbolsAreShownBeforeWorkloads: where the block wants them, once for each.
func TestSymbolsAreShownBeforeWorkloads(t *testing.T) {
	steps := onNode(bundle.Netns{Name: "client"})
	setup := bundle.SealedSetup{Name: "one", Trials: []bundle.SealedTrial{{Name: "a", Run: steps}, {Name: "b", Run: steps}}}
	sealedReplies(t, t.Context(), bundle.Sealed{Schema: bundle.Schema, Setups: []bundle.SealedSetup{setup, setup}, Symbols: true})
}

func TestQuietMachineSettles(t *testing.T) {
	if busySeconds() <= 0 {
		t.Error("a machine that runs this test was never busy")
	}
}

func TestOnlyTheFirstProcessIsSealed(t *testing.T) {
	if IsFirstProcess() {
		t.Error("this test takes itself for the first process of a sealed guest")
	}
}

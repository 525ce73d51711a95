package step

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/guesttest"
)

// together makes a step of several endpoints' actions.
func together(do map[string]bundle.Action) bundle.Parallel {
	var p bundle.Parallel
	for _, in := range []string{"client", "server", "nobody"} {
		if a, ok := do[in]; ok {
			p.Steps = append(p.Steps, bundle.Step{Node: "node1", Phase: bundle.Run, In: in, Do: a})
		}
	}
	return p
}

func shell(out, script string, limit float64) bundle.Exec {
	return bundle.Exec{Argv: []string{"sh", "-c", script}, Timeout: limit, Out: out}
}

// TestParallelPrograms: programs run together, each in its own namespace, with
// outputs of their own, and none of them before all are there.
func TestParallelPrograms(t *testing.T) {
	r := newRig(t)
	r.pair()
	// How many there are, as each of them sees when it begins, the shells' own
	// children included. None ends before all have looked.
	script := ": MARK410082; cd " + t.TempDir() + "; grep -la '[M]ARK410082' /proc/[0-9]*/cmdline 2>/dev/null | wc -l; readlink /proc/self/ns/net; " +
		": >$$; while set -- *; [ $# -lt 12 ]; do sleep 0.1; done; sleep 2"
	p := together(map[string]bundle.Action{"client": shell("client.txt", script, 600), "server": shell("server.txt", script, 600)})
	for i := range 10 {
		p.Steps = append(p.Steps, bundle.Step{Node: "node1", Phase: bundle.Run, In: "client", Do: shell(fmt.Sprint("more", i, ".txt"), script, 600)})
	}
	result := r.must("", p)
	space := map[string]bool{}
	if len(r.raw) != 12 {
		t.Fatalf("%d raw files, want 12", len(r.raw))
	}
	for name, text := range r.raw {
		lines := strings.Fields(text)
		if n, err := strconv.Atoi(lines[0]); len(lines) != 2 || err != nil || n < 12 {
			t.Errorf("%s is %q, want 12 programs or more in it", name, text)
		}
		space[lines[len(lines)-1]] = true
	}
	if len(space) != 2 {
		t.Errorf("programs of two endpoints ran in the namespaces %v", space)
	}
	if got := result.Values["seconds"]; got < 12*2 {
		t.Errorf("12 programs took %v s in all, want at least 24", got)
	}
}

// TestParallelFailures: what one does wrong is told with its endpoint, and the
// others' results are kept.
func TestParallelFailures(t *testing.T) {
	r := newRig(t)
	r.pair()
	good := shell("good.txt", "echo good", 120)
	reply := r.steps("", together(map[string]bundle.Action{"client": good, "server": shell("", "echo broken >&2; exit 3", 120)}))
	if reply.Fault != bundle.FaultSubject || !strings.Contains(reply.Error, "in server: sh: exit status 3: broken") || reply.Raw["good.txt"] != "good\n" {
		t.Errorf("fault %q, %q, kept %q", reply.Fault, reply.Error, reply.Raw)
	}
	r.fails("", bundle.FaultSubject, together(map[string]bundle.Action{"client": good, "server": shell("", "sleep 410080", 0.3)}), "in server: sh: not finished after 0.3 s")
	r.fails("", bundle.FaultRig, together(map[string]bundle.Action{"client": good, "server": bundle.Exec{Argv: []string{"no-such-program"}, Timeout: 1}}), `no command "no-such-program"`)
	r.fails("", bundle.FaultRig, together(map[string]bundle.Action{"client": good, "nobody": good}), `no endpoint "nobody"`)
	r.fails("", bundle.FaultRig, together(map[string]bundle.Action{"client": good, "server": bundle.Snapshot{Out: "x"}}), "all of one kind")
	r.fails("", bundle.FaultRig, together(nil), "without steps")
}

// TestParallelIsInterrupted: when the driver goes away, so do programs that run
// together.
func TestParallelIsInterrupted(t *testing.T) {
	r := newRig(t)
	r.pair()
	ctx := cancelOnce(t, 2, "sleep", "410081")
	long := bundle.Exec{Argv: []string{"sleep", "410081"}, Timeout: 600}
	reply := r.x.steps(ctx, bundle.Steps{Steps: []bundle.Step{{Node: "node1", Do: together(map[string]bundle.Action{"client": long, "server": long})}}})
	if !strings.Contains(reply.Error, "interrupted") {
		t.Errorf("error %q", reply.Error)
	}
	if left := guesttest.Processes(t, "sleep", "410081"); len(left) > 0 {
		t.Errorf("processes %v survive", left)
	}
}

// TestParallelProbes: every endpoint's probes count, and each must come out as wanted.
func TestParallelProbes(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.must("server", bundle.Listen{Handle: "l", Port: 5001})
	r.must("client", bundle.Listen{Handle: "m", Port: 5001})
	try := func(from, to, want string) bundle.Probes {
		return bundle.Probes{Link: "eth0", Timeout: heard, Tries: []bundle.Probe{{What: "try", From: from, To: to, Port: 5001, Want: want}}}
	}
	got := r.must("", together(map[string]bundle.Action{
		"client": try("198.18.1.2", "198.18.1.3", bundle.Allow), "server": try("198.18.1.3", "198.18.1.2", bundle.Allow)}))
	if got.Values["allowed"] != 2 || got.Values["denied"] != 0 {
		t.Errorf("values %v, want 2 allowed", got.Values)
	}
	r.fails("", bundle.FaultSubject, together(map[string]bundle.Action{
		"client": try("198.18.1.2", "198.18.1.3", bundle.Allow), "server": try("198.18.1.3", "198.18.1.2", bundle.Deny)}),
		"in server: try: 198.18.1.3 -> 198.18.1.2:5001 was allowed, want deny")
}

package step

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/guesttest"
)

// A recorded client is observed from its first instruction on, and only it and the servers are.
// What is not ended is ended by undo.
func TestRecordedClient(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.must("server", bundle.Start{Handle: "server", Argv: []string{guesttest.Self(t), "test-server", "5001"}, Port: 5001})
	r.must("server", bundle.CountInstructions{Handle: "count", Servers: []string{"server"}})
	client := bundle.Exec{Argv: []string{guesttest.Self(t), "-test.run=^$"}, Timeout: 60, Recorded: "count"} // no test is of that name
	if got := r.must("client", client); got.Values[bundle.ValueClient] <= 0 {
		t.Errorf("the client has the PID %v", got.Values[bundle.ValueClient])
	}
	r.fails("server", bundle.FaultRig, bundle.CountInstructions{Handle: "count"}, `"count" is taken`)
	r.must("server", bundle.EndRecord{Handle: "count"})
	r.fails("server", bundle.FaultRig, bundle.EndRecord{Handle: "count"}, `nothing is recorded as "count"`)
	r.fails("client", bundle.FaultRig, client, `nothing is recorded as "count"`)
	r.fails("server", bundle.FaultRig, bundle.CountInstructions{Handle: "other", Servers: []string{"absent"}}, `no server "absent" runs`)

	calls := bundle.RecordCalls{Handle: "calls", Servers: []string{"server"}, BufferKiB: 8192}
	reply := r.steps("server", calls)
	if reply.Error != "" {
		if reply.Fault != bundle.FaultUnsupported || os.Getenv(machineTest) != "" {
			t.Fatalf("%s fault: %s", reply.Fault, reply.Error)
		}
		return // this computer's kernel has no function graph
	}
	client.Recorded = "calls"
	pid := r.must("client", client).Values[bundle.ValueClient]
	r.must("server", bundle.EndRecord{Handle: "calls", Out: "calls.txt"})
	if text := r.raw["calls.txt"]; !strings.Contains(text, fmt.Sprintf("-%.0f ", pid)) || !strings.Contains(text, "execve") {
		t.Errorf("the client's first system call is not in %d bytes that begin %.300q", len(text), text)
	}
	r.must("server", calls) // ended by undo
}

// What undo ends is ended in whatever order it was begun.
func TestUndoEndsRecordings(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.CountInstructions{Handle: "one"}, bundle.CountInstructions{Handle: "two"})
	if err := r.x.undoTo(0); err != nil {
		t.Fatal(err)
	}
	if len(r.x.recordings) != 0 {
		t.Errorf("undo left %d recordings", len(r.x.recordings))
	}
}

package lab

import (
	"slices"
	"testing"
	"time"
)

// TestListing: the kind of a lab follows from its owner and from whether it was left running.
func TestListing(t *testing.T) {
	ended := ProcessID{PID: 1 << 30, Start: "1"}
	for _, tt := range []struct {
		state State
		kind  string
		owner string
	}{
		{State{Torn: true}, KindTorn, "unknown"},
		{State{Driver: thisProcess(), Detached: true}, KindRunning, ""},
		{State{Driver: ended, Detached: true, User: "someone"}, KindUp, "someone, PID 1073741824, ended"},
		{State{Driver: ended}, KindLeft, "PID 1073741824, ended"},
	} {
		l := tt.state.Listing(time.Now())
		if l.Kind != tt.kind || tt.owner != "" && l.Owner() != tt.owner {
			t.Errorf("%+v is listed as %s of %s, want %s of %s", tt.state, l.Kind, l.Owner(), tt.kind, tt.owner)
		}
	}
}

// TestSSHCommand: each argument reaches the node as it is, from the lab's network namespace.
func TestSSHCommand(t *testing.T) {
	s := State{NetNS: "/run/netns/x", Key: "key", Known: "known", Nodes: []StateNode{{Name: "node1", Addr: "192.0.2.1"}}}
	argv, ok := s.SSHCommand("node1", []string{"echo", "it's"})
	if !ok || !slices.Equal(argv[:3], []string{"nsenter", "--net=/run/netns/x", "ssh"}) {
		t.Errorf("the command line is %q, %v", argv, ok)
	}
	if want := []string{"root@192.0.2.1", "'echo'", `'it'\''s'`}; !slices.Equal(argv[len(argv)-3:], want) {
		t.Errorf("it ends with %q, want %q", argv[len(argv)-3:], want)
	}
	if _, ok := s.SSHCommand("node2", nil); ok {
		t.Error("a node that the lab does not have is reached")
	}
}

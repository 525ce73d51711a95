package step

import (
	"errors"
	"os"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/cgroup"
)

// TestEndpointCgroup: programs of the endpoint run in its cgroup, which ends with the step; one that
// a killed helper left is removed by the next step, and one in use is not.
func TestEndpointCgroup(t *testing.T) {
	mounts, err := cgroup.Mounted()
	if err != nil {
		t.Fatal(err)
	}
	top := newHierarchy(mounts)
	left, err := os.MkdirTemp(top, "hookbed-"+cgroup.Endpoint+"-")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.must("", bundle.Netns{Name: "server"}, bundle.Netns{Name: "client"})
	r.must("server", bundle.Cgroup{})
	dir := r.x.endpoints["server"].Cgroup
	r.must("client", bundle.Cgroup{})
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s, which was left, is still there (%v)", left, err)
	}
	r.must("server", bundle.Exec{Argv: []string{"cat", "/proc/self/cgroup"}, Timeout: 60, Out: "o.txt"})
	if got := r.raw["o.txt"]; !strings.Contains(got, dir[len(top):]) {
		t.Errorf("a program of the endpoint is in %q, want %s", got, dir)
	}
	r.fails("server", bundle.FaultRig, bundle.Cgroup{}, "an endpoint that has none")
	r.undo(0)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left (%v)", dir, err)
	}
}

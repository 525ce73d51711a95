package step

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"hookbed/driver/bundle"
)

// mount puts namespaces where the executor looks for an engine's. A name that
// is none is a file, as an engine's is before it is mounted over.
func (r *rig) mount(names ...string) {
	r.t.Helper()
	r.x.mounted = r.t.TempDir()
	for _, name := range names {
		path := filepath.Join(r.x.mounted, "1-"+name)
		ep, ok := r.x.endpoints[name]
		if !ok {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				r.t.Fatal(err)
			}
			continue
		}
		fd, err := ep.FD()
		if err == nil {
			err = os.Symlink(fmt.Sprintf("/proc/self/fd/%d", fd), path)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestOverlayNetns: the namespace behind an endpoint's link is found among those of
// the engine and can be acted in, if its device knows the way to the others.
func TestOverlayNetns(t *testing.T) {
	for _, sum := range []bool{true, false} {
		r := newRig(t)
		r.tunnel(sum, false)
		r.must("", bundle.Netns{Name: "server"})
		r.must("a", bundle.Veth{Link: "p0", Peer: "eth0", PeerIn: "server", MTU: 1450})
		good := bundle.OverlayNetns{Name: "sandbox", Link: "eth0", Device: "vx0", VNI: 7, Port: 4789, Ways: map[string]string{innerOf(1): nodeOf(1)}, Timeout: 0.2}
		r.mount("file", "b", "a", "server")
		if got := r.must("server", good).Values["udp_csum"]; got == 1 != sum {
			t.Errorf("checksum %t is told as %g", sum, got)
		}
		r.must("sandbox", bundle.Guard{Link: "vx0", MTU: 1450}, bundle.Guard{Link: "peer:server/eth0", MTU: 1450})
		if !r.x.endpoints["sandbox"].Same(r.x.endpoints["a"].Namespace) {
			t.Error("another namespace was found")
		}
		r.fails("server", bundle.FaultRig, good, `"sandbox" exists already`)

		k := 0
		bad := func(change func(*bundle.OverlayNetns)) bundle.OverlayNetns {
			s := good
			k++
			s.Name = fmt.Sprint("bad", k)
			change(&s)
			return s
		}
		r.fails("server", bundle.FaultRig, bad(func(s *bundle.OverlayNetns) { s.VNI = 8 }), "vxlan with VNI 7 and port 4789, want a vxlan with 8 and 4789")
		r.fails("server", bundle.FaultRig, bad(func(s *bundle.OverlayNetns) { s.Port = 4788 }), "want a vxlan with 7 and 4788")
		r.fails("server", bundle.FaultRig, bad(func(s *bundle.OverlayNetns) { s.Device = "p0" }), "p0 is a veth")
		r.fails("server", bundle.FaultRig, bad(func(s *bundle.OverlayNetns) { s.Device = "vx1" }), "find link vx1")
		r.fails("server", bundle.FaultRig, bad(func(s *bundle.OverlayNetns) { s.Ways = map[string]string{innerOf(1): nodeOf(0)} }), "after 0.2 s that 198.18.2.2 is behind 198.18.1.1")
		r.fails("server", bundle.FaultRig, bad(func(s *bundle.OverlayNetns) { s.Ways = map[string]string{"198.18.2.9": nodeOf(1)} }), "that 198.18.2.9 is behind")
		r.fails("server", bundle.FaultRig, bad(func(s *bundle.OverlayNetns) { s.Link = "lo" }), "in no other namespace")
		r.mount("file", "b", "server")
		r.fails("server", bundle.FaultRig, bad(func(*bundle.OverlayNetns) {}), "in none of the 3 namespaces")
	}
}

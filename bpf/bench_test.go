package bpf

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// BenchmarkVerdict runs each program over one frame, b.N times in one system
// call of BPF_PROG_TEST_RUN, beside N policies of which the last admits it.
// ns/op is that call's wall time over N, finer than the whole nanoseconds that
// the kernel reports. The frames have TTL 1, so that runs over the same one
// stay alike: what is timed is the verdict without rewriting and redirect.
//
//	data     a segment of a tracked connection, policy asked for every packet
//	tracked  the same, policy asked for new connections only
//	open     a SYN: policy, and a conntrack entry written
//	deny     a source without policy: all four lookups miss
func BenchmarkVerdict(b *testing.B) {
	data, syn, deny := frame{ttl: 1}, frame{ttl: 1, flags: tcpSYN}, frame{ttl: 1, src: stranger}
	tc := func(newOnly uint8) func(testing.TB) *rig {
		return func(t testing.TB) *rig {
			r := loadTC(t, newOnly, 0)
			r.serverEndpoint(true)
			return r
		}
	}
	xdp := func(t testing.TB) *rig { return loadXDP(t, 1) }
	for _, c := range []struct {
		program, what string
		load          func(testing.TB) *rig
		frame         frame
		ret           uint32
	}{
		{ProgFromEndpoint, "data", tc(0), data, actOK},
		{ProgFromEndpoint, "tracked", tc(1), data, actOK},
		{ProgFromEndpoint, "open", tc(0), syn, actOK},
		{ProgFromEndpoint, "deny", tc(0), deny, actShot},
		{ProgFromNetdev, "data", tc(0), data, actOK},
		{ProgFromNetdev, "tracked", tc(1), data, actOK},
		{ProgFromNetdev, "open", tc(0), syn, actOK},
		{ProgFromNetdev, "deny", tc(0), deny, actShot},
		{ProgXDP, "data", xdp, data, xdpPass},
		{ProgXDP, "deny", xdp, deny, xdpDrop},
		{ProgXDPPass, "data", xdp, data, xdpPass},
	} {
		for _, n := range []int{1, 100, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%s/policies=%d", c.program, c.what, n), func(b *testing.B) {
				r := c.load(b)
				r.fillPolicies(n)
				r.runMany(c.program, c.frame.bytes(), c.ret)
			})
		}
	}
}

// fillPolicies makes n policies as the renderer of bundles does: the last is
// the client's, the others name sources of their own.
func (r *rig) fillPolicies(n int) {
	for i := range n {
		src, id := netip.AddrFrom4([4]byte{198, 19, byte(100 + i>>8), byte(i)}), uint32(1000+i)
		if i == n-1 {
			src, id = client, clientID
		}
		if m := r.coll.Maps[MapIdentities]; m == nil {
			r.put(MapPolicy, XDPPolicyKey(src, 5001, protoTCP), PolicyValue(false, 0))
			continue
		}
		r.put(MapIdentities, IPKey(src), IdentityValue(id))
		r.put(MapPolicy, PolicyKey(id, 5001, protoTCP), PolicyValue(false, 0))
	}
}

// runMany runs one frame b.N times and reports the time of a run.
func (r *rig) runMany(program string, data []byte, want uint32) {
	b := r.t.(*testing.B)
	opts := &ebpf.RunOptions{Data: data, Repeat: uint32(b.N)}
	var ret uint32
	var took time.Duration
	err := r.ns.do(func() (err error) {
		prog := r.coll.Programs[program]
		// Once to warm up, which also opens the connection of a later segment.
		if _, err = prog.Run(&ebpf.RunOptions{Data: data}); err != nil {
			return err
		}
		b.ResetTimer()
		start := time.Now()
		ret, err = prog.Run(opts)
		took = time.Since(start)
		return err
	})
	if err != nil || ret != want {
		b.Fatalf("%s returned %d, want %d: %v", program, ret, want, err)
	}
	b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/op")
}

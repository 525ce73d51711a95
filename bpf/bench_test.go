package bpf

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// BenchmarkVerdict runs each program over one frame, b.N times in one system
// call of BPF_PROG_TEST_RUN, with the fabric's programs and the hash. ns/op is
// that call's CPU time over N, finer than the whole nanoseconds that the kernel
// reports. The frames have TTL 1, so that runs over the same one stay alike: what
// is timed is the verdict without rewriting and redirect.
//
//	data     a segment of a tracked connection, policy looked up for every packet
//	tracked  the same, policy looked up for new connections only
//	open     a SYN: policy, and a conntrack entry written
//	deny     a source without policy
func BenchmarkVerdict(b *testing.B) {
	data, syn, deny := frame{ttl: 1}, frame{ttl: 1, flags: tcpSYN}, frame{ttl: 1, src: elsewhere}
	for _, program := range []string{ProgFromEndpoint, ProgFromNetdev} {
		for _, c := range []struct {
			what    string
			newOnly uint8
			frame   frame
			ret     uint32
		}{
			{"data", 0, data, actOK},
			{"tracked", 1, data, actOK},
			{"open", 0, syn, actOK},
			{"deny", 0, deny, actShot},
		} {
			for _, n := range []int{1, 10000} {
				b.Run(fmt.Sprintf("%s/%s/policies=%d", program, c.what, n), func(b *testing.B) {
					ps := manyPolicies(n, false)
					r := load(b, DatapathObject(), map[string]any{VarEnforceNewOnly: c.newOnly, VarWildcards: Wildcards(ps...)}, smallConntrack)
					r.serverEndpoint(true)
					fills, err := TCFills(StructureHash, ps)
					if err != nil {
						b.Fatal(err)
					}
					r.apply(fills)
					r.runMany(program, c.frame.bytes(), c.ret)
				})
			}
		}
	}
}

// place is which of N policies a frame meets.
type place struct {
	name string
	of   func(n int) int
}

func places() []place {
	return []place{
		{"first", func(int) int { return 0 }},
		{"middle", func(n int) int { return n / 2 }},
		{"last", func(n int) int { return n - 1 }},
		{"none", nil},
	}
}

// BenchmarkStructure times the programs that guard one endpoint: every structure,
// N, family, and place of the policy that decides. none is a source without any.
func BenchmarkStructure(b *testing.B) {
	for _, o := range objects() {
		for _, s := range append([]Structure{StructurePass}, o.structures...) {
			for _, six := range []bool{false, true} {
				for _, n := range []int{1, 10, 100, 1000, 10000} {
					if s == StructurePass && n > 1 {
						continue
					}
					name := fmt.Sprintf("%s-%s/v6=%v/policies=%d", o.name, s.name(), six, n)
					b.Run(name, func(b *testing.B) { o.benchPlaces(b, s, six, n) })
				}
			}
		}
	}
}

func (o object) benchPlaces(b *testing.B, s Structure, six bool, n int) {
	ps := manyPolicies(n, six)
	r := o.load(b, s, ps, nil)
	fills, err := o.fills(s, ps)
	if err != nil {
		b.Fatal(err)
	}
	r.apply(fills)
	program := o.program
	if s == StructurePass && o.name == "xdp" {
		program = ProgXDPPass
	}
	for _, p := range places() {
		f, ret := frame{six: six, src: elsewhere}, o.drop
		if p.of != nil {
			f.src, ret = ps[p.of(n)].Source.Addr(), o.admit
		}
		if s == StructurePass {
			ret = o.admit
		}
		b.Run(p.name, func(b *testing.B) {
			sub := r.with(b)
			sub.runMany(program, f.bytes(), ret)
		})
	}
}

// BenchmarkAccounting times what counting by policy costs, over the hash.
func BenchmarkAccounting(b *testing.B) {
	for _, o := range objects() {
		for accounting, name := range []string{"off", "per-cpu", "atomic"} {
			ps := manyPolicies(100, false)
			b.Run(o.name+"/"+name, func(b *testing.B) {
				r := o.load(b, StructureHash, ps, map[string]any{VarAccounting: uint8(accounting), roomForHits: uint32(len(ps))})
				fills, err := o.fills(StructureHash, ps)
				if err != nil {
					b.Fatal(err)
				}
				r.apply(fills)
				r.runMany(o.program, frame{}.bytes(), o.admit)
			})
		}
	}
}

// TestHashesAreFlat: a hash of 10 000 policies costs what one of a single policy
// costs. Both are timed in turns, and the least CPU time of each is compared: noise
// only ever adds. The bound leaves room for that, and a busy machine gets more rounds
// to show each without noise. Runs of XDP are longer, because the kernel spends some
// ms on each while they run.
func TestHashesAreFlat(t *testing.T) {
	for _, o := range objects() {
		repeat, rounds := 2000, 100
		if o.name == "xdp" {
			repeat, rounds = 500_000, 8
		}
		var rigs []*rig
		for _, n := range []int{1, 10000} {
			rigs = append(rigs, o.filled(t, StructureHash, manyPolicies(n, false), nil))
		}
		best := []time.Duration{time.Hour, time.Hour}
		ratio := math.Inf(1)
		for round := 0; round < rounds || ratio > flat && round < 20*rounds; round++ {
			for i, r := range rigs {
				best[i] = min(best[i], r.time(o.program, frame{}.bytes(), o.admit, repeat))
			}
			ratio = float64(best[1]) / float64(best[0])
		}
		t.Logf("%s: %v and %v for %d packets, ratio %.3f", o.name, best[0], best[1], repeat, ratio)
		if ratio > flat {
			t.Errorf("%s: 10 000 policies cost %.2f times what one costs", o.name, ratio)
		}
	}
}

// flat is the largest ratio that counts as no growth.
const flat = 1.15

// threadTime is what this thread has had of a CPU. Other threads do not
// count, except by what they do to caches.
func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano()), err
}

// time is the CPU time that a program takes over one frame, repeated.
func (r *rig) time(program string, data []byte, want uint32, repeat int) time.Duration {
	r.t.Helper()
	var ret uint32
	var took time.Duration
	err := r.ns.do(func() (err error) {
		prog := r.coll.Programs[program]
		// Once to warm up, which also opens the connection of a later segment.
		if _, err = prog.Run(&ebpf.RunOptions{Data: data}); err != nil {
			return err
		}
		start, err := threadTime()
		if err != nil {
			return err
		}
		if ret, err = prog.Run(&ebpf.RunOptions{Data: data, Repeat: uint32(repeat)}); err != nil {
			return err
		}
		end, err := threadTime()
		took = end - start
		return err
	})
	if err != nil || ret != want {
		r.t.Fatalf("%s returned %d, want %d: %v", program, ret, want, err)
	}
	return took
}

// runMany runs one frame b.N times and reports the time of a run.
func (r *rig) runMany(program string, data []byte, want uint32) {
	b := r.t.(*testing.B)
	took := r.time(program, data, want, b.N)
	b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/op")
}

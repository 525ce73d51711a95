package bpf

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// What the programs return.
const (
	actOK       = 0
	actShot     = 2
	actRedirect = 7
	xdpDrop     = 1
	xdpPass     = 2
)

// serverLink is the index of no link: a redirect is decided without looking.
const serverLink = 4242

// namespace is a network namespace that lives on a thread of its own.
type namespace struct{ work chan func() }

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces and loads BPF programs")
	}
	ns, made := &namespace{make(chan func())}, make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and the
		// namespace with the thread.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = quiet()
		}
		made <- err
		if err != nil {
			return
		}
		for f := range ns.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		t.Fatalf("make a quiet network namespace: %v", err)
	}
	t.Cleanup(func() { close(ns.work) })
	return ns
}

// quiet keeps the links of this thread's namespace from speaking IPv6 of their
// own accord, which would be counted.
func quiet() error {
	for _, which := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0o644)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// do runs f in the namespace.
func (ns *namespace) do(f func() error) error {
	done := make(chan error)
	ns.work <- func() { done <- f() }
	return <-done
}

// rig is a loaded object and where its programs run.
type rig struct {
	t         testing.TB
	ns        *namespace
	coll      *ebpf.Collection
	structure Structure // what policies go into
	six       bool      // the family of rules
}

// with is the rig for a subtest.
func (r *rig) with(t testing.TB) *rig {
	sub := *r
	sub.t = t
	return &sub
}

// load loads an object with one-byte variables set.
func load(t testing.TB, object []byte, vars map[string]any, shape ...func(*ebpf.CollectionSpec)) *rig {
	t.Helper()
	ns := newNamespace(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatalf("lift the memory lock limit: %v", err)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range vars {
		if err := spec.Variables[name].Set(value); err != nil {
			t.Fatalf("set %s: %v", name, err)
		}
	}
	for _, f := range shape {
		f(spec)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			t.Fatalf("%+v", ve)
		}
		t.Fatal(err)
	}
	t.Cleanup(coll.Close)
	structure := StructureHash
	if s, ok := vars[VarStructure].(uint8); ok {
		structure = Structure(s)
	}
	return &rig{t: t, ns: ns, coll: coll, structure: structure}
}

// when is when a tc program looks up the policy.
type when struct {
	name                 string
	newOnly, policyFirst uint8
}

func enforceWhen() []when {
	return []when{{"all", 0, 0}, {"new", 1, 0}, {"policy-first", 0, 1}}
}

func (w when) with(vars map[string]any) map[string]any {
	vars[VarEnforceNewOnly], vars[VarPolicyFirst] = w.newOnly, w.policyFirst
	return vars
}

// eachWhen runs a subtest for each time at which policy may be looked up.
func eachWhen(t *testing.T, test func(t *testing.T, w when)) {
	for _, w := range enforceWhen() {
		t.Run(w.name, func(t *testing.T) { test(t, w) })
	}
}

func loadTC(t testing.TB, w when, peer uint8) *rig {
	t.Helper()
	r := load(t, DatapathObject(), w.with(map[string]any{VarUsePeer: peer}), smallConntrack)
	r.put(MapIdentities, IPKey(client), IdentityValue(clientID))
	r.put(MapIdentities, IPKey(stranger), IdentityValue(strangerID))
	return r
}

func loadXDP(t testing.TB, enforce uint8) *rig {
	t.Helper()
	return load(t, XDPObject(), map[string]any{VarEnforce: enforce, VarEndpointIP: [4]byte(IPKey(server)), VarEndpointIP6: [16]byte(IPKey(server6))})
}

func (r *rig) put(m string, key, value []byte) {
	r.t.Helper()
	if err := r.coll.Maps[m].Put(key, value); err != nil {
		r.t.Fatalf("put into %s: %v", m, err)
	}
}

func (r *rig) remove(m string, key []byte) {
	r.t.Helper()
	if err := r.coll.Maps[m].Delete(key); err != nil {
		r.t.Fatalf("delete from %s: %v", m, err)
	}
}

// endpoint enters an endpoint through the very line that a bundle carries.
func (r *rig) endpoint(ip netip.Addr, ifindex int, mac, gwMAC string, enforce bool) {
	r.t.Helper()
	line := EndpointLine(ip, "veth0", 1, mac, gwMAC, enforce)
	index := hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, uint32(ifindex)))
	key, value, _ := strings.Cut(strings.ReplaceAll(line, "{ifindex:veth0}", index), " ")
	m := MapEndpoints
	if ip.Is6() {
		m = MapEndpoints6
	}
	r.put(m, unhex(r.t, key), unhex(r.t, value))
}

// serverEndpoint enters the server, with both addresses.
func (r *rig) serverEndpoint(enforce bool) {
	r.t.Helper()
	for _, ip := range []netip.Addr{server, server6} {
		r.endpoint(ip, serverLink, serverMAC.String(), serverGW.String(), enforce)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// entries counts the entries of a hash map.
func (r *rig) entries(m string) int {
	r.t.Helper()
	n := 0
	var key, value []byte
	it := r.coll.Maps[m].Iterate()
	for it.Next(&key, &value) {
		n++
	}
	if err := it.Err(); err != nil {
		r.t.Fatalf("walk %s: %v", m, err)
	}
	return n
}

// stat is one verdict's count, over all CPUs.
type stat struct{ Packets, Bytes uint64 }

func (r *rig) stats() [Stats]stat {
	r.t.Helper()
	var sum [Stats]stat
	for i := range sum {
		var cpus []stat
		if err := r.coll.Maps[MapStats].Lookup(uint32(i), &cpus); err != nil {
			r.t.Fatalf("read stats: %v", err)
		}
		for _, c := range cpus {
			sum[i].Packets += c.Packets
			sum[i].Bytes += c.Bytes
		}
	}
	return sum
}

// skb is the part of the program's context that a run may set: struct
// __sk_buff up to ifindex, 40 bytes in.
type skb struct {
	_       [40]byte
	Ifindex uint32
}

// outcome is what a program did with one frame.
type outcome struct {
	ret   uint32
	stat  int    // index of the only count that moved
	frame []byte // as the program left it
}

func (o outcome) String() string { return fmt.Sprintf("return code %d, stat %d", o.ret, o.stat) }

// run sends one frame through a program, in the rig's namespace. ifindex is the
// link it comes from, 0 for loopback; XDP takes none.
func (r *rig) run(program string, data []byte, ifindex int) outcome {
	r.t.Helper()
	before := r.stats()
	opts := &ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+64)}
	if ifindex != 0 {
		opts.Context = skb{Ifindex: uint32(ifindex)}
	}
	var ret uint32
	err := r.ns.do(func() (err error) { ret, err = r.coll.Programs[program].Run(opts); return err })
	if err != nil {
		r.t.Fatalf("run %s over %d bytes: %v", program, len(data), err)
	}
	o := outcome{ret: ret, stat: -1, frame: opts.DataOut}
	for i, s := range r.stats() {
		moved := stat{s.Packets - before[i].Packets, s.Bytes - before[i].Bytes}
		if moved == (stat{}) {
			continue
		}
		if want := (stat{1, uint64(len(data))}); moved != want || o.stat >= 0 {
			r.t.Fatalf("stat %d moved by %+v, want one stat to move by %+v", i, moved, want)
		}
		o.stat = i
	}
	return o
}

// want runs one frame and compares.
func (r *rig) want(program string, data []byte, ret, stat uint32) outcome {
	r.t.Helper()
	got := r.run(program, data, 0)
	if got.ret != ret || got.stat != int(stat) {
		r.t.Errorf("%s: %v, want return code %d, stat %d", program, got, ret, stat)
	}
	return got
}

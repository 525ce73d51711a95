package verdict_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/policy"
	"hookbed/driver/policy/policytest"
)

// kernelSets is how many random sets TestKernelAnswersAsTheReference has.
var kernelSets = flag.Int("kernel-sets", 40, "number of random sets of policies for the programs in the kernel")

// TestKernelAnswersAsTheReference loads the rendered programs of tc and XDP, fills their maps
// as rendered, and has the kernel judge a packet of each flow (BPF_PROG_TEST_RUN). A program
// stays loaded for all sets that differ in the entries of its maps alone.
func TestKernelAnswersAsTheReference(t *testing.T) {
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	k := kernel{loaded: map[string]*ebpf.Collection{}}
	t.Cleanup(k.close)
	answers := map[string]int{}
	for seed := range uint64(*kernelSets) {
		s := policytest.Generate(seed)
		c, own := read(t, s)
		for _, d := range enforcing() {
			if d.Mechanism != "tc" && d.Mechanism != "xdp" || d.External != "" {
				continue
			}
			setup, err := datapath.Render(datapath.OwnCell(d, own, s.IPv6))
			if errors.Is(err, datapath.ErrCannotHold) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			run := k.load(t, setup)
			for _, f := range s.Flows {
				want := c.Decide(f).Allowed
				if got := run(t, f, setup.Topology.Server.Addr); got != want {
					t.Fatalf("seed %d, %s, %+v: the kernel admits it: %v, the reference: %v\n%s\n%s", seed, d.Name, f, got, want, s.Inventory, s.Policies)
				}
				answers[d.Filter]++
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		t.Logf("%-12s %7d packets judged by the kernel", name, answers[name])
	}
	if len(answers) < 7 {
		t.Errorf("%d filters were asked, want those of tc and XDP", len(answers))
	}
}

// kernel keeps programs by what they were loaded with.
type kernel struct {
	loaded map[string]*ebpf.Collection
	ports  uint16 // of sources: each packet begins a connection of its own
}

func (k *kernel) close() {
	for _, c := range k.loaded {
		c.Close()
	}
}

// load gives the setup's program, its maps filled.
func (k *kernel) load(t *testing.T, s datapath.Setup) func(*testing.T, policy.Flow, netip.Addr) bool {
	t.Helper()
	i := slices.IndexFunc(s.Apply, func(st bundle.Step) bool { _, ok := st.Do.(bundle.LoadBPF); return ok })
	load := s.Apply[i].Do.(bundle.LoadBPF)
	key := load.Object + " " + load.Programs[0]
	for _, name := range slices.Sorted(maps.Keys(load.Vars)) {
		key += " " + name + "=" + load.Vars[name]
	}
	c, ok := k.loaded[key]
	if !ok {
		c = collection(t, load, s.Files[load.Object].Data)
		k.loaded[key] = c
	}
	for _, name := range slices.Concat(load.Tables, []string{"conntrack", "conntrack6"}) {
		if m := c.Maps[name]; m != nil {
			empty(t, m)
		}
	}
	for _, st := range s.Apply {
		if fill, ok := st.Do.(bundle.FillMap); ok && fill.Metric == "" && c.Maps[fill.Map] != nil {
			put(t, c.Maps[fill.Map], string(s.Files[fill.File].Data))
		}
	}
	program := c.Programs[load.Programs[0]]
	allow := uint32(2) // XDP_PASS
	if program.Type() == ebpf.SchedCLS {
		allow = 0 // TC_ACT_OK
	}
	return func(t *testing.T, f policy.Flow, to netip.Addr) bool {
		t.Helper()
		if k.ports++; k.ports < 1024 {
			k.ports = 1024
		}
		ret, err := program.Run(&ebpf.RunOptions{Data: packet(f, to, k.ports)})
		if err != nil {
			t.Fatal(err)
		}
		return ret == allow
	}
}

// collection loads the programs of a step with its variables and without other maps' room.
func collection(t *testing.T, load bundle.LoadBPF, object []byte) *ebpf.Collection {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range load.Vars {
		b, err := hex.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		if err := spec.Variables[name].Set(b); err != nil {
			t.Fatalf("variable %s: %v", name, err)
		}
	}
	for name := range spec.Programs {
		if name != load.Programs[0] && spec.Programs[name].Type != ebpf.UnspecifiedProgram {
			delete(spec.Programs, name)
		}
	}
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, "conntrack") {
			m.MaxEntries = 1024
		}
		if n := load.MaxEntries[name]; n > 0 && !strings.HasPrefix(name, "list") && !strings.HasPrefix(name, "conntrack") {
			m.MaxEntries = n
		}
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// empty removes all entries, and zeroes those of an array that a list can have used.
func empty(t *testing.T, m *ebpf.Map) {
	t.Helper()
	if m.Type() == ebpf.Array {
		for i := range min(m.MaxEntries(), 4096) {
			if err := m.Put(i, make([]byte, m.ValueSize())); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	var keys [][]byte
	it, key, value := m.Iterate(), []byte{}, []byte{}
	for it.Next(&key, &value) {
		keys = append(keys, slices.Clone(key))
	}
	for _, k := range keys {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Fatal(err)
		}
	}
}

func put(t *testing.T, m *ebpf.Map, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		key, err := hex.DecodeString(k)
		value, err2 := hex.DecodeString(v)
		if err != nil || err2 != nil {
			continue // an endpoint, whose link is not here
		}
		if err := m.Put(key, value); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
}

// packet begins a connection, or is a datagram. It is a frame of Ethernet, with valid
// checksums.
func packet(f policy.Flow, to netip.Addr, port uint16) []byte {
	l4 := binary.BigEndian.AppendUint16(nil, port)
	l4 = binary.BigEndian.AppendUint16(l4, f.Port)
	if f.Proto == policy.ProtoTCP {
		l4 = append(l4, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2 /* SYN */, 0xff, 0xff, 0, 0, 0, 0)
	} else {
		l4 = append(l4, 0, 12, 0, 0, 1, 2, 3, 4)
	}
	pseudo := slices.Concat(f.From.AsSlice(), to.AsSlice(), []byte{0, f.Proto, 0, byte(len(l4))})
	at := map[bool]int{true: 16, false: 6}[f.Proto == policy.ProtoTCP]
	binary.BigEndian.PutUint16(l4[at:], checksum(slices.Concat(pseudo, l4)))
	out := append(make([]byte, 12), 8, 0)
	if to.Is6() {
		out[12], out[13] = 0x86, 0xdd
		out = append(out, 0x60, 0, 0, 0, 0, byte(len(l4)), f.Proto, 64)
	} else {
		ip := []byte{0x45, 0, 0, byte(20 + len(l4)), 0, 1, 0x40, 0, 64, f.Proto, 0, 0}
		ip = append(append(ip, f.From.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(append(out, ip...), l4...)
	}
	return slices.Concat(out, f.From.AsSlice(), to.AsSlice(), l4)
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}

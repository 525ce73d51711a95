package bpf

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"hookbed/images"
)

// pinnedCompiler is the compiler of the committed objects. It is checked once: that takes as long
// as reading all of it.
var pinnedCompiler = sync.OnceValues(func() (images.Compiler, error) {
	store, err := images.Open("", images.Options{Drift: "allow"})
	if err != nil {
		return images.Compiler{}, err
	}
	return store.Compiler(context.Background())
})

// compile builds an object of C text, as users build theirs.
func compile(t *testing.T, text string, flags ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	source, object := filepath.Join(dir, "own.bpf.c"), filepath.Join(dir, "own.bpf.o")
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	compiler, err := pinnedCompiler()
	if err != nil {
		t.Fatal(err)
	}
	args := slices.Concat([]string{"-O2", "-g", "-target", "bpf", "-I", "headers"}, flags, []string{"-c", source, "-o", object})
	if out, err := compiler.Command(t.Context(), args...).CombinedOutput(); err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	data, err := os.ReadFile(object)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

const (
	ownHead    = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nchar _license[] SEC(\"license\") = \"GPL\";\n"
	ownProgram = "SEC(\"xdp\") int pass(struct xdp_md *c) { return XDP_PASS; }\nSEC(\"tc\") int tcpass(struct __sk_buff *c) { return 0; }\n" +
		"SEC(\"xdp/devmap\") int entry(struct xdp_md *c) { return XDP_PASS; }\nSEC(\"action\") int act(struct __sk_buff *c) { return 0; }\nSEC(\"sockops\") int ops(void *c) { return 0; }\n"
	ownStats = "#include \"stats.h\"\n"
)

// aMap is a user's map as C text.
func aMap(name, kind, key, value, entries string) string {
	return "struct { __uint(type, " + kind + "); __uint(max_entries, " + entries + "); " + key + "; " + value + "; __uint(map_flags, 1); } " + name + " SEC(\".maps\");\n"
}

func statsOf(kind, value, entries string) string {
	return strings.Replace(aMap("stats", kind, "__type(key, __u32)", "__uint(value_size, "+value+")", entries), " __uint(map_flags, 1);", "", 1)
}

// TestInspectFindsWhatAnObjectLacks: by the file alone, without a kernel.
func TestInspectFindsWhatAnObjectLacks(t *testing.T) {
	whole := compile(t, ownHead+ownStats+ownProgram)
	uncounted := compile(t, ownHead+ownProgram)
	for name, c := range map[string]struct {
		object []byte
		demand Demand
		about  string
		want   string
	}{
		"nothing, XDP":       {whole, Demand{Program: "pass", XDP: true}, "", ""},
		"nothing, tc":        {whole, Demand{Program: "tcpass"}, "", ""},
		"no map at all":      {uncounted, Demand{Program: "pass", XDP: true}, FaultObject, `has no map "stats", and none at all`},
		"no such program":    {whole, Demand{Program: "filter", XDP: true}, FaultProgram, `has no program "filter", only ["act" "entry" "ops" "pass" "tcpass"]`},
		"tc at XDP":          {whole, Demand{Program: "tcpass", XDP: true}, FaultType, `the program "tcpass" in section "tc", which makes it SchedCLS, and this hook takes XDP; write SEC("xdp")`},
		"XDP at tc":          {whole, Demand{Program: "pass"}, FaultType, `which makes it XDP, and this hook takes SchedCLS; write SEC("tc")`},
		"XDP of a devmap":    {whole, Demand{Program: "entry", XDP: true}, FaultType, `in section "xdp/devmap"`},
		"a tc action at tc":  {whole, Demand{Program: "act"}, FaultType, `which makes it SchedACT`},
		"sockops at tc":      {whole, Demand{Program: "ops"}, FaultType, `which makes it SockOps`},
		"stats of one CPU":   {compile(t, ownHead+ownProgram+statsOf("BPF_MAP_TYPE_ARRAY", "16", "3")), Demand{Program: "pass", XDP: true}, FaultObject, `has a map "stats" that is Array; want a per-CPU array`},
		"stats of packets":   {compile(t, ownHead+ownProgram+statsOf("BPF_MAP_TYPE_PERCPU_ARRAY", "8", "3")), Demand{Program: "pass", XDP: true}, FaultObject, `with values of 8 bytes; want a per-CPU array`},
		"stats of one value": {compile(t, ownHead+ownProgram+statsOf("BPF_MAP_TYPE_PERCPU_ARRAY", "16", "1")), Demand{Program: "pass", XDP: true}, FaultObject, `with room for 1 values`},
		"another stats":      {compile(t, ownHead+ownProgram+strings.Replace(statsOf("BPF_MAP_TYPE_PERCPU_ARRAY", "16", "3"), "stats", "counts", 1)), Demand{Program: "pass", XDP: true}, FaultObject, `has no map "stats", only ["counts"]`},
		"a pinned map": {compile(t, ownHead+ownStats+ownProgram+"struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32); __uint(pinning, LIBBPF_PIN_BY_NAME); } kept SEC(\".maps\");\n"),
			Demand{Program: "pass", XDP: true}, FaultObject, `wants its map "kept" pinned`},
		"text":           {[]byte("#!/bin/sh\n"), Demand{Program: "pass"}, FaultObject, "is no BPF object"},
		"half an object": {whole[:len(whole)/2], Demand{Program: "pass"}, FaultObject, "is no BPF object"},
		"big endian":     {compile(t, ownHead+ownStats+ownProgram, "-target", "bpfeb"), Demand{Program: "pass", XDP: true}, FaultObject, "is big endian"},
		"no such table":  {whole, Demand{Program: "pass", XDP: true, Tables: map[string]uint32{MapPolicy: 5}}, FaultObject, `has no map "policy" to fill, only [`},
		"a short key": {compile(t, ownHead+ownStats+ownProgram+aMap("policy", "BPF_MAP_TYPE_HASH", "__type(key, __u32)", "__type(value, __u64)", "64")),
			Demand{Program: "pass", XDP: true, Tables: map[string]uint32{MapPolicy: 5}}, FaultObject, `has a map "policy" with keys of 4 and values of 8 bytes, and is filled with keys of 8 and values of 8`},
		"too little room": {compile(t, ownHead+ownStats+ownProgram+aMap("policy", "BPF_MAP_TYPE_HASH", "__type(key, __u64)", "__type(value, __u64)", "4")),
			Demand{Program: "pass", XDP: true, Tables: map[string]uint32{MapPolicy: 5}}, FaultObject, `with room for 4 entries, and the policies, the workload and the update need 5`},
		"room enough": {compile(t, ownHead+ownStats+ownProgram+aMap("policy", "BPF_MAP_TYPE_HASH", "__type(key, __u64)", "__type(value, __u64)", "5")),
			Demand{Program: "pass", XDP: true, Tables: map[string]uint32{MapPolicy: 5}}, "", ""},
	} {
		got := Inspect(c.object, c.demand)
		switch {
		case c.want == "" && len(got) > 0:
			t.Errorf("%s: %+v", name, got)
		case c.want != "" && (len(got) != 1 || got[0].About != c.about || !strings.Contains(got[0].What, c.want)):
			t.Errorf("%s: %+v, want one about the %s: %q", name, got, c.about, c.want)
		}
	}
}

// TestInspectRefusesPrograms: the file of this test is an ELF, but not BPF.
func TestInspectRefusesPrograms(t *testing.T) {
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if got := Inspect(own, Demand{Program: "main"}); len(got) != 1 || !strings.Contains(got[0].What, "is no BPF object") {
		t.Errorf("%.300v", got)
	}
}

// TestInspectAcceptsOurs: with every structure whose maps users can name.
func TestInspectAcceptsOurs(t *testing.T) {
	for _, s := range []Structure{StructureLinear, StructureHash, StructureLPM} {
		for _, v6 := range []bool{false, true} {
			for _, d := range []struct {
				object []byte
				Demand
				tables []string
			}{
				{DatapathObject(), Demand{Program: ProgToEndpoint}, TCTables(s, v6)},
				{XDPObject(), Demand{Program: ProgXDP, XDP: true}, XDPTables(s, v6)},
			} {
				d.Tables = map[string]uint32{}
				for _, name := range d.tables {
					d.Tables[name] = 1
				}
				if got := Inspect(d.object, d.Demand); len(got) > 0 || len(d.Tables) == 0 {
					t.Errorf("structure %d, tables %v: %+v", s, d.Tables, got)
				}
			}
		}
	}
}

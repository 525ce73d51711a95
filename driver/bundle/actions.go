package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strings"
)

// Link names in actions may be written "peer:ENDPOINT/LINK": the other end, in
// the step's own namespace, of LINK in that endpoint. It is how the host side
// of a container's eth0 is named without knowing what Docker called it.

// Netns makes the network namespace of an endpoint and binds its name. Only
// for endpoints that are bare namespaces. Loopback is up in it. Undo: dropped.
type Netns struct {
	Name string `json:"name"`
}

// Veth makes a veth pair: Link in the step's namespace, Peer in PeerIn ("" is
// the node). Both are set up. Undo: deleted (a no-op if already gone).
type Veth struct {
	Link    string `json:"link"`
	MAC     string `json:"mac,omitempty"`
	Peer    string `json:"peer"`
	PeerIn  string `json:"peer_in"`
	PeerMAC string `json:"peer_mac,omitempty"`
	MTU     int    `json:"mtu,omitempty"`    // bytes, 0 = kernel default
	Queues  int    `json:"queues,omitempty"` // rx and tx queues of both ends, 0 = 1
}

// Bridge makes a Linux bridge, without STP, and sets it up. Undo: deleted.
type Bridge struct {
	Link string `json:"link"`
}

// SetLink changes an existing link. Empty fields are left alone. Undo: the
// previous values return if the link still exists.
type SetLink struct {
	Link   string `json:"link"`
	Master string `json:"master,omitempty"` // name of a bridge in the same namespace
	MTU    int    `json:"mtu,omitempty"`
	Up     bool   `json:"up,omitempty"`
}

// Addr adds an address in CIDR form. Undo: removed.
type Addr struct {
	Link string `json:"link"`
	CIDR string `json:"cidr"`
}

// Route adds a route; Dst "default" or CIDR, Via may be empty for a link
// route. Undo: removed.
type Route struct {
	Dst    string `json:"dst"`
	Via    string `json:"via,omitempty"`
	Link   string `json:"link"`
	OnLink bool   `json:"onlink,omitempty"`
}

// Neigh adds a permanent neighbour entry. Undo: removed.
type Neigh struct {
	Link string `json:"link"`
	IP   string `json:"ip"`
	MAC  string `json:"mac"`
}

// Sysctl writes /proc/sys/KEY (dots or slashes) as seen from the step's
// namespace. Undo: the previous value.
type Sysctl struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	// Optional passes over a key that this kernel does not have (a missing
	// module), reporting "absent" as the step's note.
	Optional bool `json:"optional,omitempty"`
}

// Offload switches NIC features by their ethtool -k names ("tx-checksumming"
// style group names or kernel names), and reads back that they took. Undo:
// the previous state.
type Offload struct {
	Link     string          `json:"link"`
	Features map[string]bool `json:"features"`
}

// Rules loads one rule-set file in one atomic call of Tool:
// "iptables-legacy" and "iptables-nft" mean `TOOL-restore --noflush -w`,
// "nft" means `nft -f`. Undo: the Undo file, loaded the same way; if it is
// empty nothing is undone (the namespace goes away). The step's value
// "load_seconds" is the wall time of the call.
type Rules struct {
	Tool string `json:"tool"`
	File string `json:"file"`
	Undo string `json:"undo,omitempty"`
}

// LoadBPF loads a BPF object under a handle.
type LoadBPF struct {
	Handle string `json:"handle"`
	Object string `json:"object"` // file name in the bundle
	// Vars sets `const volatile` variables: little-endian bytes in hex, of the
	// variable's exact size.
	Vars map[string]string `json:"vars,omitempty"`
	// MaxEntries overrides map sizes.
	MaxEntries map[string]uint32 `json:"max_entries,omitempty"`
	// LinkVars sets 32-bit variables to the ifindex of a link in the step's
	// namespace.
	LinkVars map[string]string `json:"link_vars,omitempty"`
	// Programs are the ones to keep; others in the object are not loaded.
	Programs []string `json:"programs"`
}

// FillMap updates a map of a loaded object, in batches where the kernel can,
// from a file of lines "KEYHEX VALUEHEX". The step's value "load_seconds" is
// the wall time, "entries" the number of lines.
// In VALUEHEX the text "{ifindex:LINK}" and "{mac:LINK}" stand for the 4-byte
// little-endian ifindex and the 6-byte address of a link in the step's
// namespace ("peer:" names allowed).
type FillMap struct {
	Handle string `json:"handle"`
	Map    string `json:"map"`
	File   string `json:"file"`
}

// Hooks for AttachBPF.
const (
	HookTCIngress  = "tc-ingress"  // clsact, direct action
	HookTCEgress   = "tc-egress"   // clsact, direct action
	HookXDPNative  = "xdp-native"  // driver mode; fails rather than fall back
	HookXDPGeneric = "xdp-generic" // skb mode
)

// AttachBPF attaches one program of a loaded object to a link in the step's
// namespace, and checks by reading back that it is there in the mode asked
// for. Undo: detached.
type AttachBPF struct {
	Handle  string `json:"handle"`
	Program string `json:"program"`
	Link    string `json:"link"`
	Hook    string `json:"hook"`
}

// Listen opens a TCP listener of the helper's own that accepts and closes.
// It proves reachability before the real server runs. Undo: closed.
type Listen struct {
	Handle string `json:"handle"`
	Port   int    `json:"port"`
}

// Scheduling policies of a program and its children (sched(7)).
const (
	// SchedBatch: woken, it waits until the one that runs sleeps or has had its slice.
	SchedBatch = "batch"
	// SchedRR: real time, lowest priority. It runs until it sleeps, or has had 100 ms
	// while another one of that policy waits. It must not spin.
	SchedRR = "rr"
)

// Start starts a server process in an endpoint (the step's In), in the
// endpoint's root file system and cgroup, and waits until Port listens there.
// Undo: terminated, then killed.
type Start struct {
	Handle string   `json:"handle"`
	Argv   []string `json:"argv"`
	CPUs   []int    `json:"cpus,omitempty"`
	Sched  string   `json:"sched,omitempty"` // as in Exec
	Port   int      `json:"port,omitempty"`  // TCP; 0 = do not wait
}

// Stop ends a Start or Listen before its undo would.
type Stop struct {
	Handle string `json:"handle"`
}

// Probe outcomes.
const (
	Allow = "allow" // the connection is established
	Deny  = "deny"  // no answer at all within the timeout; a reset is not a denial
)

// Probes tries TCP connections from the step's namespace, all at once, and
// fails unless every outcome is as wanted. Source addresses that the namespace
// lacks are added to Link for the time of the probe.
type Probes struct {
	Link    string  `json:"link"`
	Timeout float64 `json:"timeout"` // seconds a denial must stay silent
	Tries   []Probe `json:"tries"`
}

// Probe is one attempt.
type Probe struct {
	What string `json:"what"` // for messages: "forbidden source"
	From string `json:"from"` // source address
	To   string `json:"to"`
	Port int    `json:"port"`
	Want string `json:"want"`
}

// Read takes a snapshot of counters under a name. The values also return as
// the step's values, prefixed by nothing.
type Read struct {
	Name string  `json:"name"`
	From Counter `json:"from"`
}

// Counter says what Read reads. Exactly one of Rules and BPF is set.
type Counter struct {
	// Rules: tool and chain ("iptables-legacy", table "filter", "INPUT").
	// Values: rules (in the chain), rules_hook (in the whole table), packets
	// and bytes (of all the chain's rules with a target, plus its policy),
	// dropped (packets of DROP rules), accepted (packets of ACCEPT rules).
	Rules *RuleCounter `json:"rules,omitempty"`
	// BPF: a per-CPU array of {packets u64, bytes u64} indexed by verdict
	// (bpf/headers/stats.h) and the maps whose realised entries count.
	// Values: packets, bytes, dropped, accepted, and entries.MAP per map.
	BPF *BPFCounter `json:"bpf,omitempty"`
}

// RuleCounter names a chain of a netfilter rule set.
type RuleCounter struct {
	Tool  string `json:"tool"`
	Table string `json:"table"`
	Chain string `json:"chain"`
}

// BPFCounter names the counters of a loaded object.
type BPFCounter struct {
	Handle string   `json:"handle"`
	Stats  string   `json:"stats"`          // map name
	Maps   []string `json:"maps,omitempty"` // maps whose entries are counted
}

// Comparisons for Expect.
const (
	Equal   = "=="
	AtLeast = ">="
)

// Expect fails the trial unless a counter, or its growth since an earlier
// snapshot, is as stated.
type Expect struct {
	What  string `json:"what"` // what is proven, for messages
	Read  string `json:"read"`
	Since string `json:"since,omitempty"` // earlier snapshot to subtract
	Key   string `json:"key"`
	Op    string `json:"op"`
	Value uint64 `json:"value"`
}

// Exec runs the workload's client in an endpoint to completion and keeps its
// standard output as raw file Out. A non-zero exit fails the step with the
// tail of stderr.
type Exec struct {
	Argv    []string `json:"argv"`
	CPUs    []int    `json:"cpus,omitempty"`
	Sched   string   `json:"sched,omitempty"` // scheduling policy; "" = the kernel's usual one
	Timeout float64  `json:"timeout"`         // seconds
	Out     string   `json:"out,omitempty"`
}

// Snapshot keeps /proc/stat CPU times, /proc/softirqs sums, /proc/net/snmp
// and load average of the node as raw file Out (JSON, type Activity).
type Snapshot struct {
	Out string `json:"out"`
}

// Activity is what Snapshot writes.
type Activity struct {
	UnixNano int64              `json:"unix_nano"`
	CPU      map[string]float64 `json:"cpu_seconds"` // user, nice, system, idle, iowait, irq, softirq, steal; all CPUs
	Softirqs map[string]uint64  `json:"softirqs"`
	TCP      map[string]uint64  `json:"tcp"` // of the step's namespace
	Load1    float64            `json:"load1"`
}

func (Netns) Kind() string     { return "netns" }
func (Veth) Kind() string      { return "veth" }
func (Bridge) Kind() string    { return "bridge" }
func (SetLink) Kind() string   { return "set-link" }
func (Addr) Kind() string      { return "addr" }
func (Route) Kind() string     { return "route" }
func (Neigh) Kind() string     { return "neigh" }
func (Sysctl) Kind() string    { return "sysctl" }
func (Offload) Kind() string   { return "offload" }
func (Rules) Kind() string     { return "rules" }
func (LoadBPF) Kind() string   { return "load-bpf" }
func (FillMap) Kind() string   { return "fill-map" }
func (AttachBPF) Kind() string { return "attach-bpf" }
func (Listen) Kind() string    { return "listen" }
func (Start) Kind() string     { return "start" }
func (Stop) Kind() string      { return "stop" }
func (Probes) Kind() string    { return "probes" }
func (Read) Kind() string      { return "read" }
func (Expect) Kind() string    { return "expect" }
func (Exec) Kind() string      { return "exec" }
func (Snapshot) Kind() string  { return "snapshot" }

// actions lists every action once; decoding goes by it.
func actions() []Action {
	return []Action{
		Netns{}, Veth{}, Bridge{}, SetLink{}, Addr{}, Route{}, Neigh{}, Sysctl{}, Offload{},
		Rules{}, LoadBPF{}, FillMap{}, AttachBPF{}, Listen{}, Start{}, Stop{}, Probes{},
		Read{}, Expect{}, Exec{}, Snapshot{},
	}
}

// Kinds lists the kinds of all actions, sorted.
func Kinds() []string {
	var out []string
	for _, a := range actions() {
		out = append(out, a.Kind())
	}
	sort.Strings(out)
	return out
}

func decodeAction(kind string, args []byte) (Action, error) {
	for _, a := range actions() {
		if a.Kind() != kind {
			continue
		}
		p := reflect.New(reflect.TypeOf(a))
		dec := json.NewDecoder(bytes.NewReader(args))
		dec.DisallowUnknownFields()
		if err := dec.Decode(p.Interface()); err != nil {
			return nil, fmt.Errorf("decode step %q: %w", kind, err)
		}
		return p.Elem().Interface().(Action), nil
	}
	return nil, fmt.Errorf("unknown step kind %q, want one of %s", kind, strings.Join(Kinds(), ", "))
}

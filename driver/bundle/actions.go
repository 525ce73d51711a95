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

// Netkit makes a netkit pair in L2 mode (kernel 6.7): the primary Link in the
// step's namespace, Peer in PeerIn ("" is the node). Both are set up, and let
// packets through while no program is attached. Undo: deleted (a no-op if
// already gone).
type Netkit struct {
	Link    string `json:"link"`
	MAC     string `json:"mac,omitempty"`
	Peer    string `json:"peer"`
	PeerIn  string `json:"peer_in"`
	PeerMAC string `json:"peer_mac,omitempty"`
	MTU     int    `json:"mtu,omitempty"` // bytes, of both ends, 0 = kernel default
}

// NeedNetkit fails as unsupported where the kernel has no netkit: of a program that makes use of it
// later, and ends without it. Undo: none, nothing stays.
type NeedNetkit struct{}

// Bridge makes a Linux bridge, without STP, and sets it up. Undo: deleted.
type Bridge struct {
	Link string `json:"link"`
}

// Vxlan makes a VXLAN device (RFC 7348) over IPv4 and sets it up. It learns
// nothing: where a MAC address is must be said by FDB, or by the program that sets the
// tunnel key of each packet. UDPCsum is read back. Undo: deleted.
type Vxlan struct {
	Link     string `json:"link"`
	MAC      string `json:"mac"`
	Underlay string `json:"underlay"`      // link that outer packets leave by
	Local    string `json:"local"`         // their source address
	VNI      uint32 `json:"vni,omitempty"` // 0 with External
	Port     int    `json:"port"`          // UDP
	// UDPCsum: outer packets carry a UDP checksum. With External it is the tunnel
	// key of each packet that says so.
	UDPCsum bool `json:"udp_csum,omitempty"`
	// External: the tunnel key that a packet carries says where it goes.
	External bool `json:"external,omitempty"`
	MTU      int  `json:"mtu"` // bytes of inner IP
}

// FDB says behind which address of the underlay a MAC address is, for a Vxlan.
// Undo: removed.
type FDB struct {
	Link string `json:"link"`
	MAC  string `json:"mac"`
	Dst  string `json:"dst"`
}

// OverlayNetns names, for the steps after it, the namespace in which a container engine
// keeps the bridge and the VXLAN device of an overlay network: where the other end
// of Link, a link of the step's namespace, is. It is looked for among those that the
// engine has mounted. The step waits until the device has the way to others, and
// changes nothing. Value: udp_csum, 1 if the device computes the UDP checksum of
// outer packets, else 0. Undo: the name is forgotten.
type OverlayNetns struct {
	Name   string `json:"name"`
	Link   string `json:"link"`
	Device string `json:"device"` // the VXLAN device
	VNI    uint32 `json:"vni"`    // what it must have
	Port   int    `json:"port"`   // UDP, the same
	// Ways are the endpoints of other nodes, by address, and the underlay's address
	// that each must be behind.
	Ways    map[string]string `json:"ways"`
	Timeout float64           `json:"timeout"` // seconds to wait for them
}

// SetLink changes an existing link. Empty fields are left alone. Undo: the
// previous values return if the link still exists.
type SetLink struct {
	Link   string `json:"link"`
	Master string `json:"master,omitempty"` // name of a bridge in the same namespace
	MTU    int    `json:"mtu,omitempty"`
	Up     bool   `json:"up,omitempty"`
}

// Addr adds an address in CIDR form. An IPv6 one is added without duplicate
// address detection, so that it can be used at once. Undo: removed.
type Addr struct {
	Link string `json:"link"`
	CIDR string `json:"cidr"`
}

// Address families.
const (
	IPv4 = "ipv4"
	IPv6 = "ipv6"
)

// Route adds a route; Dst "default" or CIDR, Via may be empty for a link
// route. Undo: removed.
type Route struct {
	Dst    string `json:"dst"`
	Via    string `json:"via,omitempty"`
	Link   string `json:"link"`
	OnLink bool   `json:"onlink,omitempty"`
	// Family is of the default route; "" is the family of Via, or IPv4 without.
	Family string `json:"family,omitempty"`
}

// LocalMark has packets with a mark delivered in the step's namespace, whatever their
// destination: by a rule for the mark, and a local default route by lo in a table of its
// own (ip-rule(8)). Undo: removed.
type LocalMark struct {
	Mark   uint32 `json:"mark"`
	Table  int    `json:"table"`
	Family string `json:"family"`
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
// "iptables-legacy", "iptables-nft", "ip6tables-legacy" and "ip6tables-nft"
// mean `TOOL-restore --noflush -w`, "nft" means `nft -f`, "ipset" means
// `ipset restore` (atomic per line only). Undo: the Undo file, loaded the same
// way; if it is empty nothing is undone (the namespace goes away).
//
// In a file for nft the text "{handle:FAMILY TABLE CHAIN COMMENT}" is replaced by
// the handle of the chain's rule with that comment; it is looked up before the
// call is timed.
//
// The step's values: Metric is the wall time of the call in seconds, and
// MetricMemory what the kernel keeps of what the call loaded, where that is
// known; the step's note says how.
type Rules struct {
	Tool string `json:"tool"`
	File string `json:"file" bundle:"file"`
	Undo string `json:"undo,omitempty" bundle:"file"`
	// Metric names the value of the wall time, "" is "load_seconds".
	Metric string `json:"metric,omitempty"`
}

// Names of the values of steps that load and change policies, and of the metrics that
// rows have of them.
const (
	MetricLoad   = "load_seconds"   // wall time, of loading all policies
	MetricUpdate = "update_seconds" // wall time, of one policy in a set that is in force
	MetricAttach = "attach_seconds" // wall time, of loading an external program without policies
	MetricMemory = "memory_bytes"   // kernel memory
)

// LoadBPF loads a BPF object under a handle. The step's value "memory_bytes" is
// the kernel memory of its maps and programs (fdinfo's memlock: exact for maps
// from kernel 6.4, for programs without the machine code; left out where the
// kernel does not tell).
type LoadBPF struct {
	Handle string `json:"handle"`
	Object string `json:"object" bundle:"file"`
	// Vars sets `const volatile` variables: little-endian bytes in hex, of the
	// variable's exact size.
	Vars map[string]string `json:"vars,omitempty"`
	// MaxEntries overrides map sizes.
	MaxEntries map[string]uint32 `json:"max_entries,omitempty"`
	// Tables are the maps of policies, made first and in this order. The step's value
	// "load_seconds" is the wall time that making them takes.
	Tables []string `json:"tables,omitempty"`
	// Prealloc has the entries of the tables, hash maps then, allocated when they are
	// made, instead of each as it comes (without BPF_F_NO_PREALLOC, Linux 4.6).
	Prealloc bool `json:"prealloc,omitempty"`
	// LinkVars sets 32-bit variables to the ifindex of a link in the step's
	// namespace.
	LinkVars map[string]string `json:"link_vars,omitempty"`
	// Programs are the ones to keep; others in the object are not loaded.
	Programs []string `json:"programs"`
}

// FillMap updates a map of a loaded object, in batches where the kernel can
// (5.6; LPM tries 5.13), from a file of lines "KEYHEX VALUEHEX". An entry that
// is there is overwritten. The step's value Metric is the wall time in seconds,
// "entries" the number of lines, "memory_bytes" as for LoadBPF.
// In VALUEHEX the text "{ifindex:LINK}" and "{mac:LINK}" stand for the 4-byte
// little-endian ifindex and the 6-byte address of a link in the step's
// namespace ("peer:" names allowed).
type FillMap struct {
	Handle string `json:"handle"`
	Map    string `json:"map"`
	File   string `json:"file" bundle:"file"`
	// Delete removes the keys instead; values in the file are ignored. A key
	// that is not there is the rig's fault.
	Delete bool   `json:"delete,omitempty"`
	Metric string `json:"metric,omitempty"` // "" = MetricLoad
}

// Hooks for AttachBPF.
const (
	HookTCIngress  = "tc-ingress"  // clsact, direct action
	HookTCEgress   = "tc-egress"   // clsact, direct action
	HookXDPNative  = "xdp-native"  // driver mode; fails rather than fall back
	HookXDPGeneric = "xdp-generic" // skb mode
	HookTCXIngress = "tcx-ingress" // kernel 6.6; after the programs that are there
	HookTCXEgress  = "tcx-egress"  // kernel 6.6
	// Of a Netkit pair (kernel 6.7), Link being the primary for both: what the
	// primary sends, and what the peer sends.
	HookNetkitPrimary = "netkit-primary"
	HookNetkitPeer    = "netkit-peer"
	// HookSockOps is the cgroup of the step's endpoint (kernel 4.13), HookStream what the
	// sockets in Map of the same object receive (kernel 4.14), and HookMessage what they are
	// given to send (kernel 4.17); Link is not used.
	HookSockOps = "sockops"
	HookStream  = "sk-skb-stream"
	HookMessage = "sk-msg"
)

// AttachBPF attaches one program of a loaded object to a link in the step's
// namespace, and checks by reading back that it is there in the mode of
// Hook. Undo: detached.
type AttachBPF struct {
	Handle  string `json:"handle"`
	Program string `json:"program"`
	Link    string `json:"link"`
	Hook    string `json:"hook"`
	Map     string `json:"map,omitempty"`
}

// Cgroup gives the step's endpoint, a bare namespace, a cgroup of version 2, in which
// programs that are started there from then on run. Undo: removed. One that a killed helper
// left, which is empty, is removed by the next such step.
type Cgroup struct{}

// Listen opens a listener of the helper's own, for TCP and UDP over IPv4 and,
// where the kernel has it, IPv6. It proves reachability before the real server
// runs. Whatever it is sent it sends back; a TCP connection on which nothing
// comes for a minute after it was accepted is closed. Undo: closed, with every
// connection.
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
	// HTTP: Argv is of the HTTP programs' root file system (Hello.HTTPRoot) instead. The
	// program sees processes, /run and /tmp of that root only (see Program).
	HTTP bool `json:"http,omitempty"`
	// Files of the bundle that lie in /run of that root, with HTTP only.
	Files []string `json:"files,omitempty" bundle:"file"`
}

// Sniff counts the VXLAN packets that come and go by a link of the step's
// namespace, until it is undone or stopped (packet(7)). It is for a few packets:
// what is not read in time is lost, and then Read fails.
type Sniff struct {
	Handle string `json:"handle"`
	Link   string `json:"link"`
	Port   int    `json:"port"` // UDP, of the destination
}

// Stop ends a Start, Listen or Sniff before its undo would.
type Stop struct {
	Handle string `json:"handle"`
}

// Probe outcomes.
const (
	Allow = "allow" // the connection is established
	Deny  = "deny"  // no answer at all within the timeout; a reset is not a denial
)

// Protocols of Probes.
const (
	TCP  = "tcp"  // a connection; what "" means
	UDP  = "udp"  // a datagram that comes back
	ICMP = "icmp" // an echo request that is answered, ICMPv6 in IPv6
)

// Probes tries connections and datagrams from the step's namespace, all at
// once, and fails unless every outcome is as wanted. Source addresses that the
// namespace lacks are added to Link for the time of the probe. A datagram that
// is wanted to get through is repeated while it is not answered, because
// nothing else does that. Those that are wanted to get through have half a minute
// at least, and are the witnesses of the others, which are sent before them: these
// must stay silent for Timeout after the last witness was answered, and for several
// times as long as the slowest took, so that a busy machine's late answer is no
// denial.
type Probes struct {
	Link    string  `json:"link"`
	Timeout float64 `json:"timeout"` // seconds a denial must stay silent, at least
	Tries   []Probe `json:"tries"`
}

// Probe is one attempt.
type Probe struct {
	What string `json:"what"` // for messages: "forbidden source"
	From string `json:"from"` // source address; its family is the try's
	To   string `json:"to"`
	Port int    `json:"port"` // of TCP and UDP
	Want string `json:"want"`
	// Proto is TCP, UDP or ICMP.
	Proto string `json:"proto,omitempty"`
	// Size is the payload of a datagram in bytes, at most 65000; 0 is a small
	// one. One that does not fit the link's MTU goes, and comes back, in
	// fragments.
	Size int `json:"size,omitempty"`
}

// Refusals tries one probe of TCP several times, one attempt right after the other, and fails unless
// each is refused: silent for Timeout after the last was sent, or answered by an administrator's
// message. A source that the namespace lacks is added to Link for that time. Value: denied.
type Refusals struct {
	Link    string  `json:"link"`
	Try     Probe   `json:"try"` // its Want is Deny
	Times   int     `json:"times"`
	Timeout float64 `json:"timeout"` // seconds
	// Marked: a sealed guest sets the marks of a measured part around it.
	Marked bool `json:"marked,omitempty"`
}

// What becomes of a request, in addition to the status of its answer.
const (
	RequestReset  = "reset"  // the connection was reset
	RequestClosed = "closed" // the connection was closed
	RequestSilent = "silent" // nothing came back
	RequestUnsent = "unsent" // sending it was refused (EACCES)
)

// Requests makes HTTP requests from the step's namespace, a connection for each try, one
// after the other, and fails unless every one ends as it should. Values: allowed, the
// tries that got nothing but status 200, and denied, the others.
type Requests struct {
	To      string       `json:"to"`
	Port    int          `json:"port"`
	Timeout float64      `json:"timeout"` // seconds that one must stay silent that is to be
	Tries   []RequestTry `json:"tries"`
	// InCgroup: a process of its own makes them, in the endpoint's cgroup, as the workload's
	// programs are. Else the helper itself does.
	InCgroup bool `json:"in_cgroup,omitempty"`
	// Link gets the source addresses of tries that the namespace lacks, for as long.
	Link string `json:"link,omitempty"`
}

// RequestTry is what is sent on one connection.
type RequestTry struct {
	What string `json:"what"`           // for messages
	From string `json:"from,omitempty"` // source address; "" is the namespace's own
	// Parts are the bytes, each sent by one call, with a pause between them; with Await
	// each after the answer to the one before.
	Parts []string `json:"parts"`
	Await bool     `json:"await,omitempty"`
	// Requests is how many requests the bytes are, each of which is answered.
	Requests int `json:"requests"`
	// Want is the status of each answer, and if there are fewer than requests, how the
	// connection ends: "200 403", "200 reset".
	Want string `json:"want"`
}

// What a Flow step does.
const (
	FlowOpen  = "open"  // connects from From to To, and checks once
	FlowCheck = "check" // sends bytes and waits for them to come back
	FlowClose = "close" // resets
)

// Flow opens, checks or closes a long-lived TCP connection from the step's
// namespace to a Listen. Source addresses are added as for Probes, for as long
// as the flow is open. A connection that cannot be opened, or does not do what
// Want says, is the subject's fault. The value of open and check that got
// through is "echo_seconds", the time until the bytes were back. Undo of open:
// closed.
type Flow struct {
	Handle string `json:"handle"`
	Op     string `json:"op"`
	// Of FlowOpen.
	Link string `json:"link,omitempty"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	Port int    `json:"port,omitempty"`
	// Of FlowOpen and FlowCheck: seconds in which it has to happen.
	Timeout float64 `json:"timeout,omitempty"`
	// Of FlowCheck: Allow, which "" means, or Deny - nothing comes back within
	// Timeout. Denied bytes stay in the connection, and a later check that gets
	// through finds them before its own.
	Want string `json:"want,omitempty"`
}

// Read takes a snapshot of counters under a name. The values also return as
// the step's values, prefixed by nothing.
type Read struct {
	Name string  `json:"name"`
	From Counter `json:"from"`
}

// Values of a Read, as far as the fields of Counter name them.
const (
	CountPackets    = "packets"
	CountBytes      = "bytes"
	CountDropped    = "dropped"    // packets
	CountAccepted   = "accepted"   // packets that a policy admitted
	CountPassed     = "passed"     // packets that no policy is about
	CountRules      = "rules"      // in the chain
	CountRulesHook  = "rules_hook" // in the whole table
	CountEntries    = "entries"    // that a script reports
	CountSlots      = "slots"      // indices of a stats map
	CountEntriesOf  = "entries."   // and the map's name
	CountElementsOf = "elements."  // and the set's name
)

// Counter says what Read reads. Exactly one field is set.
type Counter struct {
	// Rules: a netfilter rule set; see RuleCounter for the values.
	Rules *RuleCounter `json:"rules,omitempty"`
	// BPF: a per-CPU array of {packets u64, bytes u64} indexed by verdict
	// (bpf/headers/stats.h) and the maps whose realised entries count.
	// Values: packets, bytes, dropped, accepted, entries.MAP per map, and
	// memory: the object's memory_bytes now (see LoadBPF).
	BPF *BPFCounter `json:"bpf,omitempty"`
	// Script prints its counters as one JSON object of whole numbers, by these
	// keys: packets, bytes, dropped, accepted, entries, and what else it has.
	Script *Program `json:"script,omitempty"`
	// Link: the counters of a link. Values: rx_packets, rx_bytes, tx_packets,
	// tx_bytes, and fragments: the IPv4 fragments that the step's namespace, or with
	// Outer the node's, made or was sent (RFC 4293's OutFragCreates and ReasmReqds).
	Link *LinkCounter `json:"link,omitempty"`
	// Proxy: what a proxy of requests reports of itself. Values: packets (requests, which
	// are what it judges), bytes (that clients sent; 0 where it does not say), and, where
	// it says, dropped (requests that it denied), accepted (the others) and rules.
	Proxy *ProxyCounter `json:"proxy,omitempty"`
	// CPU: the CPU time of programs. Values: by handle, in nanoseconds; those of a kernel
	// that keeps no such account (CONFIG_SCHED_INFO) are left out.
	CPU *CPUCounter `json:"cpu,omitempty"`
	// Sniff: what a Sniff has counted. Values: in, out, checksum and no_checksum
	// (of UDP), fragments, and vni.N for each of VNIs.
	Sniff *SniffCounter `json:"sniff,omitempty"`
	// Cilium: see CiliumCounter for the values.
	Cilium *CiliumCounter `json:"cilium,omitempty"`
}

// Kinds of proxies.
const (
	ProxyHAProxy = "haproxy" // by its stats socket, at a port
	ProxyNginx   = "nginx"   // by its stub_status, which counts the readings as well
)

// CPUCounter names programs of Start that run.
type CPUCounter struct {
	Handles []string `json:"handles"`
}

// ProxyCounter names a proxy by where it reports: a port of 127.0.0.1 in the step's
// namespace.
type ProxyCounter struct {
	Kind string `json:"kind"`
	Port int    `json:"port"`
}

// LinkCounter names a link of the step's namespace.
type LinkCounter struct {
	Link string `json:"link"`
	// Outer: the link's outer packets are those of the node's own namespace.
	Outer bool `json:"outer,omitempty"`
}

// SniffCounter names a Sniff, and the network identifiers to tell apart in
// packets that came in.
type SniffCounter struct {
	Handle string   `json:"handle"`
	VNIs   []uint32 `json:"vnis,omitempty"`
}

// RuleCounter names a chain of a netfilter rule set. Its values: rules (in the
// chain), rules_hook (in the whole table), packets and bytes (that the chain
// decided, or let pass), dropped (packets that met a rule that drops), accepted
// (packets that met a rule that accepts), passed (packets that met no such
// rule), elements.SET (of each set).
//
// With iptables, packets are those of all the chain's rules with a target, plus
// its policy; passed ones are those of RETURN rules and of a policy ACCEPT.
// With nft, packets are the sum over the table of all rules that count, and
// passed ones are those of rules that count and have no verdict; a rule set
// made for this has every packet meet one counter.
type RuleCounter struct {
	Tool  string `json:"tool"`  // of Rules, but not "ipset"
	Table string `json:"table"` // "filter"; of nft the family and name, "ip hookbed"
	Chain string `json:"chain"`
	// Sets are ipsets that the rules match. Those of an nft table are read
	// with it.
	Sets []string `json:"sets,omitempty"`
}

// BPFCounter names the counters of a loaded object.
type BPFCounter struct {
	Handle string   `json:"handle"`
	Stats  string   `json:"stats"`          // map name
	Maps   []string `json:"maps,omitempty"` // maps whose entries are counted
	// Ranges say what the indices of Stats mean where it is not the convention;
	// packets and bytes are of those in some range. Then slots is how many
	// indices there are.
	Ranges []StatRange `json:"ranges,omitempty"`
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

// Modes of XDP on a link, for Guard.
const (
	XDPNone    = "none"
	XDPNative  = "native"
	XDPGeneric = "generic"
)

// Guard looks at what could spoil a measurement without a filter's counters
// showing it, as it is now, and fails with FaultVoid and all that is wrong. What
// it looked at returns as values: xdp_program, mtu, jit_enable, jit_harden,
// conntrack_count, conntrack_max, entries.MAP, max_entries.MAP.
type Guard struct {
	// Link is looked at for XDP, Offloads and MTU ("peer:" names allowed).
	Link string `json:"link,omitempty"`
	// XDP is the mode that must be in force, "" is not looked at; with Program,
	// which is one of Handle, it must be that program's.
	XDP     string `json:"xdp,omitempty"`
	Program string `json:"program,omitempty"`
	// Offloads must read as stated, by their names as for Offload.
	Offloads map[string]bool `json:"offloads,omitempty"`
	// MTU is what Link must have, in bytes; 0 is not looked at.
	MTU int `json:"mtu,omitempty"`
	// JIT must be on (net.core.bpf_jit_enable = 1) and not hardened
	// (net.core.bpf_jit_harden = 0) on the machine, which a loaded program shows where
	// the sysctls are not shown, and every program of Handle, if given, be machine
	// code.
	JIT bool `json:"jit,omitempty"`
	// Conntrack is the largest share of nf_conntrack_max that the connections of
	// the step's namespace may take, 0 is not looked at. A namespace that tracks
	// none passes.
	Conntrack float64 `json:"conntrack,omitempty"`
	// Maps of Handle may be filled to these shares of their max_entries.
	Maps   map[string]float64 `json:"maps,omitempty"`
	Handle string             `json:"handle,omitempty"`
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
	// Recorded is the handle of a recording that the program belongs to from its first
	// instruction on; "" is none.
	Recorded string `json:"recorded,omitempty"`
	// HTTP: Argv is of the HTTP programs' root file system, as with Start.
	HTTP bool `json:"http,omitempty"`
}

// Parallel executes steps of one node at once, all Exec or all Probes, each in the
// namespace of its own In, and waits for all of them. Programs start
// together: each is held at its first instruction until all are there. If steps
// fail, it fails as they do. Values: the sums of the steps' values.
type Parallel struct {
	Steps []Step `json:"steps"`
}

// Snapshot keeps /proc/stat CPU times, /proc/softirqs sums, /proc/net/snmp
// and load average of the node as raw file Out (JSON, type Activity).
type Snapshot struct {
	Out string `json:"out"`
}

// Activity is what Snapshot writes.
type Activity struct {
	UnixNano int64 `json:"unix_nano"`
	// MonoNano is CLOCK_MONOTONIC, which is never set; durations are its. In virtual
	// time, where both tell the same, it is left out.
	MonoNano int64 `json:"mono_nano,omitempty"`
	// Waited is for how long some task of the machine had to wait for a CPU, ever, in
	// seconds (ParseWaited); nil where the kernel does not say.
	Waited   *float64           `json:"cpu_waited_seconds,omitempty"`
	CPU      map[string]float64 `json:"cpu_seconds"` // user, nice, system, idle, iowait, irq, softirq, steal; all CPUs
	Softirqs map[string]uint64  `json:"softirqs"`
	TCP      map[string]uint64  `json:"tcp"` // of the step's namespace
	Load1    float64            `json:"load1"`
}

// TestRuns runs loaded programs over frames by BPF_PROG_TEST_RUN (tc: 4.12,
// XDP: 4.12), each Repeat times in one system call, and times that call on the
// monotonic clock, because the kernel's own figure is in whole nanoseconds. The
// thread is pinned to CPU meanwhile. A return code other than Want is the
// subject's fault. Values: the nanoseconds of one run under each run's Name,
// the mean of its Repeat.
type TestRuns struct {
	CPU  int       `json:"cpu"`
	Runs []TestRun `json:"runs"`
}

// TestRun is one timed system call.
type TestRun struct {
	Name    string `json:"name"`
	Handle  string `json:"handle"`
	Program string `json:"program"`
	Frame   Frame  `json:"frame"`
	Want    uint32 `json:"want"` // the program's return code
	Repeat  uint32 `json:"repeat"`
}

// EmptyBPF loads the shortest program of a hook, two BPF instructions that let a
// packet pass, under the name EmptyProgram. What a test run of it costs is not the
// cost of any program. Hook is HookTCIngress or HookXDPNative. Undo: closed.
type EmptyBPF struct {
	Handle string `json:"handle"`
	Hook   string `json:"hook"`
}

// EmptyProgram is the name of the program that EmptyBPF loads.
const EmptyProgram = "empty"

// CountRuns runs a loaded program over a frame by BPF_PROG_TEST_RUN (4.12) and
// reads the time stamp counter (RDTSC) right before and right after each system
// call. In virtual time the counter counts instructions (docs/virtual-time.md); on
// other machines the values mean nothing. For each of Repeats, calls that run
// the program so often are made until the least ticks were seen CountSeen times,
// but no more than Tries: an interrupt makes a call longer, and nothing makes it
// shorter. A call that is long against the clock's tick begins right after one;
// from the first of Repeats on that would not fit between two ticks, none is made. A
// return code other than Want is the subject's fault. Values: CountTicks + R, the
// least ticks of a call with R runs, for each R of Repeats that was made; CountPeriod,
// the ticks between two ticks of the clock.
type CountRuns struct {
	Handle  string   `json:"handle"`
	Program string   `json:"program"`
	Frame   Frame    `json:"frame"`
	Want    uint32   `json:"want"`
	Repeats []uint32 `json:"repeats"`
	Tries   int      `json:"tries"`
}

// CountSeen is how often CountRuns sees the least ticks before it is content.
const CountSeen = 3

// Values of CountRuns, in ticks of the time stamp counter.
const (
	CountTicks  = "ticks."
	CountPeriod = "period"
)

// Generate sends copies of a frame out of a link of the step's namespace as
// fast as one CPU can, for Seconds, by BPF_PROG_TEST_RUN in its live-frames mode
// (5.18) with a program that redirects to the link. A veth takes such frames
// only if its other end has GRO or an XDP program. ToMAC and FromMAC of the
// frame are filled in: the next hop's as the namespace's neighbour table has
// it, and the link's own. Values: sent (frames given to the link), seconds,
// thread_seconds (CPU time of the sending thread, with the softirq work done on
// it), softirqd_seconds (of that CPU's ksoftirqd).
type Generate struct {
	Link    string  `json:"link"`
	Frame   Frame   `json:"frame"`
	CPU     int     `json:"cpu"`
	Seconds float64 `json:"seconds"`
	// Frames sends exactly so many instead.
	Frames uint64 `json:"frames,omitempty"`
	// Flow is the handle of an open Flow of the namespace whose port the frame
	// takes, so that filters take it for a part of that connection.
	Flow string `json:"flow,omitempty"`
}

func (Netns) Kind() string        { return "netns" }
func (Veth) Kind() string         { return "veth" }
func (Netkit) Kind() string       { return "netkit" }
func (NeedNetkit) Kind() string   { return "need-netkit" }
func (Bridge) Kind() string       { return "bridge" }
func (Vxlan) Kind() string        { return "vxlan" }
func (FDB) Kind() string          { return "fdb" }
func (OverlayNetns) Kind() string { return "sandbox" }
func (SetLink) Kind() string      { return "set-link" }
func (Addr) Kind() string         { return "addr" }
func (Route) Kind() string        { return "route" }
func (LocalMark) Kind() string    { return "local-mark" }
func (Neigh) Kind() string        { return "neigh" }
func (Sysctl) Kind() string       { return "sysctl" }
func (Offload) Kind() string      { return "offload" }
func (Rules) Kind() string        { return "rules" }
func (LoadBPF) Kind() string      { return "load-bpf" }
func (FillMap) Kind() string      { return "fill-map" }
func (AttachBPF) Kind() string    { return "attach-bpf" }
func (Cgroup) Kind() string       { return "cgroup" }
func (Listen) Kind() string       { return "listen" }
func (Start) Kind() string        { return "start" }
func (Sniff) Kind() string        { return "sniff" }
func (Stop) Kind() string         { return "stop" }
func (Probes) Kind() string       { return "probes" }
func (Refusals) Kind() string     { return "refusals" }
func (Requests) Kind() string     { return "requests" }
func (Flow) Kind() string         { return "flow" }
func (Read) Kind() string         { return "read" }
func (Expect) Kind() string       { return "expect" }
func (Guard) Kind() string        { return "guard" }
func (Exec) Kind() string         { return "exec" }
func (Parallel) Kind() string     { return "parallel" }
func (Snapshot) Kind() string     { return "snapshot" }
func (TestRuns) Kind() string     { return "test-runs" }
func (EmptyBPF) Kind() string     { return "empty-bpf" }
func (CountRuns) Kind() string    { return "count-runs" }
func (Generate) Kind() string     { return "generate" }
func (Tool) Kind() string         { return "tool" }
func (Daemon) Kind() string       { return "daemon" }
func (AdoptBPF) Kind() string     { return "adopt-bpf" }

func (RecordCalls) Kind() string       { return "record-calls" }
func (RecordDrops) Kind() string       { return "record-drops" }
func (CountInstructions) Kind() string { return "count-instructions" }
func (EndRecord) Kind() string         { return "end-record" }

// actions lists every action once; decoding goes by it.
func actions() []Action {
	return []Action{
		Netns{}, Veth{}, Netkit{}, NeedNetkit{}, Bridge{}, Vxlan{}, FDB{}, OverlayNetns{}, SetLink{}, Addr{}, Route{}, LocalMark{}, Neigh{}, Sysctl{}, Offload{},
		TestRuns{}, EmptyBPF{}, CountRuns{}, Generate{},
		Rules{}, LoadBPF{}, FillMap{}, AttachBPF{}, Cgroup{}, Listen{}, Start{}, Sniff{}, Stop{}, Probes{}, Refusals{}, Requests{}, Flow{},
		Read{}, Expect{}, Guard{}, Exec{}, Parallel{}, Snapshot{},
		Tool{}, Daemon{}, AdoptBPF{},
		CiliumReady{}, CiliumEndpoint{}, CiliumPolicies{},
		RecordCalls{}, RecordDrops{}, CountInstructions{}, EndRecord{},
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

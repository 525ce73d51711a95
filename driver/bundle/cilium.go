package bundle

// The steps about Cilium's agent, which a Daemon runs. They speak to its API on the daemon's
// socket. Agent is the handle of that Daemon.

// Names of Hello.Roots.
const (
	RootCilium = "cilium"
	RootEtcd   = "etcd"
)

// CiliumReady waits until the agent is well, and reads the version of its program, which must be
// CiliumLeast or later, and the modes that it is in, which must be Modes. The step's note is the
// version. Values: MetricAgentVersion, and MetricAgentUntested (1) if the version is of no series in
// Tested.
type CiliumReady struct {
	Agent   string      `json:"agent"`
	Program string      `json:"program"` // prints the version if it is given --version
	Tested  []string    `json:"tested"`  // series, "1.20"
	Modes   CiliumModes `json:"modes"`
	Timeout float64     `json:"timeout"` // seconds
}

// CiliumModes are what an agent's programs do, in the words of its health. Flags alone do not say
// it: where one lacks what it needs, the agent falls back to another mode and is well.
type CiliumModes struct {
	Within  string `json:"within"`  // how packets are delivered on the node: HostBPF or HostStack
	Between string `json:"between"` // how they get to other nodes: RoutedNative or RoutedTunnel
	Device  string `json:"device"`  // what joins endpoints: DeviceVeth or DeviceNetkitL2
	// SocketLookup: services are looked up when the sockets of endpoints connect, and not for each
	// packet that an endpoint sends.
	SocketLookup bool `json:"socket_lookup,omitempty"`
}

// Modes, as the agent says them (Routing and DatapathMode in api/v1/openapi.yaml).
const (
	HostBPF        = "BPF"
	HostStack      = "Legacy"
	RoutedNative   = "Native"
	RoutedTunnel   = "Tunnel"
	DeviceVeth     = "veth"
	DeviceNetkitL2 = "netkit-l2"
)

// Values of CiliumReady, which are metrics of each trial.
const (
	MetricAgentVersion  = "agent_version" // 1020003 is 1.20.3
	MetricAgentUntested = "agent_untested"
)

// CiliumLeast is the first version that reads policies from a directory (--static-cnp-path).
const CiliumLeast = "1.16"

// CiliumEndpoint joins an endpoint to the step's namespace by a veth pair, has the agent make it one
// of its endpoints, and waits until it is ready. It gets its address and the routes through the
// agent's router. Value: ready_seconds. Undo: removed from the agent, and the pair deleted.
type CiliumEndpoint struct {
	Agent    string   `json:"agent"`
	Endpoint string   `json:"endpoint"`
	Link     string   `json:"link"` // in the step's namespace
	MAC      string   `json:"mac"`
	Peer     string   `json:"peer"` // in the endpoint
	PeerMAC  string   `json:"peer_mac"`
	Addr     string   `json:"addr"`
	Labels   []string `json:"labels"`
	MTU      int      `json:"mtu,omitempty"`
	Timeout  float64  `json:"timeout"` // seconds
	// Netkit: the pair is one of netkit, as of Netkit, instead of veth.
	Netkit bool `json:"netkit,omitempty"`
}

// CiliumPolicies renames a file into the directory that the agent reads policies from, and waits
// until the endpoint is ready with a later revision of its policies than before. One that is not
// within Timeout is the subject's fault: an endpoint that cannot have its policies lets everything
// through. The step's value Metric is the wall time in seconds. Undo: none, the directory ends with
// the agent.
type CiliumPolicies struct {
	Agent    string  `json:"agent"`
	Endpoint string  `json:"endpoint"`
	File     string  `json:"file" bundle:"file"`
	To       string  `json:"to"` // path in the agent's root
	Timeout  float64 `json:"timeout"`
	Metric   string  `json:"metric,omitempty"` // "" = MetricLoad
}

// CiliumCounter reads what the agent says of an endpoint, and what its programs count. Values:
// ready (1, or 0 in another state), revision, entries.policy (of the endpoint's policy map), and of
// all incoming packets of the node's endpoints packets, bytes, accepted (both of what was
// forwarded), dropped (by policies) and errors (dropped for another reason).
type CiliumCounter struct {
	Agent    string `json:"agent"`
	Endpoint string `json:"endpoint"`
}

// Values of a CiliumCounter in addition to those of others.
const (
	CountReady    = "ready"
	CountRevision = "revision"
	// CountPolicyEntries are those of the policy map, under the name that the tc filters' map has.
	CountPolicyEntries = CountEntriesOf + "policy"
)

// Kind is the step's name in a bundle.
func (CiliumReady) Kind() string { return "cilium-ready" }

// Kind is the step's name in a bundle.
func (CiliumEndpoint) Kind() string { return "cilium-endpoint" }

// Kind is the step's name in a bundle.
func (CiliumPolicies) Kind() string { return "cilium-policies" }

package datapath

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// Cilium itself: its agent without Kubernetes, from the user's image. Fabric and filter are one,
// because the agent's programs both join the endpoints and enforce the policies.
const (
	FabricCilium = "cilium"
	filterCilium = "cilium"

	// KeyCiliumImage is the key of an arm that names the image.
	KeyCiliumImage = "cilium_image"

	optRouting          = "routing"
	optHostRouting      = "host_routing"
	optDevice           = "device"
	optServiceLookup    = "service_lookup"
	optPolicyAccounting = "policy_accounting"
	optAggregation      = "monitor_aggregation"

	routingNative = "native"
	routingVXLAN  = "vxlan"
	hostBPF       = "bpf"
	hostLegacy    = "legacy"
	deviceVeth    = "veth"
	deviceNetkit  = "netkit"
	lookupPacket  = "packet"
	lookupSocket  = "socket"
	switchOn      = "on"
	switchOff     = "off"
)

// Paths in the agent's root, and what it is called. /run is empty when it is started.
const (
	ciliumAgent   = "cilium-agent"
	ciliumTool    = "cilium-dbg"
	ciliumSocket  = "/run/cilium/cilium.sock"
	ciliumPIDFile = "/run/cilium/cilium.pid" // /var/run is a link to /run in its images
	ciliumCNP     = "cnp/hookbed.yaml"       // below /run/cilium
	ciliumNode    = "K8S_NODE_NAME"          // variable: the node's name, also without Kubernetes
	etcdHandle    = "etcd"
	etcdPort      = 2379
)

// Bounds in seconds. In an emulated machine of a busy computer it took more than 400 s until the
// agent listened, and it compiles its programs after that.
const (
	etcdLimit     = 240
	agentLimit    = 1200
	endpointLimit = 1200
	policiesLimit = 300
)

// CiliumMemory is the least memory of a machine that runs the agent, in MiB.
const CiliumMemory = 2048

// The link to sources that no endpoint has. Endpoints cannot send from other addresses than their
// own, as far as the agent is concerned, so the proof sends from there.
const (
	// Outside is the namespace's name.
	Outside         = "outside"
	outsideLink     = "hb-out" // its node's end
	outsideNodeAddr = "198.18.2.1"
	outsideAddr     = "198.18.2.2"
	outsideBits     = 24
)

// ciliumRange has the endpoints of all nodes: they are routed natively.
const ciliumRange = "198.18.0.0/16"

// ciliumTested are the series of the agent that its conformance was seen with (docs/cilium.md).
// Others run, and reports warn of them.
func ciliumTested() []string { return []string{"1.20"} }

// Foreign is the role, or the namespace, from which packets of sources that no endpoint has are
// sent to test a cell: the client, unless the fabric drops what is not from an endpoint's address.
func Foreign(cell plan.Cell) string {
	if NeedsCilium(cell) {
		return Outside
	}
	return Client
}

// NeedsCilium says whether a cell needs the agent, and so its image and etcd.
func NeedsCilium(cell plan.Cell) bool { return cell.Get(plan.FactorFilter) == filterCilium }

func ciliumFabric() fabric {
	return fabric{
		name: FabricCilium, doc: "the agent of Cilium, from an image that the user names", only: filterCilium, mechanism: catalog.TC, pastNetfilter: true, outside: true,
		options: []plan.Option{
			{Key: optRouting, Role: catalog.RolePath, Allowed: []string{routingNative, routingVXLAN}, Doc: "how packets get to other nodes"},
			{Key: optHostRouting, Role: catalog.RolePath, Allowed: []string{hostBPF, hostLegacy}, Doc: "the agent's programs deliver within a node, or the node's stack does"},
			{Key: optDevice, Silent: true, Role: catalog.RolePath, Allowed: []string{deviceVeth, deviceNetkit}, Since: map[string]string{deviceNetkit: "6.8"}, Doc: "what joins endpoints to their node: a veth pair, or netkit in L2 mode (--datapath-mode)"},
			{Key: optServiceLookup, Silent: true, Role: catalog.RolePath, Allowed: []string{lookupPacket, lookupSocket}, Doc: "services, of which there are none, are looked up for each packet that an endpoint sends, or when sockets connect (--bpf-lb-sock, --bpf-lb-sock-hostns-only)"},
		},
		build: buildCilium,
	}
}

func ciliumFilter() filter {
	policy := policyOptions()
	return filter{
		name: filterCilium, doc: "Cilium's own policies: a trie of identity, port and protocol for each endpoint", only: FabricCilium, render: renderCilium,
		nature: nature{mechanism: catalog.TC, structure: catalog.Prefixes, regime: catalog.AsStudy, external: "cilium", model: &catalog.Pair{Fabric: FabricBPF, Filter: "tc-hash"}, hook: "tc or tcx, as the agent chooses, at the node's end of each endpoint's link"},
		keys:   []plan.FreeKey{{Key: KeyCiliumImage, Image: true, Doc: "Cilium's image: NAME@sha256:..., or a file of docker save or OCI (FILE.tar, DIR/)"}},
		options: append(policy,
			plan.Option{Key: optPolicyAccounting, Allowed: []string{switchOn, switchOff}, Doc: "count packets and bytes of each policy (--policy-accounting)"},
			plan.Option{Key: optAggregation, Allowed: []string{"medium", "none", "low", "maximum"}, Doc: "how much of each connection is reported to monitors (--monitor-aggregation)"},
		),
		refuse: refuseCilium,
	}
}

func refuseCilium(lab plan.Lab, _ fabric, _ string, o map[string]string) string {
	switch {
	case lab.Clock == plan.ClockVirtual:
		return fmt.Sprintf("a guest in virtual time has no disk, and the agent's image does not fit its initramfs; write clock = %q", plan.ClockWall)
	case lab.Inventory != nil:
		return fmt.Sprintf("the agent changes its node's firewall and routes, and existing machines have their own; write provider = %q", plan.ProviderLibvirt)
	case lab.Capabilities().VMs && lab.Memory < CiliumMemory:
		return fmt.Sprintf("the agent, its compiler and etcd need lab.memory_mib >= %d, got %d", CiliumMemory, lab.Memory)
	case o[optFamily] == familyIPv6:
		return fmt.Sprintf("the agent is set up for IPv4; write family = %q", familyIPv4)
	case o[optAction] == actionDeny:
		return fmt.Sprintf("a deny list has another number of entries in each version of the agent, so that they would prove nothing; write action = %q", actionAllow)
	case o[optDevice] == deviceNetkit && o[optHostRouting] == hostLegacy:
		return fmt.Sprintf("the agent delivers to netkit by its own programs alone; write host_routing = %q", hostBPF)
	case o[optMatch] != matchLast:
		return "the agent's policies have no order; remove match"
	}
	return ""
}

// buildCilium starts etcd and an agent on each node, and has the agents make the endpoints.
func buildCilium(r *renderer) {
	t := r.Topology
	r.Network = NetworkNone
	for _, e := range r.endpoints() {
		if !t.Docker {
			r.apply(e.Node, "", bundle.Netns{Name: e.Role})
		}
	}
	r.outsideOf(r.outsideNode())
	r.routesToOutside()
	r.apply(t.Nodes[0], "", bundle.Daemon{Handle: etcdHandle, Root: bundle.RootEtcd, Argv: etcdArgv(r.etcdAddress()), Port: etcdPort, Dirs: []string{"etcd"}, Timeout: etcdLimit})
	for _, n := range t.Nodes {
		if r.netkit() { // the agent ends without it, and does not say so in the same way in each version
			r.apply(n, "", bundle.NeedNetkit{})
		}
		r.apply(n, "", bundle.Daemon{
			Handle: agentHandle(n), Root: bundle.RootCilium, Argv: r.agentArgv(n), Env: map[string]string{ciliumNode: n.Name}, Socket: ciliumSocket, Dirs: []string{"cilium/cnp"}, Timeout: agentLimit,
			After:  []string{ciliumTool, "post-uninstall-cleanup", "--force", "--all-state"},
			Cgroup: r.ownCgroup(), PIDFile: ciliumPIDFile, Later: true,
		})
	}
	for _, n := range t.Nodes { // together: each agent starts, and compiles its programs first
		r.apply(n, "", bundle.CiliumReady{Agent: agentHandle(n), Program: ciliumAgent, Tested: ciliumTested(), Modes: r.agentModes(), Timeout: agentLimit})
	}
	for _, e := range r.endpoints() {
		r.apply(e.Node, "", bundle.CiliumEndpoint{
			Agent: agentHandle(e.Node), Endpoint: e.Role, Link: e.agentLink(), MAC: e.HostMAC, Peer: endpointLink, PeerMAC: e.MAC,
			Addr: e.Addr.String(), Labels: endpointLabels(e.Role), Timeout: endpointLimit, Netkit: r.netkit(),
		})
		r.endpointSysctls(e)
	}
}

// ownCgroup says whether an agent gets a cgroup of its own: where nodes are namespaces of one
// computer, the root of the hierarchy is the computer's, and all agents would see each other's
// endpoints there.
func (r *renderer) ownCgroup() bool {
	return plan.Lab{Provider: r.cell.Get(plan.FactorProvider)}.Capabilities().Here()
}

// cgroupRoot is where the agent attaches its programs of sockets. It mounts the whole hierarchy in a
// place that has none.
func (r *renderer) cgroupRoot() string {
	if r.ownCgroup() {
		return "/sys/fs/cgroup"
	}
	return "/run/cilium/cgroupv2"
}

// netkit says whether endpoints are joined by netkit.
func (r *renderer) netkit() bool { return r.cell.Get(optDevice) == deviceNetkit }

// hostBPF says whether the agent's programs deliver within a node.
func (r *renderer) hostBPF() bool { return r.cell.Get(optHostRouting) == hostBPF }

// agentModes are those in which the agent must be for the cell to be what its factors say.
func (r *renderer) agentModes() bundle.CiliumModes {
	m := bundle.CiliumModes{Within: bundle.HostStack, Between: bundle.RoutedNative, Device: bundle.DeviceVeth, SocketLookup: r.socketLookup()}
	if r.hostBPF() {
		m.Within = bundle.HostBPF
	}
	if r.cell.Get(optRouting) == routingVXLAN {
		m.Between = bundle.RoutedTunnel
	}
	if r.netkit() {
		m.Device = bundle.DeviceNetkitL2
	}
	return m
}

// socketLookup says whether services are looked up when the sockets of endpoints connect.
func (r *renderer) socketLookup() bool { return r.cell.Get(optServiceLookup) == lookupSocket }

// serviceFlags are those about services. The agent delivers by its own programs only if it also
// takes kube-proxy's place, and then it always looks services up at sockets: of the node alone, or
// of endpoints, too.
func (r *renderer) serviceFlags() []string {
	if r.hostBPF() {
		return []string{"--kube-proxy-replacement=true", fmt.Sprintf("--bpf-lb-sock-hostns-only=%t", !r.socketLookup())}
	}
	return []string{"--kube-proxy-replacement=false", fmt.Sprintf("--bpf-lb-sock=%t", r.socketLookup())}
}

// agentHandle is that of a node's agent: one helper has the handles of all nodes of this computer.
func agentHandle(n Node) string { return "cilium-" + n.Name }

// agentLink is the node's end of an endpoint's link, by the prefix that the agent looks for.
func (e Endpoint) agentLink() string { return "lxc" + e.Role }

// outsideOf makes the namespace outside of the cluster, on a link that the agent watches as it
// does a network card.
func (r *renderer) outsideOf(n Node) {
	r.apply(n, "", bundle.Netns{Name: Outside})
	r.apply(n, "", bundle.Veth{Link: outsideLink, Peer: endpointLink, PeerIn: Outside})
	r.apply(n, "", bundle.Addr{Link: outsideLink, CIDR: cidr(netip.MustParseAddr(outsideNodeAddr), outsideBits)})
	r.apply(n, Outside, bundle.Addr{Link: endpointLink, CIDR: cidr(netip.MustParseAddr(outsideAddr), outsideBits)})
	r.apply(n, Outside, bundle.Route{Dst: "default", Via: outsideNodeAddr, Link: endpointLink})
	r.apply(n, "", bundle.Route{Dst: r.otherSources(), Via: outsideAddr, Link: outsideLink})
}

// outsideNode is the node that outside is on: the client's, unless packets to other nodes are
// tunnelled. A tunnelled packet carries the identity that the sender's node knows, which of
// sources that only the server's policies name is that of the world.
func (r *renderer) outsideNode() Node {
	if r.cell.Get(optRouting) == routingVXLAN {
		return r.Topology.Server.Node
	}
	return r.Topology.Client.Node
}

// routesToOutside leads other nodes' answers back through the node that outside is on.
func (r *renderer) routesToOutside() {
	t := r.Topology
	for _, n := range t.Nodes {
		if at := r.outsideNode(); n.Name != at.Name {
			r.apply(n, "", bundle.Route{Dst: r.otherSources(), Via: at.Data.String(), Link: DataLink})
		}
	}
}

// etcdAddress is where the agents reach etcd.
func (r *renderer) etcdAddress() string {
	if r.Topology.MultiHost() {
		return r.Topology.Nodes[0].Data.String()
	}
	return "127.0.0.1"
}

// etcdArgv starts etcd with one member. What it has need not outlive the setup, so nothing is
// synced.
func etcdArgv(address string) []string {
	url := func(host string, port int) string { return fmt.Sprintf("http://%s:%d", host, port) }
	peer := url("127.0.0.1", etcdPort+1)
	return []string{
		"etcd", "--name", "hookbed", "--data-dir", "/run/etcd/data", "--listen-client-urls", url(address, etcdPort), "--advertise-client-urls", url(address, etcdPort),
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "hookbed=" + peer, "--unsafe-no-fsync",
	}
}

// agentArgv are the agent's flags: no Kubernetes, no proxy, nothing that is not needed to join
// endpoints and enforce policies.
func (r *renderer) agentArgv(n Node) []string {
	devices, direct, address := outsideLink, outsideLink, outsideNodeAddr
	if r.Topology.MultiHost() {
		direct, address = DataLink, n.Data.String()
		if devices = DataLink; n.Name == r.outsideNode().Name {
			devices += "," + outsideLink
		}
	}
	argv := []string{
		ciliumAgent, "--enable-k8s=false", "--kvstore=etcd", fmt.Sprintf("--kvstore-opt=etcd.address=http://%s:%d", r.etcdAddress(), etcdPort),
		"--identity-allocation-mode=kvstore", "--cluster-name=default", "--cluster-id=0",
		"--ipam=cluster-pool", "--ipv4-range=" + n.Subnet.String(), "--ipv4-node=" + address, "--enable-ipv4=true", "--enable-ipv6=false",
		"--devices=" + devices, "--direct-routing-device=" + direct, "--datapath-mode=" + r.agentModes().Device,
		"--enable-ipv4-masquerade=false", "--enable-ipv6-masquerade=false",
		"--enable-health-checking=false", "--enable-endpoint-health-checking=false", "--enable-health-check-nodeport=false",
		"--enable-hubble=false", "--enable-l7-proxy=false", "--external-envoy-proxy=false",
		"--enable-policy=default", "--allow-localhost=policy", "--enable-host-firewall=false", "--bpf-policy-map-max=65536",
		"--static-cnp-path=/run/cilium/cnp", "--bpf-root=/sys/fs/bpf", "--cgroup-root=" + r.cgroupRoot(),
		"--state-dir=/run/cilium", "--lib-dir=/var/lib/cilium", "--socket-path=" + ciliumSocket, "--prometheus-serve-addr=",
		"--monitor-aggregation=" + r.cell.Get(optAggregation),
		fmt.Sprintf("--policy-accounting=%t", r.cell.Get(optPolicyAccounting) == switchOn),
		fmt.Sprintf("--enable-host-legacy-routing=%t", !r.hostBPF()),
	}
	argv = append(argv, r.serviceFlags()...)
	if r.cell.Get(optRouting) == routingVXLAN {
		return append(argv, "--routing-mode=tunnel", "--tunnel-protocol=vxlan")
	}
	return append(argv, "--routing-mode=native", "--auto-direct-node-routes=true", "--ipv4-native-routing-cidr="+ciliumRange)
}

// Labels by which policies select endpoints: without the namespace and the cluster a policy of a
// namespace selects none.
func endpointLabels(role string) []string {
	return []string{labelApp + "=" + role, "k8s:io.kubernetes.pod.namespace=default", "k8s:io.cilium.k8s.policy.cluster=default"}
}

const labelApp = "k8s:app"

// renderCilium gives the agent the policies, and says what it must have made of them.
func renderCilium(r *renderer) error {
	node := r.Topology.Server.Node
	counter := bundle.Counter{Cilium: &bundle.CiliumCounter{Agent: agentHandle(node), Endpoint: Server}}
	r.Hook = &Hook{Node: node.Name, From: counter}
	r.realised = append(r.realised, bundle.Expect{What: "the server is ready, with its policies in force", Key: bundle.CountReady, Op: bundle.Equal, Value: 1})
	if r.policies.size() == 0 {
		return nil
	}
	all := r.installed()
	load := func(name, metric string, ps []bpf.Policy) (bundle.CiliumPolicies, error) {
		text, err := r.networkPolicies(ps)
		return bundle.CiliumPolicies{Agent: agentHandle(node), Endpoint: Server, File: r.file(name, text), To: "/run/cilium/" + ciliumCNP, Timeout: policiesLimit, Metric: metric}, err
	}
	first, err := load("policies.yaml", "", all)
	if err != nil {
		return err
	}
	more, err := load("update.yaml", bundle.MetricUpdate, append(slices.Clone(all), r.policies.extra(false)))
	if err != nil {
		return err
	}
	again := first
	again.Metric = bundle.MetricUpdate
	r.apply(node, "", first)
	r.update(node, "", more)
	r.revert(node, "", again)
	r.realised = append(r.realised, bundle.Expect{
		What: fmt.Sprintf("entries of the server's policy map for %d policies, and the one for what it sends", len(all)),
		Key:  bundle.CountPolicyEntries, Op: bundle.Equal, Value: uint64(len(all) + 1),
	})
	return nil
}

// ciliumPolicy is a CiliumNetworkPolicy (cilium.io/v2) as far as the policies of cells need it. A
// file of it is JSON, which is YAML.
type ciliumPolicy struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Metadata   metadata     `json:"metadata"`
	Specs      []ciliumSpec `json:"specs"`
}

type metadata struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

type ciliumSpec struct {
	EndpointSelector selector        `json:"endpointSelector"`
	Ingress          []ciliumIngress `json:"ingress"`
}

type selector struct {
	MatchLabels map[string]string `json:"matchLabels"`
}

type ciliumIngress struct {
	FromEndpoints []selector   `json:"fromEndpoints,omitempty"`
	FromCIDR      []string     `json:"fromCIDR,omitempty"`
	ToPorts       []ciliumPort `json:"toPorts,omitempty"`
}

type ciliumPort struct {
	Ports []portProtocol `json:"ports"`
}

type portProtocol struct {
	Port     string `json:"port"`
	Protocol string `json:"protocol"`
}

// networkPolicies are policies in the agent's language, one spec each. It is an error if a policy
// could not be said by it: a file that the agent cannot read ends it.
func (r *renderer) networkPolicies(ps []bpf.Policy) ([]byte, error) {
	out := ciliumPolicy{APIVersion: "cilium.io/v2", Kind: "CiliumNetworkPolicy", Metadata: metadata{"hookbed", "default"}}
	for _, p := range ps {
		if p.Deny || !p.Source.IsValid() || p.Source != p.Source.Masked() {
			return nil, fmt.Errorf("policy %+v cannot be said to Cilium", p)
		}
		in := ciliumIngress{FromCIDR: []string{p.Source.String()}}
		if role, is := r.roleOf(p.Source); is {
			in = ciliumIngress{FromEndpoints: []selector{{map[string]string{labelApp: role}}}}
		}
		if p.Port != 0 {
			name := map[uint8]string{protoTCP: "TCP", protoUDP: "UDP"}[p.Proto]
			if name == "" {
				return nil, fmt.Errorf("policy %+v is of a protocol that has no ports", p)
			}
			in.ToPorts = []ciliumPort{{[]portProtocol{{fmt.Sprint(p.Port), name}}}}
		}
		out.Specs = append(out.Specs, ciliumSpec{selector{map[string]string{labelApp: Server}}, []ciliumIngress{in}})
	}
	text, err := json.MarshalIndent(out, "", " ")
	return append(text, '\n'), err
}

// roleOf is the client that a source is or has in it. The agent finds its own endpoints by labels
// and by no address.
func (r *renderer) roleOf(source netip.Prefix) (role string, is bool) {
	for _, c := range r.Topology.Clients() {
		if source.Contains(c.Addr) {
			return c.Role, true
		}
	}
	return "", false
}

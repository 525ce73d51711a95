package datapath

import (
	"fmt"

	"hookbed/analysis/catalog"
	"hookbed/driver/plan"
)

// Option keys and their levels.
const (
	optPolicy     = "policy"
	optAction     = "action"
	optFamily     = "family"
	optMatch      = "match"
	optState      = "state"
	optPlacement  = "placement"
	optEnforce    = "enforce"
	optAccounting = "accounting"
	optPrealloc   = "prealloc"
	optDelivery   = "delivery"
	optAttach     = "attach"
	optWhere      = "where"
	optSpin       = "spin"

	policyL4     = "l4"
	policyL3     = "l3"
	policyCIDR   = "cidr"
	actionAllow  = "allow"
	actionDeny   = "deny"
	familyIPv4   = "ipv4"
	familyIPv6   = "ipv6"
	matchLast    = "last"
	matchFirst   = "first"
	matchUniform = "uniform"

	stateAsStudy     = "as-study"
	stateEstablished = "established-first"
	stateStateless   = "stateless"
	placementInput   = "input"
	placementForward = "forward"
	placementBridge  = "bridge"

	enforceAll       = "all"
	enforceNew       = "new"
	enforceFirst     = "policy-first"
	accountingOff    = "off"
	accountingPerCPU = "per-cpu"
	accountingAtomic = "atomic"
	preallocOff      = "off"
	preallocOn       = "on"
	deliverRedirect  = "redirect"
	deliverPeer      = "peer"
	deliverNetkit    = "netkit"
	attachClsact     = "clsact"
	attachTCX        = "tcx"
	attachNative     = "native"
	attachGeneric    = "generic"
	whereEdge        = "edge"
	whereEndpoint    = "endpoint"
	whereNIC         = "nic"
)

func familyOption() plan.Option {
	return plan.Option{Key: optFamily, Role: catalog.RoleRig, Allowed: []string{familyIPv4, familyIPv6}, Doc: "addresses of endpoints and policies"}
}

// policyOptions are those of every filter that has policies.
func policyOptions() []plan.Option {
	return []plan.Option{
		{Key: optPolicy, Role: catalog.RolePolicies, Allowed: []string{policyL4, policyL3, policyCIDR, PolicyOwn}, Doc: "policies name source, port and protocol; the source alone; or a source prefix of mixed length, port and protocol; own is what arms have beside [[policy]]"},
		{Key: optAction, Role: catalog.RolePolicies, Allowed: []string{actionAllow, actionDeny}, Doc: "N policies admit and the rest is dropped, or N policies drop and the rest is admitted"},
		{Key: optMatch, Role: catalog.RolePolicies, Allowed: []string{matchLast, matchFirst, matchUniform}, Doc: "position of the policy that admits the client"},
	}
}

func accountingOption() plan.Option {
	return plan.Option{Key: optAccounting, Allowed: []string{accountingOff, accountingPerCPU, accountingAtomic}, Doc: "count packets and bytes of each policy: not, per CPU, or in one shared counter"}
}

// preallocOption came when runs were stored: cells that do not use it keep their IDs.
func preallocOption() plan.Option {
	return plan.Option{Key: optPrealloc, Silent: true, Allowed: []string{preallocOff, preallocOn}, Doc: "allocate the entries of the policies' hashes each as it comes (BPF_F_NO_PREALLOC), or all when the maps are made"}
}

func netfilterOptions(placements ...string) []plan.Option {
	return []plan.Option{
		{Key: optState, Allowed: []string{stateAsStudy, stateEstablished, stateStateless}, Role: catalog.RoleRegime,
			Regimes: map[string]string{stateAsStudy: catalog.AsStudy, stateEstablished: catalog.EstablishedFirst, stateStateless: catalog.Stateless},
			Doc:     "every rule asks for NEW; established connections are accepted first; or no connection tracking"},
		{Key: optPlacement, Allowed: placements, Doc: "hook: INPUT of the server's namespace, forward on its node (DOCKER-USER), or forward of nftables' bridge family"},
	}
}

func tcOptions() []plan.Option {
	return []plan.Option{
		{Key: optEnforce, Allowed: []string{enforceAll, enforceNew, enforceFirst}, Role: catalog.RoleRegime,
			Regimes: map[string]string{enforceAll: catalog.AsStudy, enforceNew: catalog.EstablishedFirst, enforceFirst: catalog.PolicyFirst},
			Doc:     "look the policy up for every packet that is no answer, for new connections only, or for every packet and before connections, which are asked about what it does not admit"},
		accountingOption(),
		{Key: optAttach, Allowed: []string{attachClsact, attachTCX}, Since: map[string]string{attachTCX: "6.6"}, Doc: "a filter of the clsact qdisc, or a tcx link (Linux 6.6)"},
	}
}

func xdpOptions() []plan.Option {
	return []plan.Option{
		{Key: optAttach, Allowed: []string{attachNative, attachGeneric}, Doc: "XDP mode: in the driver, or generic on the sk_buff"},
		whereOption(),
	}
}

func whereOption() plan.Option {
	return plan.Option{Key: optWhere, Allowed: []string{whereEdge, whereEndpoint, whereNIC},
		Means: map[string]string{plan.Localhost: whereEndpoint, plan.MultiHost: whereNIC},
		Doc:   "where the packet can first be met (the node's NIC between hosts, else the endpoint), the server's eth0, or the NIC of its node"}
}

// refusal says why options are impossible together, "" if they are not.
type refusal func(lab plan.Lab, fa fabric, scenario string, options map[string]string) string

// refuseFirst is the first refusal of several.
func refuseFirst(rs ...refusal) refusal {
	return func(lab plan.Lab, fa fabric, scenario string, options map[string]string) string {
		for _, r := range rs {
			if why := r(lab, fa, scenario, options); why != "" {
				return why
			}
		}
		return ""
	}
}

// refuseMatch: nothing admits the client in a deny list.
func refuseMatch(_ plan.Lab, _ fabric, _ string, o map[string]string) string {
	if o[optAction] == actionDeny && o[optMatch] != matchLast {
		return fmt.Sprintf("match = %q places the policy that admits the client, and a deny list has none; remove match, or write action = %q", o[optMatch], actionAllow)
	}
	return ""
}

// refuseCIDR is for filters that find whole addresses only.
func refuseCIDR(instead string) refusal {
	return func(_ plan.Lab, _ fabric, _ string, o map[string]string) string {
		if o[optPolicy] == policyCIDR {
			return fmt.Sprintf("a hash finds whole addresses, no prefixes; write filter = %q, or policy = %q", instead, policyL4)
		}
		return ""
	}
}

// refuseBare: two ends of one link are on one host.
func refuseBare(_ plan.Lab, fa fabric, scenario string, _ map[string]string) string {
	if fa.bare && scenario == plan.MultiHost {
		return fmt.Sprintf("fabric %q is one link between two endpoints of one host; write scenarios = [%q], or another fabric", fa.name, plan.Localhost)
	}
	return ""
}

// refusePlacement: what a fabric's packets do not pass.
func refusePlacement(_ plan.Lab, fa fabric, scenario string, o map[string]string) string {
	switch {
	case o[optPlacement] == placementBridge && scenario == plan.MultiHost:
		return fmt.Sprintf("packets of another host are routed into the bridge, past its forward hook; write placement = %q, or scenarios = [%q]", placementForward, plan.Localhost)
	case o[optPlacement] == placementForward && fa.pastNetfilter:
		return fmt.Sprintf("fabric %q takes packets past the node's netfilter; write placement = %q", fa.name, placementInput)
	case o[optPlacement] == placementBridge && !fa.bridged:
		return fmt.Sprintf("fabric %q has no bridge; write placement = %q", fa.name, placementInput)
	}
	return ""
}

// virtioNIC says whether the data NIC of a node is a virtio one. Elsewhere,
// and in virtual time, nodes are namespaces and their NIC is a veth.
func virtioNIC(provider, clock string) bool {
	return plan.Lab{Provider: provider}.Capabilities().VMs && clock != plan.ClockVirtual
}

// refuseXDP refuses what XDP cannot see, and native XDP on a virtio NIC that has
// no queues to spare: the driver wants a transmit queue for each CPU in addition to the
// stack's own, and without them falls back to a locked queue, which is another
// datapath than the cell's (virtnet_xdp_set in drivers/net/virtio_net.c).
func refuseXDP(lab plan.Lab, fa fabric, scenario string, o map[string]string) string {
	nic := o[optWhere] == whereNIC || o[optWhere] == whereEdge && scenario == plan.MultiHost
	native := o[optAttach] == attachNative
	switch {
	case nic && scenario == plan.Localhost:
		return fmt.Sprintf("packets within a host do not meet its NIC; write where = %q", whereEdge)
	// Since Linux 5.19 what bpf_redirect sends is marked, generic XDP lets it pass
	// unseen (netif_receive_generic_xdp in net/core/dev.c), and a veth keeps the mark.
	case fa.redirects && o[optAttach] == attachGeneric && !(nic && virtioNIC(lab.Provider, lab.Clock)):
		return fmt.Sprintf("generic XDP does not see what was redirected, which is all that fabric %q delivers; write attach = %q", fa.name, attachNative)
	case !nic && o[optDelivery] == deliverPeer:
		return fmt.Sprintf("native XDP on eth0 does not see what bpf_redirect_peer delivers; write delivery = %q", deliverRedirect)
	case !nic && o[optDelivery] == deliverNetkit:
		return fmt.Sprintf("netkit has no native XDP; write delivery = %q", deliverRedirect)
	case nic && native && lab.NIC.Card() == plan.NICE1000e:
		return fmt.Sprintf("%s has no native XDP; write attach = %q, or another network card", plan.NICE1000e, attachGeneric)
	case nic && native && virtioNIC(lab.Provider, lab.Clock) && lab.NIC.Card() == plan.NICVirtio && lab.Queues < 2*lab.VCPUs:
		return fmt.Sprintf("native XDP on the node's NIC wants lab.queues >= 2 x lab.vcpus = %d, got %d; raise queues, or write attach = %q",
			2*lab.VCPUs, lab.Queues, attachGeneric)
	}
	return ""
}

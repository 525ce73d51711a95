package catalog

import "maps"

// Schema1 is the catalog of plans of schema 1, and of rows without a plan: they
// have only the names of arms and options. It holds what these names meant when
// such plans were made, and is finished: no name is added here, since later plans
// carry their own catalog. Only this file and the study's own claims below
// analysis/ contain names of filters, options and workloads.
func Schema1() Catalog {
	return Catalog{
		Fabrics: []Fabric{{Name: "bridge", Base: true}, {Name: "routed"}, {Name: "bpf", Mechanism: TC}, {Name: "veth"}},
		Filters: schema1Filters(),
		Options: schema1Options(),
		Presets: []Preset{
			{"docker", "bridge", "none"}, {"iptables", "bridge", "iptables-legacy"}, {"cilium-like", "bpf", "tc-hash"},
			{"xdp", "bridge", "xdp-hash"}, {"xdp-pass", "bridge", "xdp-pass"}, {"control", "bridge", "tc-control"},
		},
		Workloads: schema1Workloads(),
	}
}

// schema1Filters are the filters by mechanism, and within a mechanism by structure.
func schema1Filters() []Filter {
	all := map[string]string{"family": "ipv4", "delivery": "redirect", "overlay": "none", "udpcsum": "on"}
	with := func(own ...map[string]string) map[string]string {
		out := maps.Clone(all)
		for _, o := range own {
			maps.Copy(out, o)
		}
		return out
	}
	policies := map[string]string{"policy": "l4", "action": "allow", "match": "last"}
	netfilter := with(policies, map[string]string{"state": AsStudy, "placement": "input"})
	attached := map[string]string{"enforce": "all", "accounting": "off", "attach": "clsact"}
	tc, programs := with(policies, attached), map[string]string{"attach": "native", "where": "edge"}
	xdp := with(policies, programs, map[string]string{"accounting": "off"})
	hash := map[string]string{"prealloc": "off"}
	nf := func(name, structure string) Filter {
		return Filter{Name: name, Mechanism: Netfilter, Structure: structure, Policies: true, Defaults: netfilter}
	}
	one := func(name, mechanism, structure, regime string, defaults ...map[string]string) Filter {
		return Filter{Name: name, Mechanism: mechanism, Structure: structure, Policies: true, Regime: regime, Defaults: with(defaults...)}
	}
	bare := func(name, mechanism string, control bool, defaults ...map[string]string) Filter {
		return Filter{Name: name, Mechanism: mechanism, Structure: Nothing, Control: control, Defaults: with(defaults...)}
	}
	external := func(name, mechanism, structure, project string, defaults ...map[string]string) Filter {
		return Filter{Name: name, Mechanism: mechanism, Structure: structure, Policies: true, Regime: Stateless, External: project, Defaults: with(defaults...)}
	}
	return []Filter{
		bare("none", "", false),
		nf("iptables-legacy", List), nf("iptables-nft", List), nf("ipset", Hash), nf("nft-linear", List), nf("nft-set", Hash),
		nf("nft-vmap", Hash), nf("nft-interval", Prefixes),
		bare("tc-pass", TC, false, attached), one("tc-linear", TC, List, "", tc), one("tc-hash", TC, Hash, "", tc, hash), one("tc-lpm", TC, Prefixes, "", tc),
		one("tc-cilium09", TC, HashAndList, "", tc, hash), bare("tc-control", TC, true, map[string]string{"spin": "0"}),
		bare("offloads-off", "", true, map[string]string{"where": "edge"}), bare("xdp-pass", XDP, false, programs),
		one("xdp-linear", XDP, List, Stateless, xdp), one("xdp-hash", XDP, Hash, Stateless, xdp, hash), one("xdp-lpm", XDP, Prefixes, Stateless, xdp),
		external("xdp-filter", XDP, Hash, "xdp-tools", policies, map[string]string{"policy": "l3"}, programs),
		external("bpfilter", "", "", "bpfilter", policies, map[string]string{"form": "set", "hook": "tc"}),
		one("custom", "", "", "", policies, map[string]string{"in": "server", "hook": "tc-ingress", "entries": "none"}),
	}
}

// schema1Options are the options of filters and fabrics.
func schema1Options() []Option {
	out := []Option{
		{Key: "family", Role: RoleRig}, {Key: "policy", Role: RolePolicies}, {Key: "action", Role: RolePolicies}, {Key: "match", Role: RolePolicies},
		{Key: "state", Role: RoleRegime, Regimes: map[string]string{"as-study": AsStudy, "established-first": EstablishedFirst, "stateless": Stateless}},
		{Key: "enforce", Role: RoleRegime, Regimes: map[string]string{"all": AsStudy, "new": EstablishedFirst, "policy-first": PolicyFirst}},
		{Key: "where", Role: RoleEnforcement, Means: map[string]string{"localhost": "endpoint", "multi-host": "nic"}},
		{Key: "delivery", Role: RolePath}, {Key: "overlay", Role: RoleOverlay}, {Key: "udpcsum", Role: RoleOverlay},
	}
	for _, key := range []string{"placement", "accounting", "prealloc", "attach", "spin", "form", "hook", "in", "entries",
		"apply", "remove", "counters", "object", "program", "link"} {
		out = append(out, Option{Key: key, Role: RoleEnforcement})
	}
	return out
}

// schema1Workloads are the three workloads of schema 1. Their stopping rule used a
// rate.
func schema1Workloads() []Workload {
	rate := func(title string) Metric { return Metric{Name: "rate", Title: title, Unit: "1/s", Higher: true} }
	return []Workload{
		{Name: "TCP_STREAM", Protocol: TCP, Tool: "iperf3", Figure: "throughput", Study: map[string]string{"localhost": "5", "multi-host": "7"},
			Headline: []Metric{{Name: "throughput", Title: "throughput", Unit: "bit/s", Higher: true}},
			Work:     Work{Name: "MiB", Instructions: "instructions_per_mib", Bytes: 1 << 20}},
		{Name: "TCP_RR", Protocol: TCP, Tool: "netperf", Figure: "latency", Study: map[string]string{"localhost": "6", "multi-host": "8"}, Stop: "rate",
			Headline: []Metric{{Name: "latency_mean", Title: "latency", Unit: "s"}, {Name: "latency_p50", Title: "median latency", Unit: "s"}, rate("transaction rate")},
			Work:     Work{Name: "transaction", Instructions: "instructions_per_transaction", Packets: 2}},
		{Name: "TCP_CRR", Protocol: TCP, Tool: "netperf", Figure: "crr-rate",
			Headline: []Metric{rate("connection rate")},
			Work:     Work{Name: "connection", Instructions: "instructions_per_transaction"}},
	}
}

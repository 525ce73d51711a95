package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// node is a part of a JSON Schema, draft 7.
type node map[string]any

// Schema is a JSON Schema of experiment files, for editors: the keys that the loader reads, with
// their levels. It says less than the loader, which also refuses what does not go together.
func Schema(cat Catalog) ([]byte, error) {
	root := object()
	for _, k := range Keys(cat) {
		at := root
		path := strings.Split(k.Path, ".")
		for _, key := range path[:len(path)-1] {
			at = inside(at, key)
		}
		last := path[len(path)-1]
		n := k.node()
		if text := docOf(k.Path, cat); text != "" {
			n["description"] = text
		}
		properties := at["properties"].(node)
		if have, ok := properties[last].(node); ok { // its own keys came first
			maps.Copy(n, have)
		}
		properties[last] = n
	}
	for path, keys := range required() {
		at := root
		for key := range strings.SplitSeq(path, ".") {
			if key != "" {
				at = inside(at, key)
			}
		}
		at["required"] = keys
	}
	arm := inside(root, "arm")
	arm["anyOf"] = []node{{"required": []string{"datapath"}}, {"required": []string{"filter"}}}
	arm["allOf"] = perFilter(cat)
	root["$schema"] = "http://json-schema.org/draft-07/schema#"
	root["title"] = "hookbed experiment"
	data, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the schema of experiments: %w", err)
	}
	return append(data, '\n'), nil
}

func object() node {
	return node{"type": "object", "properties": node{}, "additionalProperties": false}
}

// inside is the schema of what a key of an object holds: of each element of a list.
func inside(at node, key string) node {
	properties := at["properties"].(node)
	n, ok := properties[key].(node)
	if !ok {
		n = object()
		properties[key] = n
	}
	if items, ok := n["items"].(node); ok {
		return items
	}
	return n
}

// node is the schema of a key's value.
func (k Key) node() node {
	switch k.Kind {
	case KindTable:
		return object()
	case KindTables:
		return node{"type": "array", "minItems": 1, "items": object()}
	case KindNumber:
		return node{"type": "integer", "minimum": k.Low, "maximum": k.High}
	case KindFixed:
		return node{"const": k.Low}
	case KindReal:
		return node{"type": "number", "exclusiveMinimum": k.Low, "maximum": k.High}
	case KindFlag:
		return node{"type": "boolean"}
	case KindNumbers:
		return node{"type": "array", "minItems": 1, "uniqueItems": true, "items": node{"type": "integer", "minimum": k.Low, "maximum": k.High}}
	case KindWords:
		return node{"type": "array", "minItems": 1, "uniqueItems": true, "items": k.word()}
	}
	return k.word()
}

// word is the schema of a text.
func (k Key) word() node {
	switch {
	case k.Allowed != nil:
		return node{"type": "string", "enum": slices.Concat(k.Allowed, k.Unlisted)}
	case k.Pattern != "":
		return node{"type": "string", "pattern": k.Pattern}
	}
	return node{"type": "string"}
}

// required lists the keys that a table must have, by the table's path.
func required() map[string][]string {
	return map[string][]string{
		"":               {"schema", "name", "matrix", "arm"},
		"matrix":         {"scenarios", "workloads"},
		"matrix.nics":    {"model"},
		"measure.stop":   {"ci", "min", "max"},
		"arm":            {"name"},
		"policy":         {"file"},
		"lab.machine":    {"name", "host", "key", "known_hosts"},
		"lab.hypervisor": {"nodes", "uri", "key", "known_hosts"},
	}
}

// perFilter says of each filter, and of each datapath with a name of its own, which keys an arm has
// and which levels they have.
func perFilter(cat Catalog) (out []node) {
	seen := map[string]int{}
	for _, d := range cat.Datapaths {
		by, value := "filter", d.Filter
		if !d.Crossed {
			by, value = "datapath", d.Name
		}
		i, known := seen[by+value]
		if !known {
			i = len(out)
			seen[by+value] = i
			out = append(out, node{
				"if":   node{"properties": node{by: node{"const": value}}, "required": []string{by}},
				"then": node{"properties": node{}, "propertyNames": node{"enum": []string{"name", "datapath", "filter", "fabric"}}},
			})
		}
		then := out[i]["then"].(node)
		names := then["propertyNames"].(node)
		add := func(key string) {
			if have := names["enum"].([]string); !slices.Contains(have, key) {
				names["enum"] = append(have, key)
			}
		}
		for _, o := range d.Options {
			add(o.Key)
			then["properties"].(node)[o.Key] = node{"enum": o.Allowed}
		}
		for _, k := range d.Keys {
			add(k.Key)
		}
	}
	return out
}

// docOf says what a key is: of an arm's options, what the catalog says.
func docOf(path string, cat Catalog) string {
	if text := keyDocs()[path]; text != "" {
		return text
	}
	key, ok := strings.CutPrefix(path, "arm.")
	if !ok {
		return ""
	}
	var texts []string
	for _, d := range cat.Datapaths {
		for _, o := range d.Options {
			if o.Key == key && !slices.Contains(texts, o.Doc) {
				texts = append(texts, o.Doc)
			}
		}
		for _, k := range d.Keys {
			if k.Key == key && !slices.Contains(texts, k.Doc) {
				texts = append(texts, k.Doc)
			}
		}
	}
	return strings.Join(texts, "; or: ")
}

// keyDocs are what the keys of an experiment mean, but the options of arms and what is a workload's.
func keyDocs() map[string]string {
	return map[string]string{
		"schema":                     "version of the file's form",
		"name":                       "names the run directory",
		"description":                "what the experiment is for, in a sentence",
		"seed":                       "seed of all orders; the same file with the same seed has the same plan",
		"lab":                        "on what the experiment runs",
		"lab.provider":               "libvirt: VMs; local: network namespaces of this computer; ssh: existing machines",
		"lab.endpoint":               "containers of a Docker Engine, or bare network namespaces",
		"lab.clock":                  "wall: time as it passes; virtual: executed instructions, the same in every run",
		"lab.accel":                  "how VMs run: KVM where it works, or emulated",
		"lab.kernel":                 "the kernel that VMs boot",
		"lab.vcpus":                  "CPUs of a VM",
		"lab.sealed":                 "how guests in virtual time are started: by libvirt, or by QEMU alone",
		"lab.memory":                 "memory of a VM, as in \"2GiB\"",
		"lab.queues":                 "queue pairs of the data NIC; native XDP wants 2 x vcpus",
		"lab.nic":                    "model of the data NIC",
		"lab.mtu":                    "MTU of the data NIC and of the endpoints' links, in bytes",
		"lab.offloads":               "segmentation and receive offloads of the data NIC",
		"lab.abandon_after":          "how long a machine waits for its driver before it undoes everything",
		"lab.directory":              "directory on each machine for all that is pushed there",
		"lab.cache":                  "keep that directory for the next run",
		"lab.machine":                "an existing machine",
		"lab.machine.name":           "the node that it is",
		"lab.machine.host":           "its name or address",
		"lab.machine.port":           "port of its SSH server",
		"lab.machine.user":           "who logs in: root, or one who may sudo without a password",
		"lab.machine.key":            "path of the private key",
		"lab.machine.known_hosts":    "path of the file with its host key",
		"lab.machine.data":           "its NIC towards the other machine",
		"lab.hypervisor":             "a computer on whose libvirt nodes run",
		"lab.hypervisor.nodes":       "the nodes that run there",
		"lab.hypervisor.uri":         "as in qemu+ssh://root@host/system",
		"lab.hypervisor.key":         "path of the private key",
		"lab.hypervisor.known_hosts": "path of the file with its host key",
		"lab.hypervisor.socket":      "path of libvirtd's socket there",
		"lab.hypervisor.directory":   "directory there for images",
		"lab.hypervisor.data_bridge": "existing bridge there that joins the hypervisors",
		"measure":                    "how each trial is measured",
		"measure.blocks":             "boots of each cell, on the wall clock",
		"measure.seeds":              "boots of each scenario, in virtual time",
		"measure.parts":              "guests that each boot is divided among, in virtual time",
		"measure.trials":             "trials of each cell in each block",
		"measure.stop":               "ends a cell early by a rule fixed beforehand",
		"measure.stop.ci":            "relative half width of the interval that is enough, as in 0.02",
		"measure.stop.min":           "trials before the rule is applied",
		"measure.stop.max":           "trials at the most",
		"measure.estimator":          "how trials become one number",
		"measure.load_limit":         "load average of this computer above which a trial waits",
		"measure.steal_limit":        "share of stolen CPU time above which a trial is void",
		"measure.duration":           "how long a workload is measured, in whole seconds, as in \"10s\"",
		"measure.warmup":             "before it, not counted",
		"measure.count":              "transactions of a trial, by workload, in place of a duration",
		"measure.congestion":         "TCP congestion control of both endpoints",
		"measure.client_cpu":         "CPU of its machine that the client is pinned to",
		"measure.server_cpu":         "CPU of its machine that the server is pinned to",
		"matrix":                     "what is combined with each other and with every arm",
		"matrix.scenarios":           "both endpoints on one node, or on two",
		"matrix.workloads":           "the measured programs",
		"matrix.policies":            "numbers of policies; 0 is none",
		"matrix.clients":             "numbers of client endpoints",
		"matrix.streams":             "numbers of connections that each client has at once",
		"matrix.kernels":             "kernels that are compared, in place of lab.kernel",
		"matrix.nics":                "network cards that are compared",
		"matrix.nics.model":          "model of the card",
		"matrix.nics.queues":         "its queue pairs",
		"matrix.nics.mtu":            "its MTU in bytes",
		"matrix.nics.offloads":       "its segmentation and receive offloads",
		"arm":                        "a datapath that is measured, under a name; `driver arms` lists what there is",
		"arm.name":                   "its name in tables and figures",
		"arm.datapath":               "a filter on a fabric that have a name together",
		"arm.filter":                 "how policies are enforced",
		"arm.fabric":                 "how endpoints are joined",
		"policy":                     "a file of policies that arms enforce, in place of generated ones",
		"policy.file":                "path below the experiment's directory",
		"policy.inventory":           "path of the file with the pods' addresses and labels",
		"policy.server":              "the pod whose policies are enforced",
		"policy.client":              "the pod that is measured against it",
		"policy.port":                "port at which the server is measured",
	}
}

package plan

import (
	"fmt"
	"slices"
	"strings"
)

// Models of the data network's card, and its offloads.
const (
	NICVirtio  = "virtio"
	NICVmxnet3 = "vmxnet3"
	NICE1000e  = "e1000e"

	OffloadsOn  = "on"  // as the driver has them
	OffloadsOff = "off" // no segmentation or receive offload: tso, gso, gro, lro
)

// NIC is a network card of the data network as an experiment pins it. The zero
// value of a field is the default: virtio, the lab's queues, 1500, on.
type NIC struct {
	Model    string `json:"model,omitempty"`
	Queues   int    `json:"queues,omitempty"`   // queue pairs; of virtio only
	MTU      int    `json:"mtu,omitempty"`      // bytes, of the endpoints' links too
	Offloads string `json:"offloads,omitempty"` // OffloadsOn, OffloadsOff
}

const (
	minMTU     = 1280 // what IPv6 requires of a link
	defaultMTU = 1500
	maxMTU     = 9000 // what every card here can do
)

// Card is the model, virtio where none is named.
func (n NIC) Card() string {
	if n.Model == "" {
		return NICVirtio
	}
	return n.Model
}

// Bytes is the MTU.
func (n NIC) Bytes() int {
	if n.MTU == 0 {
		return defaultMTU
	}
	return n.MTU
}

// Plain says whether the card is what an experiment has that says nothing of it.
func (n NIC) Plain() bool { return n == NIC{} }

// String names the card by what is not the default: "virtio", "virtio-q1",
// "e1000e-mtu1400-nooffloads". It is the level of FactorNIC.
func (n NIC) String() string {
	s := n.Card()
	if n.Queues > 0 {
		s += fmt.Sprintf("-q%d", n.Queues)
	}
	if n.MTU > 0 {
		s += fmt.Sprintf("-mtu%d", n.MTU)
	}
	if n.Offloads == OffloadsOff {
		s += "-nooffloads"
	}
	return s
}

// nicKeys reads a card's keys: of the lab, or of one of the matrix's.
func (l *loader) nicKeys(t *table, model string) NIC {
	n := NIC{
		Model:    t.level(model, "", []string{NICVirtio, NICVmxnet3, NICE1000e}),
		MTU:      int(t.number("mtu", 0, minMTU, maxMTU)),
		Offloads: t.level("offloads", "", []string{OffloadsOn, OffloadsOff}),
	}
	if n.Model == NICVirtio {
		n.Model = ""
	}
	if n.MTU == defaultMTU {
		n.MTU = 0
	}
	if n.Offloads == OffloadsOn {
		n.Offloads = ""
	}
	return n
}

// nics reads the cards that are compared.
func (l *loader) nics(t *table, s *Spec) {
	if !t.has("nics") {
		t.get("nics")
		return
	}
	const write = `write nics = [{ model = "virtio" }, { model = "vmxnet3" }]`
	list, ok := t.keys["nics"].([]any)
	if !ok || len(list) == 0 || slices.ContainsFunc(list, func(v any) bool { _, isTable := v.(map[string]any); return !isTable }) {
		t.get("nics")
		t.problem("nics", "is not a list of network cards; %s", write)
		return
	}
	switch {
	case l.labOK && (!s.Lab.Capabilities().VMs || s.Lab.Clock == ClockVirtual):
		t.problem("nics", "are cards of VMs on the wall clock, and this lab has none; remove it, or write provider = %s and clock = %q", l.cat.withVMs(), ClockWall)
	case !s.Lab.NIC.Plain():
		t.problem("nics", "is there beside nic, mtu or offloads in [lab], which are of one card; remove those")
	}
	for _, c := range t.children("nics") {
		if !c.has("model") {
			t.problem("nics", "has a card without model; %s", write)
		}
		n := l.nicKeys(c, "model")
		if n.Queues = int(c.number("queues", 0, 1, maxQueues)); n.Queues == s.Lab.Queues {
			n.Queues = 0
		}
		c.finish()
		if slices.Contains(s.NICs, n) {
			t.problem("nics", "%q is there twice; each card once", n.String())
			continue
		}
		s.NICs = append(s.NICs, n)
	}
}

// cardKey is the key to blame for a card.
func (l *loader) cardKey(s Spec) string {
	if len(s.NICs) > 0 {
		return "matrix.nics"
	}
	for _, key := range []string{"lab.nic", "lab.mtu", "lab.queues"} {
		if l.doc.has(key) {
			return key
		}
	}
	return "lab"
}

// checkNICs refuses cards that a kernel has no driver for, and queues that a
// card has not.
func (l *loader) checkNICs(s Spec) {
	if !l.labOK {
		return
	}
	for _, b := range s.Boots() {
		key := l.cardKey(s)
		model := b.NIC.Card()
		if b.NIC.Queues > 1 && model != NICVirtio {
			l.doc.problem(max(l.doc.lines[key], 1), key, "%q has one queue in these machines, and virtio alone has more; remove queues", model)
		}
		if s.Lab.Endpoint == EndpointDocker && b.NIC.Bytes() > defaultMTU {
			l.doc.problem(max(l.doc.lines[key], 1), key, "the engine's bridge takes at most %d bytes, not %d; write endpoint = %q, or a smaller mtu", defaultMTU, b.NIC.MTU, EndpointNetns)
		}
		have := l.cat.NICs[b.Kernel]
		if len(have) == 0 || slices.Contains(have, model) {
			continue
		}
		var with []string
		for _, k := range l.cat.Kernels {
			if slices.Contains(l.cat.NICs[k], model) {
				with = append(with, k)
			}
		}
		l.doc.problem(max(l.doc.lines[key], 1), key, "kernel %s has no driver for %q; write a kernel that has: %s", b.Kernel, model, strings.Join(with, ", "))
	}
}

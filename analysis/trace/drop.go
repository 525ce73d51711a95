package trace

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// UnitAttempt is a connection that policies refuse: one packet, from the client's system call on.
const UnitAttempt = "attempt"

// Drop is where a packet ends that the policies refuse: of several attempts, each of them one packet.
type Drop struct {
	Units  float64 `json:"units"` // whole attempts
	Window Window  `json:"window"`
	// PerUnit is instructions an attempt, in the mean; the others are of the attempt that is shown, whose
	// path Same of Compared took.
	PerUnit      float64 `json:"instructions_per_unit"`
	Instructions uint64  `json:"instructions"`
	Least        uint64  `json:"least"`
	Most         uint64  `json:"most"`
	Compared     int     `json:"compared_units"`
	Same         int     `json:"same_path"`
	Paths        int     `json:"paths"`

	// ToDrop is what was executed from the beginning of the attempt until its packet was freed, and
	// FromWire the part of it from where the client's device takes the packet: what is between two
	// endpoints is a pair of virtual devices.
	ToDrop   uint64 `json:"instructions_to_drop"`
	FromWire uint64 `json:"instructions_from_wire"`
	// Stages are the part of the way that decided, and what it is part of: "netfilter INPUT", "iptables
	// rules".
	Stages []string `json:"stages"`
	// Function gave the packet up by calling FreedBy, and did so for Ended packets of whole attempts.
	Function string `json:"function"`
	FreedBy  string `json:"freed_by"`
	Ended    uint64 `json:"ended"`
	// Reason is the kernel's word for why (enum skb_drop_reason), of Recorded packets of other attempts of
	// the same boot. It is "" before Linux 5.17, and Recorded is 0 where the kernel says of no packet that
	// it was dropped.
	Reason   string      `json:"reason,omitempty"`
	Recorded int         `json:"recorded"`
	Layers   []LayerCost `json:"layers"` // of all whole attempts

	trace *Trace // of the attempts; nil if it was read from a file
}

// Freed is how packets ended, as the kernel recorded it.
type Freed struct {
	Packets  int
	Function string // that gave them up
	Reason   string
}

// freeing are the functions that free a packet: as one that is dropped (net/core/skbuff.c), or as one
// that was used, or as the page that XDP has it in (net/core/xdp.c).
func freeing(name string) bool {
	switch plainName(name) {
	case "kfree_skb", "kfree_skb_reason", "kfree_skb_list", "kfree_skb_list_reason", "sk_skb_reason_drop":
		return true
	}
	return false
}

// usedUp are the functions that free a packet which is not dropped by the kernel's own account.
func usedUp(name string) bool {
	switch plainName(name) {
	case "consume_skb", "xdp_return_frame", "xdp_return_frame_rx_napi", "xdp_return_buff", "__xdp_return", "page_frag_free", "napi_consume_skb":
		return true
	}
	return false
}

// callAt is a call with the stack that it is in, itself last.
type callAt struct {
	call  *Call
	stack []string
}

// caller is the name of what called it, "" for a thread.
func (c callAt) caller() string {
	if n := len(c.stack); n > 1 {
		return plainName(c.stack[n-2])
	}
	return ""
}

// places are all calls of a path in the order in which they begin.
func places(calls []*Call, above []string) (out []callAt) {
	for _, c := range calls {
		stack := append(above[:len(above):len(above)], c.Name)
		out = append(out, callAt{c, stack})
		out = append(out, places(c.Calls, stack)...)
	}
	return out
}

// NewDrop says where the packets of attempts end. The trace is that of the attempts alone; recorded is
// what the kernel says of others like them, the most frequent first.
func NewDrop(t *Trace, recorded []Freed) (*Drop, error) {
	p := t.Path
	d := &Drop{Units: t.Units, Window: t.Window, PerUnit: t.PerUnit(t.Window.Measured), Instructions: p.Instructions, Least: p.Least, Most: p.Most,
		Compared: p.Units, Same: p.Same, Paths: p.Paths, Layers: t.Measured.LayerCosts(), trace: t}
	all := places(p.Calls, nil)
	end, err := d.end(all, recorded)
	if err != nil {
		return nil, err
	}
	d.FreedBy, d.Function, d.ToDrop = plainName(end.call.Name), end.caller(), end.call.End
	d.Ended = endedAt(t.Measured, d.Function, d.FreedBy)
	if i := slices.IndexFunc(all, func(p callAt) bool { return onWire(p.call.Name) }); i >= 0 && all[i].call.Begin < d.ToDrop {
		d.FromWire = d.ToDrop - all[i].call.Begin
	}
	d.Stages = deciding(all, end)
	return d, d.check()
}

// check finds numbers that do not agree.
func (d *Drop) check() error {
	sum := uint64(0)
	for _, l := range d.Layers {
		sum += l.Self
	}
	switch {
	case sum != d.Window.Measured:
		return fmt.Errorf("the layers of refused attempts have %d instructions, the window has %d", sum, d.Window.Measured)
	case d.ToDrop > d.Instructions || d.FromWire > d.ToDrop:
		return fmt.Errorf("of the %d instructions of a refused attempt %d come before its end, %d of them from the wire", d.Instructions, d.ToDrop, d.FromWire)
	case d.trace == nil:
		return nil
	}
	return d.trace.check()
}

// endedAt counts the calls of a function from another.
func endedAt(t Tree, caller, name string) (n uint64) {
	for _, node := range t.Nodes {
		if node.Parent > 0 && plainName(node.Name) == name && plainName(t.Nodes[node.Parent].Name) == caller {
			n += node.Calls
		}
	}
	return n
}

// onWire is true of the functions by which a device of an endpoint takes a packet.
func onWire(name string) bool {
	switch plainName(name) {
	case "veth_xmit", "netkit_xmit", "start_xmit":
		return true
	}
	return false
}

// end is the call that frees the packet: that which the kernel recorded; else, where it recorded none,
// the last that drops a packet or, if none does, that uses one up.
func (d *Drop) end(all []callAt, recorded []Freed) (end callAt, err error) {
	for _, r := range recorded {
		for _, p := range slices.Backward(all) {
			if freeing(p.call.Name) && p.caller() == plainName(r.Function) {
				d.Reason, d.Recorded = r.Reason, r.Packets
				return p, nil
			}
		}
	}
	if len(recorded) > 0 {
		return callAt{}, fmt.Errorf("the kernel recorded that %s gave up %d packets, and on the path of a refused attempt it does not", recorded[0].Function, recorded[0].Packets)
	}
	for _, is := range []func(string) bool{freeing, usedUp} {
		for _, p := range slices.Backward(all) {
			if is(p.call.Name) && p.caller() != "" {
				return p, nil
			}
		}
	}
	return callAt{}, errors.New("no packet is freed on the path of a refused attempt")
}

// deciding are the last part of the way at which policies are enforced before the packet ends, and what
// it is part of up to the nearest hook, the hook first.
func deciding(all []callAt, end callAt) (out []string) {
	var last callAt
	for _, p := range all {
		if p.call.Begin < end.call.Begin && enforcing(StageOf(p.stack)) {
			last = p
		}
	}
	for n := len(last.stack); n > 0; n-- {
		stage := StageOf(last.stack[:n])
		if stage == "" || !enforcing(stage) {
			continue
		}
		out = append([]string{stage}, out...)
		if isHook(stage) {
			return out
		}
	}
	if hook := inlinedHook(last.stack); hook != "" {
		out = append([]string{hook}, out...)
	}
	return out
}

// inlinedHook is the hook of a program that is called by the function of which the compiler has made
// the hook's own a part: in Linux 5.10 veth_xdp_rcv_skb of veth_poll, and sch_handle_ingress of
// __netif_receive_skb_core. "" if other parts of the way are between them.
func inlinedHook(stack []string) string {
	for n := len(stack); n > 0; n-- {
		switch plainName(stack[n-1]) {
		case "veth_poll":
			return "XDP on veth"
		case "__netif_receive_skb_core":
			return "tc ingress"
		case "__dev_queue_xmit":
			return "tc egress"
		}
		if stage := StageOf(stack[:n]); stage != "" && !enforcing(stage) && !strings.HasPrefix(stage, "classifier") {
			return ""
		}
	}
	return ""
}

// isHook is true of the stages at which the kernel calls whatever is attached there.
func isHook(stage string) bool {
	return slices.ContainsFunc([]string{"netfilter", "tc ", "XDP on", "generic XDP"}, func(p string) bool { return strings.HasPrefix(stage, p) })
}

// Where says at which part of the way a packet ends: "netfilter INPUT, iptables rules".
func (d *Drop) Where() string { return strings.Join(d.Stages, ", ") }

// Why is the kernel's reason in words.
func (d *Drop) Why() string {
	switch {
	case d.Recorded == 0:
		return "not recorded as dropped"
	case d.Reason == "":
		return "the kernel has no reasons"
	}
	return d.Reason
}

// WriteDrop writes drop.md: where a refused packet ends, its way there as a tree cut at its stages,
// and what other attempts did.
func WriteDrop(w io.Writer, t *Trace) error {
	d := t.Drop
	if d == nil || d.trace == nil {
		return errors.New("the path of refused attempts is not known")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: where a refused packet ends\n\n", markdownText(t.setupTitle()))
	for _, line := range append(d.facts(), d.trace.pathFacts()...) {
		fmt.Fprintf(&b, "- %s\n", markdownText(line))
	}
	d.trace.Path.write(&b, UnitAttempt)
	_, err := io.WriteString(w, b.String())
	return err
}

// facts say where the packet ends.
func (d *Drop) facts() []string {
	out := []string{fmt.Sprintf("It ends at %s: %s gives it up and %s frees it. So ended %s of %s whole %s.",
		d.Where(), d.Function, d.FreedBy, grouped(int64(d.Ended)), grouped(int64(d.Compared)), plural(UnitAttempt))}
	switch {
	case d.Recorded == 0:
		out = append(out, "The kernel's event skb:kfree_skb recorded none of the attempts that followed: their packets do not end as dropped ones.")
	case d.Reason == "":
		out = append(out, fmt.Sprintf("The kernel's event skb:kfree_skb recorded the same function for %s that followed. It has no reasons: they came with Linux 5.17.", counted(d.Recorded, "packet")))
	default:
		out = append(out, fmt.Sprintf("Reason: %s, by the kernel's event skb:kfree_skb for %s that followed, and the same function.", d.Reason, counted(d.Recorded, "packet")))
	}
	return append(out, fmt.Sprintf("%s instructions until it is freed, %s of them from the wire: from where the client's device takes it. What follows returns to the client.",
		grouped(int64(d.ToDrop)), grouped(int64(d.FromWire))))
}

// setupTitle names the cell without its workload: "iptables at N = 100, localhost".
func (t *Trace) setupTitle() string {
	out := t.Arm()
	if n := t.Factors[factorPolicies]; n != "" {
		out += " at N = " + n
	}
	if v := t.Factors[factorScenario]; v != "" {
		out += ", " + v
	}
	return out
}

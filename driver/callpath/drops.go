package callpath

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Drops are the IP packets that were dropped while the enforcement was proven.
type Drops struct {
	// Denied are the attempts that the policies must not let through.
	Denied []string `json:"denied"`
	// Reasons: the kernel has them (5.17). Else only the place is known.
	Reasons bool   `json:"reasons"`
	Drops   []Drop `json:"drops"`
}

// Drop is one way in which packets were dropped.
type Drop struct {
	Packets int    `json:"packets"`
	Reason  string `json:"reason,omitempty"` // "NETFILTER_DROP"; "" before Linux 5.17
	// Where is the function that gave the packet up.
	Where string `json:"where"`
	// Stack are the functions that led there, the outermost first.
	Stack []string `json:"stack"`
}

// with adds the drops of another node.
func (d *Drops) with(more Drops) *Drops {
	if d == nil {
		return &more
	}
	d.Reasons = d.Reasons || more.Reasons
	d.Drops = append(d.Drops, more.Drops...)
	return d
}

// ofDropping are the functions that free a packet; what called them gave it up.
func ofDropping(name string) bool {
	switch name {
	case "kfree_skb", "kfree_skb_reason", "kfree_skb_list_reason", "kfree_skb_list", "sk_skb_reason_drop", "__traceiter_kfree_skb",
		"trace_event_raw_event_kfree_skb", "trace_event_buffer_commit", "__kfree_skb_reason", "__sk_skb_reason_drop":
		return true
	}
	return false
}

// Marks of the entries that a text of drops has, behind their CPU and time: an event, and the stack
// that led to it (trace_stack_print in kernel/trace/trace_output.c).
const (
	eventMark = ": kfree_skb: "
	stackMark = ": <stack trace>"
)

// ReadDrops reads the text of the event skb:kfree_skb with stacks (include/trace/events/skb.h). A stack
// is an entry of its own behind its event. The text has the entries of all CPUs in the order of time
// (__find_next_entry in kernel/trace/trace.c), so where two CPUs drop at once the events of both may
// come before the first stack.
func ReadDrops(r io.Reader) (Drops, error) {
	out := Drops{Drops: []Drop{}}
	var all []*Drop
	var of *Drop                    // whose stack the next lines are; nil where its event is not there
	waiting := map[string][]*Drop{} // events of a CPU without their stacks; one may interrupt another
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		text := strings.TrimSpace(s.Text())
		if head, fields, ok := strings.Cut(text, eventMark); ok {
			of = &Drop{Packets: 1}
			if _, reason, ok := strings.Cut(fields, "reason: "); ok {
				of.Reason, out.Reasons = strings.TrimSpace(reason), true
			}
			all = append(all, of)
			waiting[cpuOf(head)] = append(waiting[cpuOf(head)], of)
			continue
		}
		if head, ok := strings.CutSuffix(text, stackMark); ok {
			of = nil
			if w := waiting[cpuOf(head)]; len(w) > 0 {
				of, waiting[cpuOf(head)] = w[len(w)-1], w[:len(w)-1]
			}
			continue
		}
		if name, ok := strings.CutPrefix(text, "=> "); ok && of != nil {
			of.called(name)
		}
	}
	if err := s.Err(); err != nil {
		return out, fmt.Errorf("read drops: %w", err)
	}
	out.Drops = merge(all)
	return out, nil
}

// cpuOf is the CPU in what is before an entry: "guest-271     [001] b.s21   170.104451".
func cpuOf(head string) string {
	head, _, _ = strings.Cut(head[strings.LastIndex(head, "[")+1:], "]")
	return head
}

// called adds the next outer function of a stack, whose innermost ones free the packet.
func (d *Drop) called(name string) {
	name, _, _ = strings.Cut(name, " ")
	name, _, _ = strings.Cut(name, "+")
	name = functionName(name)
	if len(d.Stack) > 0 || !ofDropping(name) {
		d.Stack = append(d.Stack, name)
	}
}

// merge counts the drops that happened in the same way, the most frequent first.
func merge(all []*Drop) []Drop {
	out := []Drop{}
	at := map[string]int{}
	for _, d := range all {
		slices.Reverse(d.Stack)
		if n := len(d.Stack); n > 0 {
			d.Where = d.Stack[n-1]
		}
		key := d.Reason + " " + strings.Join(d.Stack, " ")
		k, known := at[key]
		if !known {
			at[key] = len(out)
			out = append(out, *d)
			continue
		}
		out[k].Packets++
	}
	slices.SortStableFunc(out, func(a, b Drop) int { return cmp.Compare(b.Packets, a.Packets) })
	return out
}

// ByPlace sums the drops of one reason in one function, whatever led there.
func (d Drops) ByPlace() []Drop {
	var places []*Drop
	for _, one := range d.Drops {
		i := slices.IndexFunc(places, func(p *Drop) bool { return p.Reason == one.Reason && p.Where == one.Where })
		if i < 0 {
			i = len(places)
			places = append(places, &Drop{Reason: one.Reason, Where: one.Where})
		}
		places[i].Packets += one.Packets
	}
	out := make([]Drop, len(places))
	for i, p := range places {
		out[i] = *p
	}
	slices.SortStableFunc(out, func(a, b Drop) int { return cmp.Compare(b.Packets, a.Packets) })
	return out
}

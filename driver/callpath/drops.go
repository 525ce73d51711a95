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

// ReadDrops reads the text of the event skb:kfree_skb with stacks (include/trace/events/skb.h).
func ReadDrops(r io.Reader) (Drops, error) {
	out := Drops{Drops: []Drop{}}
	var all []*Drop
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		text := strings.TrimSpace(s.Text())
		if _, fields, ok := strings.Cut(text, ": kfree_skb: "); ok {
			d := &Drop{Packets: 1}
			if _, reason, ok := strings.Cut(fields, "reason: "); ok {
				d.Reason, out.Reasons = strings.TrimSpace(reason), true
			}
			all = append(all, d)
			continue
		}
		if name, ok := strings.CutPrefix(text, "=> "); ok && len(all) > 0 {
			name, _, _ = strings.Cut(name, " ")
			name, _, _ = strings.Cut(name, "+")
			d := all[len(all)-1]
			if !ofDropping(functionName(name)) || len(d.Stack) > 0 {
				d.Stack = append(d.Stack, functionName(name))
			}
		}
	}
	if err := s.Err(); err != nil {
		return out, fmt.Errorf("read drops: %w", err)
	}
	out.Drops = merge(all)
	return out, nil
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

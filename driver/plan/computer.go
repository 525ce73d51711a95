package plan

import (
	"fmt"
	"slices"
)

// Computer is what of a computer the keys of [measure] can ask too much of.
type Computer struct {
	Title string // "this computer"
	CPUs  []int  // that programs can be pinned to; nil: not known
	// Congestion are the TCP congestion controls that network namespaces may use;
	// nil: not known. Restricted are others that the kernel has.
	Congestion, Restricted []string
}

// lack is a key of [measure] whose value a computer has not.
type lack struct {
	key, what string
	value     string // what would be right
}

// lacksCPU says why programs cannot be pinned to a CPU; nil if they can.
func (c Computer) lacksCPU(key string, cpu int) *lack {
	if len(c.CPUs) == 0 || slices.Contains(c.CPUs, cpu) {
		return nil
	}
	return &lack{key, fmt.Sprintf("%d is not a CPU that programs can be pinned to on %s, want %s", cpu, c.Title, cpusText(c.CPUs)), fmt.Sprint(c.CPUs[0])}
}

// cpusText names CPUs for a person: the first and last of each row of them.
func cpusText(cpus []int) string {
	text, from := "", 0
	for i := range cpus {
		if i+1 < len(cpus) && cpus[i+1] == cpus[i]+1 {
			continue
		}
		if text != "" {
			text += ", or "
		}
		text += fmt.Sprint(cpus[from])
		if i > from {
			text += fmt.Sprintf(" to %d", cpus[i])
		}
		from = i + 1
	}
	return text
}

// lacksCongestion says why endpoints cannot have a congestion control; nil if they can.
func (c Computer) lacksCongestion(name string) *lack {
	if len(c.Congestion) == 0 || slices.Contains(c.Congestion, name) {
		return nil
	}
	what := fmt.Sprintf("%q is not a congestion control that the kernel of %s has, want %s%s", name, c.Title, quoted(c.Congestion), didYouMean(name, c.Congestion))
	if slices.Contains(c.Restricted, name) {
		what = fmt.Sprintf("%q is a congestion control that the kernel of %s keeps from network namespaces, want %s; or add it there to net.ipv4.tcp_allowed_congestion_control", name, c.Title, quoted(c.Congestion))
	}
	return &lack{"congestion", what, fmt.Sprintf("%q", c.Congestion[0])}
}

// lacks lists what a computer has not that the client or the server is to have.
func (m Measure) lacks(c Computer, client, server bool) []lack {
	found := []*lack{c.lacksCongestion(m.Congestion)}
	if client {
		found = append(found, c.lacksCPU("client_cpu", m.ClientCPU))
	}
	if server {
		found = append(found, c.lacksCPU("server_cpu", m.ServerCPU))
	}
	var out []lack
	for _, l := range found {
		if l != nil {
			out = append(out, *l)
		}
	}
	return out
}

// computer checks keys of [measure] against the computer that nodes are on, where
// it is known before they are: this one, or a guest in virtual time.
func (l *loader) computer(t *table, m Measure, lab Lab) {
	c := l.cat.Here
	switch {
	case !l.labOK:
		return
	case lab.Clock == ClockVirtual:
		c = l.cat.Sealed
	case !lab.Capabilities().Here():
		return
	}
	if c == nil {
		return
	}
	for _, lack := range m.lacks(*c, true, true) {
		if t.has(lack.key) {
			t.problem(lack.key, "%s", lack.what)
		} else {
			t.problem(lack.key, "is not written, and its default %s; write %s = %s", lack.what, lack.key, lack.value)
		}
	}
}

// Unfit says which keys of [measure] ask the experiment's nodes for what they have
// not; its error wraps ErrInvalid, nil if there are none. of is the computer that a
// node is on, of which what is not known is not checked.
func (s Spec) Unfit(of func(node string) Computer) error {
	multi := slices.Contains(s.Scenarios, MultiHost)
	var problems []Problem
	for i, node := range nodeNames() {
		if i > 0 && !multi {
			break
		}
		server := i > 0 || slices.Contains(s.Scenarios, Localhost)
		for _, l := range s.Measure.lacks(of(node), i == 0, server) {
			problems = append(problems, Problem{File: node, Key: "measure." + l.key, What: l.what})
		}
	}
	return invalid(problems)
}

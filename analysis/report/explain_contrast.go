package report

import (
	"slices"

	"hookbed/analysis/stat"
)

// Contrast is two arms that differ in one thing.
type Contrast struct {
	Kind     string    `json:"kind"`
	Arm      string    `json:"arm"`
	What     string    `json:"what"`
	Over     string    `json:"over"` // the arm it is compared with
	OverWhat string    `json:"over_what"`
	Policies int       `json:"policies"`
	Gain     *Interval `json:"gain"` // how many times as fast Arm is
	Word     string    `json:"word"`
	Note     string    `json:"note,omitempty"` // what else they differ in
	// Decides is how many trials, blocks or seeds would decide the gain.
	Decides *stat.Need `json:"decides,omitempty"`
}

// contrasts are all pairs of a context's arms that differ in one thing.
func (e estimator) contrasts(c *context, metric string) []Contrast {
	var out []Contrast
	add := func(kind string, a, b *subject, n int, note string) {
		if a == nil || b == nil || n < 0 || a.cells[n] == nil || b.cells[n] == nil {
			return
		}
		gain := e.sample(metric, b.cells[n], a.cells[n]).gain(0, 1)
		out = append(out, Contrast{kind, a.arm, a.title(), b.arm, b.title(), n, gain, word(gain, true, e.confidence), note, e.need(gain)})
	}
	for _, a := range c.subjects {
		for _, p := range c.paths(a) {
			add(kindPath, a, p.other, 0, p.note)
		}
	}
	for _, p := range structures() {
		for _, a := range c.subjects {
			if a.filter == p[0] {
				if b := c.find(a.fabric, p[1], a.regime, a.own); b != nil {
					add(kindStructure, a, b, most(a, b), "")
				}
			}
		}
	}
	for _, p := range mechanisms() {
		for _, a := range c.subjects {
			if b, note := c.elsewhere(a, p); b != nil {
				add(kindMechanism, a, b, most(a, b), note)
			}
		}
	}
	for _, a := range c.subjects {
		if a.regime == "established-first" || a.regime == "stateless" {
			if b := c.find(a.fabric, a.filter, "as-study", a.own); b != nil {
				add(kindState, a, b, most(a, b), "")
			}
		}
	}
	return out
}

// structures are pairs of filters of one mechanism: the second is the list.
func structures() [][2]string {
	return [][2]string{
		{"ipset", "iptables-legacy"}, {"nft-set", "nft-linear"}, {"nft-set", "iptables-legacy"}, {"nft-vmap", "nft-linear"}, {"nft-interval", "nft-linear"},
		{"tc-hash", "tc-linear"}, {"tc-lpm", "tc-linear"}, {"xdp-hash", "xdp-linear"}, {"xdp-lpm", "xdp-linear"},
	}
}

// mechanisms are pairs of filters of one structure.
func mechanisms() [][2]string {
	return [][2]string{
		{"tc-linear", "iptables-legacy"}, {"tc-linear", "nft-linear"}, {"nft-linear", "iptables-legacy"}, {"iptables-nft", "iptables-legacy"}, {"xdp-linear", "tc-linear"},
		{"tc-hash", "nft-set"}, {"tc-hash", "ipset"}, {"nft-set", "ipset"}, {"xdp-hash", "tc-hash"}, {"xdp-hash", "nft-set"}, {"xdp-hash", "ipset"},
	}
}

// elsewhere is the arm that does a's search with the other filter of a pair. tc
// has no form without connections, so XDP is compared with what there is.
func (c *context) elsewhere(a *subject, pair [2]string) (*subject, string) {
	if a.filter != pair[0] {
		return nil, ""
	}
	if b := c.find(a.fabric, pair[1], a.regime, a.own); b != nil {
		return b, ""
	}
	from, _ := nature(pair[0])
	if to, _ := nature(pair[1]); from == "xdp" && to == "tc" {
		return c.find(a.fabric, pair[1], "as-study", a.own), "unlike: XDP keeps no connections"
	}
	return nil, ""
}

// aside is an arm on the bridge beside one on another fabric.
type aside struct {
	other *subject
	note  string
}

// paths are the arms on the bridge that say what a's fabric gives by itself:
// without policy programs where the run has such arms, else with its policies
// not yet there.
func (c *context) paths(a *subject) []aside {
	if a.fabric == "bridge" || a.cells[0] == nil {
		return nil
	}
	bare := func(x *subject) bool {
		return x.fabric == a.fabric && x.own["delivery"] == a.own["delivery"] && slices.Contains([]string{"none", "tc-pass", "xdp-pass"}, x.filter)
	}
	like := c.find("bridge", a.filter, a.regime, without(a.own, "delivery"))
	if !bare(a) {
		if slices.ContainsFunc(c.subjects, bare) || like == nil {
			return nil
		}
		return []aside{{like, ""}}
	}
	var out []aside
	if like != nil {
		out = append(out, aside{like, ""})
	}
	none := c.find("bridge", "none", "", map[string]string{})
	if a.filter == "tc-pass" && none != nil && len(without(a.own, "delivery")) == 0 {
		out = append(out, aside{none, "against no program at all"})
	}
	return out
}

// kinds lists the kinds of contrast in the order of a reader's questions.
func kinds() []string { return []string{kindPath, kindStructure, kindMechanism, kindState} }

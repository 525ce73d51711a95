package runs

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"hookbed/analysis/catalog"
)

// Difference is an entry of the environment that two runs do not share.
type Difference struct {
	What string `json:"what"`
	Old  string `json:"old"`
	New  string `json:"new"`
}

// UnlikeError reports two runs from environments that must not count as one. Old
// and New are the runs' names, "" if the caller names them.
type UnlikeError struct {
	Old, New    string
	Differences []Difference
}

func (e *UnlikeError) Error() string {
	var parts []string
	for _, d := range e.Differences {
		if e.Old == "" {
			parts = append(parts, fmt.Sprintf("%s was %s, is %s", d.What, d.Old, d.New))
		} else {
			parts = append(parts, fmt.Sprintf("%s is %s in %s, %s in %s", d.What, d.Old, e.Old, d.New, e.New))
		}
	}
	return "the environments differ: " + strings.Join(parts, "; ")
}

// remedy says what to do instead.
func (e *UnlikeError) remedy() string {
	out := "look at them apart, or compare two of them by `driver compare --across`"
	if slices.ContainsFunc(e.Differences, func(d Difference) bool { return strings.Contains(d.What, "kernel") }) {
		out += "; where kernels are the question, make the kernel a factor of one experiment: kernels = [...] in [matrix]"
	}
	return out
}

// Texts for an entry or a file that a run does not have, and for a file that it
// has.
const (
	notRecorded = "not recorded"
	isRecorded  = "recorded"
)

// CheckEnvironments refuses runs whose numbers must not be combined because they
// are from unlike environments; the error wraps *UnlikeError and names two of the
// runs, what differs and what to do. Only runs on the same clock are compared. A run
// without a recorded environment is unlike every other run.
func CheckEnvironments(all []Run) error {
	for i, b := range all {
		for _, a := range all[:i] {
			if a.Clock() != b.Clock() {
				continue
			}
			if differ := Unlike(a, b); len(differ) > 0 {
				e := &UnlikeError{Old: a.Name, New: b.Name, Differences: differ}
				return fmt.Errorf("%w: %s", e, e.remedy())
			}
		}
	}
	return nil
}

// Unlike is the only rule about environments: it lists the differences between any
// of the environments of two runs, in the entries that results depend on. What only
// one of them had is not a difference: one of several boots that it compares, which
// is a level of a factor, or a second node.
func Unlike(a, b Run) []Difference {
	if a.Env == nil || b.Env == nil {
		return []Difference{{EnvFile, recorded(a), recorded(b)}}
	}
	seen := map[string]bool{}
	var out []Difference
	for _, x := range a.surroundings() {
		for _, y := range b.surroundings() {
			for _, d := range unlike(x, y) {
				if !seen[d.What] {
					seen[d.What] = true
					out = append(out, d)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b Difference) int { return strings.Compare(a.What, b.What) })
	return out
}

// Changed is Unlike between the first environment of a run and those of the
// processes that resumed it: the run's own numbers mix these environments.
func (r Run) Changed() []Difference {
	if len(r.Later) == 0 {
		return nil
	}
	first, later := r, r
	first.Later, later.Env, later.Later = nil, r.Later[0], r.Later[1:]
	return Unlike(first, later)
}

// ChangedWarning is a sentence about Changed, "" if nothing changed.
func (r Run) ChangedWarning() string {
	differ := r.Changed()
	if len(differ) == 0 {
		return ""
	}
	var parts []string
	for _, d := range differ {
		parts = append(parts, fmt.Sprintf("%s was %s, then %s", d.What, d.Old, d.New))
	}
	return fmt.Sprintf("Run %s was resumed in, or merged from, unlike environments, so its numbers mix them: %s.", r.Name, strings.Join(parts, "; "))
}

// recorded says whether a run has an environment.
func recorded(r Run) string {
	if r.Env == nil {
		return notRecorded
	}
	return isRecorded
}

// surroundings is one environment of a run, with the facts of the run that are
// needed to interpret it.
type surroundings struct {
	entries map[string]string
	virtual bool            // virtual time
	cards   bool            // network cards are compared, so their queues follow from the boot
	boots   []string        // boots that have entries of their own; nil if the run compares none
	alone   []string        // names that another run may have for the only boot of this one
	nodes   map[string]bool // nodes that have entries
}

// surroundings are all environments of a run: that of the process that began it,
// and those of the processes that resumed it, or of the shards it was merged from.
func (r Run) surroundings() []surroundings {
	var out []surroundings
	kernels, cards := r.levels("kernel"), r.levels("nic")
	for _, env := range append([]map[string]string{r.Env}, r.Later...) {
		s := surroundings{entries: env, virtual: r.Clock() == ClockVirtual, cards: len(cards) > 1, nodes: map[string]bool{}}
		for key := range env {
			if boot, ok := strings.CutPrefix(key, "kernel_release."); ok {
				s.boots = append(s.boots, boot)
			}
		}
		if s.boots == nil {
			s.alone = bootNames(kernels, cards)
		}
		for key := range env {
			if node := nodeOf(key, s.boots); node != "" && strings.HasPrefix(key, "nodes.") {
				s.nodes[node] = true
			}
		}
		out = append(out, s)
	}
	return out
}

// bootNames are the names that a boot with one kernel and one network card has in
// runs that compare it with others.
func bootNames(kernels, cards []string) []string {
	out := slices.Clone(kernels)
	if len(kernels) != 1 {
		out = nil
	}
	if len(cards) != 1 {
		return out
	}
	for _, kernel := range slices.Clone(out) {
		out = append(out, kernel+" "+cards[0])
	}
	return append(out, cards[0])
}

// levels are the levels of a factor in the cells of a run, sorted.
func (r Run) levels(factor string) []string {
	seen := map[string]bool{}
	if r.Plan != nil {
		for _, c := range r.Plan.Cells {
			seen[c.Factors[factor]] = true
		}
	}
	if len(seen) == 0 {
		for _, levels := range r.sets {
			seen[levels[factor]] = true
		}
	}
	delete(seen, "")
	return slices.Sorted(maps.Keys(seen))
}

// ofBoot lists the parts of env.json that have an entry for each boot if boots are
// compared.
func ofBoot() []string { return []string{"kernel_release", "image_sha256", "nodes"} }

// bootOf is the boot that an entry is about, and the entry's key without it.
func bootOf(key string, boots []string) (boot, rest string) {
	for _, part := range ofBoot() {
		under, ok := strings.CutPrefix(key, part+".")
		if !ok {
			continue
		}
		for _, b := range boots {
			if under == b {
				return b, part
			}
			if deep, ok := strings.CutPrefix(under, b+"."); ok {
				return b, part + "." + deep
			}
		}
	}
	return "", key
}

// nodeOf is the node that an entry is about, "" if about none.
func nodeOf(key string, boots []string) string {
	_, key = bootOf(key, boots)
	parts := strings.Split(key, ".")
	if len(parts) > 2 && (parts[0] == "nodes" || parts[0] == "hypervisors") {
		return parts[1]
	}
	return ""
}

// as is an environment of one boot in the form of other, which has entries for each
// boot, if other has this boot; else it is unchanged.
func (s surroundings) as(other surroundings) surroundings {
	if s.boots != nil || other.boots == nil {
		return s
	}
	i := slices.IndexFunc(s.alone, func(name string) bool { return slices.Contains(other.boots, name) })
	if i < 0 {
		return s
	}
	boot, entries := s.alone[i], map[string]string{}
	for key, v := range s.entries {
		part, deep, _ := strings.Cut(key, ".")
		if slices.Contains(ofBoot(), part) {
			key = strings.TrimSuffix(part+"."+boot+"."+deep, ".")
		}
		entries[key] = v
	}
	s.entries, s.boots = entries, []string{boot}
	return s
}

// has reports whether the environment could have an entry: the run had its boot and
// its node.
func (s surroundings) has(boot, node string) bool {
	return (boot == "" || s.boots == nil || slices.Contains(s.boots, boot)) && (node == "" || len(s.nodes) == 0 || s.nodes[node])
}

// unlike lists what differs between two environments.
func unlike(a, b surroundings) []Difference {
	a, b = a.as(b), b.as(a)
	boots := append(slices.Clone(a.boots), b.boots...)
	keys := map[string]bool{}
	for _, s := range []surroundings{a, b} {
		for key := range s.entries {
			boot, plain := bootOf(key, boots)
			node := nodeOf(key, boots)
			if a.has(boot, node) && b.has(boot, node) && a.matters(plain) && b.matters(plain) {
				keys[key] = true
			}
		}
	}
	var out []Difference
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !a.virtual && ofExternal(key) && (a.entries[key] == "" || b.entries[key] == "") {
			continue // only one of them has such arms
		}
		if x, y := a.entry(key), b.entry(key); x != y {
			out = append(out, Difference{key, x, y})
		}
	}
	return out
}

// ofExternal reports whether an entry is about filters of other projects. They are on
// a node only if the experiment has such an arm. In a sealed guest they are part of
// the boot image, so there they matter to every arm.
func ofExternal(key string) bool { return strings.Contains(key, "peers") }

func (s surroundings) entry(key string) string {
	if v := s.entries[key]; v != "" {
		return v
	}
	return notRecorded
}

// matters reports whether results depend on an entry of env.json: the kernel and
// its configuration, images and the guest helper, the accelerator, QEMU, the
// machine's shape. Virtual time counts instructions, so it does not depend on
// the CPU of the host; runs on existing machines do not depend on the CPU of the
// computer that runs the driver. Entries that change from boot to boot, such as load
// and time, and entries about how a fact was found do not matter.
func (s surroundings) matters(key string) bool {
	parts := strings.Split(strings.ToLower(key), ".")
	last := strings.Join(parts[max(0, len(parts)-2):], ".")
	switch parts[0] {
	case "kernel_release", "kernel_cmdline", "endpoint_sha256", "peers_sha256", "guest_sha256", "image_sha256", "accelerator",
		"icount_shift", "vcpus", "memory_mib":
		return true
	case "data_nic_queues":
		return !s.cards
	case "hypervisor":
		return parts[len(parts)-1] == "qemu"
	case "hypervisors": // of each node that is not on this computer
		return parts[len(parts)-1] == "qemu" || parts[len(parts)-1] == "cpu"
	case "host_cpu":
		p, _ := catalog.ProviderNamed(s.entries["provider"])
		return !s.virtual && !p.Existing
	case "nodes":
		return last == "kernel.release" || last == "kernel.config_sha256" ||
			!s.virtual && (last == "cpu.model" || parts[len(parts)-1] == "mitigations")
	}
	return false
}

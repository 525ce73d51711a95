package plan

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FileSchema is the version of the experiment file. A loader refuses any other.
const FileSchema = 1

// Bounds of an experiment. They are wide: they catch slips, not ambition.
const (
	maxBlocks   = 100
	maxTrials   = 1000
	maxPolicies = 100_000
	maxLevels   = 1000      // of one factor
	maxPlanned  = 1_000_000 // trials in all
	maxVCPUs    = 64
	maxQueues   = 64
	maxCPU      = 1023
	minMemory   = 512
	maxMemory   = 256 * 1024
	maxDuration = time.Hour
	maxWarmup   = 10 * time.Minute
	maxSeeds    = 100
	maxParts    = 1000
	maxLoad     = 1000
	maxClients  = 16
	maxStreams  = 128 // of an iperf3 client
	maxCount    = 10_000_000
)

const defaultSeeds = 3 // of virtual time: the least that shows whether a seed matters

// defaults is what an experiment file need not say. Name, matrix and arms have
// no default. The local provider has no VMs, so its Lab is Provider and
// Endpoint only, and its endpoint defaults to netns.
func defaults() Spec {
	return Spec{
		Seed: 1,
		Lab: Lab{
			Provider: ProviderLibvirt,
			Endpoint: EndpointDocker,
			Clock:    ClockWall,
			Accel:    AccelAuto,
			Kernel:   "6.12",
			VCPUs:    2,
			Memory:   2048,
			Queues:   4, // virtio-net wants 2 x vCPU for native XDP
		},
		Measure: Measure{
			Blocks:     3, // a boot is a source of variance
			Trials:     5,
			Duration:   10 * time.Second,
			Warmup:     time.Second,
			Congestion: "reno", // allowed in every namespace; bbr without fq hides the filter
			ClientCPU:  0,
			ServerCPU:  1,
			Estimator:  EstimatorMedian,
		},
	}
}

// Load reads an experiment file and checks all of it against the catalog. Its
// error wraps ErrInvalid and, unless the file cannot be read at all, is
// *InvalidError with every problem of the file.
func Load(path string, cat Catalog, set ...Setting) (Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Spec{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return Parse(path, data, cat, set...)
}

// Parse is Load for the content of a file; file names it in errors. Files that it names are
// searched for from file's directory. Settings take the place of what the file says.
func Parse(file string, data []byte, cat Catalog, set ...Setting) (Spec, error) {
	doc, err := parseDocument(file, data)
	if err != nil {
		return Spec{}, err
	}
	doc.set(set, cat)
	l := loader{cat: cat, doc: doc}
	root := &table{doc: doc, keys: doc.root}
	if !l.schema(root) {
		return Spec{}, invalid(doc.problems)
	}
	s := l.spec(root)
	doc.reportUnknown()
	return s, invalid(doc.problems)
}

type loader struct {
	cat   Catalog
	doc   *document
	labOK bool // what is checked against the lab would mislead otherwise
	// Tables of existing machines, for checks against what comes later in the file.
	labTable *table
	machines []*table
}

// schema says whether the rest of the file means what this loader thinks.
func (l *loader) schema(root *table) bool {
	v, ok := root.get("schema")
	switch {
	case !ok:
		root.problem("schema", "is missing; write schema = %d", FileSchema)
	case v != int64(FileSchema):
		root.problem("schema", "is %s, want %d, the only schema this driver reads", kindOf(v), FileSchema)
		return false
	}
	return true
}

var (
	wordPattern       = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	congestionPattern = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,14}$`) // TCP_CA_NAME_MAX is 16
)

const wordWant = "1 to 63 of a-z, 0-9 and -, not starting with -"

func (l *loader) spec(root *table) Spec {
	s := defaults()
	s.Name = root.name("name", "", wordPattern, wordWant)
	if !root.has("name") {
		root.problem("name", "is missing; it names the run directory")
	}
	s.Description = root.text("description", "")
	s.Seed = uint64(root.number("seed", int64(s.Seed), 0, math.MaxInt64))
	before := len(l.doc.problems)
	s.Lab = l.lab(root.child("lab"), s.Lab)
	l.labOK = len(l.doc.problems) == before
	s.Measure = l.measure(root.child("measure"), s.Measure, s.Lab)
	before = len(l.doc.problems)
	s.Own = l.own(root)
	l.matrix(root.child("matrix"), &s)
	if s.Own != nil && len(l.doc.problems) == before {
		l.chooseOwn(&s)
	}
	l.enoughMachines(s)
	l.enoughHypervisors(s)
	if s.Lab.Clock == ClockVirtual {
		s.Measure.Blocks = s.Measure.Seeds * len(s.Scenarios) * max(1, s.Measure.Parts)
	}
	s.Measure.Blocks *= len(s.Boots())
	l.checkNICs(s)
	s.Arms = l.arms(root, s)
	root.finish()
	l.parts(s)
	if n := l.planned(s); n > maxPlanned && len(l.doc.problems) == 0 {
		l.doc.problem(l.doc.lines["matrix"], "matrix", "makes %d trials, want at most %d", n, maxPlanned)
	}
	return s
}

func (l *loader) lab(t *table, d Lab) Lab {
	out := Lab{Provider: t.level("provider", d.Provider, l.cat.providerNames())}
	out.provider = l.cat.entryOf(out.Provider)
	out.Clock = t.level("clock", d.Clock, []string{ClockWall, ClockVirtual})
	has, virtual := out.Capabilities(), out.Clock == ClockVirtual
	if !has.Engines || virtual {
		d.Endpoint = EndpointNetns
	}
	if virtual {
		d.Accel, d.VCPUs, d.Memory, d.Queues = AccelTCG, 1, 1024, 0
	}
	out.Endpoint = t.level("endpoint", d.Endpoint, []string{EndpointDocker, EndpointNetns})
	out.Accel = t.level("accel", d.Accel, []string{AccelAuto, AccelKVM, AccelTCG})
	out.Kernel = t.level("kernel", d.Kernel, l.cat.Kernels, l.cat.Versions...)
	out.VCPUs = int(t.number("vcpus", int64(d.VCPUs), 1, maxVCPUs))
	out.Memory = t.memory("memory", d.Memory, minMemory, maxMemory)
	out.Queues = int(t.number("queues", int64(d.Queues), 1, maxQueues))
	out.NIC = l.nicKeys(t, "nic")
	out.Inventory = l.inventory(t, has.Existing)
	out.Hypervisors = l.hypervisors(t, out)
	out.Sealed = t.level("sealed", "", []string{SealedLibvirt, SealedQEMU})
	t.finish()
	switch {
	case out.Sealed != "" && !virtual:
		t.problem("sealed", "is about sealed guests, and with clock = %q there are none; remove it, or write clock = %q", out.Clock, ClockVirtual)
	case !has.VMs && virtual:
		t.problem("clock", "%q needs provider = %s: only the clock of a VM can be made to count instructions; write that, or clock = %q",
			ClockVirtual, l.cat.withVMs(), ClockWall)
	case has.Existing:
		return l.existingLab(t, out)
	case !has.VMs:
		return l.bareLab(t, out)
	case virtual:
		l.virtualLab(t, out)
	}
	return out
}

// vmKeys are the keys of [lab] that describe virtual machines.
func vmKeys() []string {
	return []string{"accel", "kernel", "vcpus", "memory", "queues", "nic", "mtu", "offloads"}
}

// bareLab is a Lab whose nodes are no machines.
func (l *loader) bareLab(t *table, lab Lab) Lab {
	for _, key := range vmKeys() {
		if t.has(key) {
			t.problem(key, "is about VMs, and the %s provider has none; remove it, or write provider = %s", lab.Provider, l.cat.withVMs())
		}
	}
	if lab.Endpoint == EndpointDocker && !lab.Capabilities().Engines {
		t.problem("endpoint", "%q needs an engine in the node, and %s nodes are bare namespaces; write %q, or provider = %s",
			EndpointDocker, lab.Provider, EndpointNetns, l.cat.withEngines())
	}
	return Lab{Provider: lab.Provider, Endpoint: lab.Endpoint, Clock: lab.Clock, provider: lab.provider}
}

// virtualLab refuses what a sealed guest whose clock counts instructions cannot have.
func (l *loader) virtualLab(t *table, lab Lab) {
	if lab.Endpoint != EndpointNetns {
		t.problem("endpoint", "%q needs an engine and disks, and a guest in virtual time is sealed; write %q, or clock = %q",
			lab.Endpoint, EndpointNetns, ClockWall)
	}
	if lab.Accel != AccelTCG {
		t.problem("accel", "is %q, and virtual time counts instructions, which only emulation can; remove it, or write %q", lab.Accel, AccelTCG)
	}
	if lab.VCPUs != 1 {
		t.problem("vcpus", "is %d, and instructions have one order on one CPU only; remove it, or write 1", lab.VCPUs)
	}
	for _, key := range []string{"queues", "nic", "mtu", "offloads"} {
		if t.has(key) {
			t.problem(key, "is about a NIC, and a guest in virtual time has none; remove it, or write clock = %q", ClockWall)
		}
	}
}

func (l *loader) measure(t *table, d Measure, lab Lab) Measure {
	virtual := lab.Clock == ClockVirtual
	if virtual {
		d.Trials, d.Duration, d.Warmup, d.ServerCPU = 1, time.Second, 0, 0
	}
	m := Measure{
		Blocks:     int(t.number("blocks", int64(d.Blocks), 1, maxBlocks)),
		Seeds:      int(t.number("seeds", defaultSeeds, 1, maxSeeds)),
		Trials:     int(t.number("trials", int64(d.Trials), 1, maxTrials)),
		Parts:      int(t.number("parts", 0, 1, maxParts)),
		Stop:       l.stop(t),
		Estimator:  t.level("estimator", d.Estimator, []string{EstimatorMedian, EstimatorFasterHalf}),
		LoadLimit:  t.fraction("load_limit", 0, maxLoad),
		StealLimit: t.fraction("steal_limit", 0, 1),
		Duration:   t.duration("duration", d.Duration, time.Second, maxDuration),
		Warmup:     t.duration("warmup", d.Warmup, 0, maxWarmup),
		Count:      l.count(t),
		Congestion: t.name("congestion", d.Congestion, congestionPattern, "a TCP congestion control, as in \"reno\" or \"cubic\""),
		ClientCPU:  l.cpu(t, "client_cpu", d.ClientCPU, lab),
		ServerCPU:  l.cpu(t, "server_cpu", d.ServerCPU, lab),
	}
	t.finish()
	l.computer(t, m, lab)
	if m.Parts == 1 {
		m.Parts = 0
	}
	if l.labOK && virtual {
		virtualMeasure(t)
	}
	if l.labOK && !lab.Capabilities().LoadsHere && t.has("load_limit") {
		t.problem("load_limit", "is about this computer, and the machines of provider %q are others; remove it, or write steal_limit", lab.Provider)
	}
	if l.labOK && len(lab.Hypervisors) > 0 && t.has("load_limit") {
		t.problem("load_limit", "is about this computer, and the nodes run on others; remove it, or write steal_limit")
	}
	if virtual {
		return m // Blocks follow from the scenarios, which are not read yet
	}
	if l.labOK && t.has("seeds") {
		t.problem("seeds", "is about clock = %q, where a seed is all that differs between boots; write blocks", ClockVirtual)
	}
	if l.labOK && t.has("parts") {
		t.problem("parts", "is about clock = %q, whose boots several computers share; remove it", ClockVirtual)
	}
	m.Seeds, m.Parts = 0, 0
	if m.Stop != nil {
		if t.has("trials") {
			t.problem("trials", "is there beside stop, which says how many trials; remove one of them")
		}
		m.Trials = (m.Stop.Max + m.Blocks - 1) / m.Blocks
	}
	return m
}

// virtualMeasure refuses what makes no sense where nothing is noisy.
func virtualMeasure(t *table) {
	if t.has("blocks") {
		t.problem("blocks", "follows from seeds in virtual time, one for each seed and scenario; write seeds")
	}
	for _, key := range []string{"stop", "load_limit", "steal_limit"} {
		if t.has(key) {
			t.problem(key, "is against noise, and virtual time has none; remove it, or write clock = %q", ClockWall)
		}
	}
}

// stop is the inline table of a stopping rule, nil if there is none.
func (l *loader) stop(t *table) *Stop {
	const write = "write stop = { ci = 0.02, min = 5, max = 30 }"
	t.record("stop", Key{Kind: KindTable})
	v, ok := t.get("stop")
	if !ok {
		return nil
	}
	keys, ok := v.(map[string]any)
	if !ok {
		t.problem("stop", "is %s, want a table: %s", kindOf(v), write)
		return nil
	}
	in := &table{doc: t.doc, path: joinPath(t.path, "stop"), keys: keys}
	for _, key := range []string{"ci", "min", "max"} {
		if !in.has(key) {
			in.problem(key, "is missing; %s", write)
		}
	}
	s := &Stop{CI: in.fraction("ci", 0, 1), Min: int(in.number("min", 2, 2, maxTrials)), Max: int(in.number("max", maxTrials, 2, maxTrials))}
	in.finish()
	if s.Max < s.Min {
		in.problem("max", "%d is less than min = %d; write %d or more", s.Max, s.Min, s.Min)
	}
	return s
}

// count is the inline table of the workloads that are measured by a number of
// transactions, nil if there is none.
func (l *loader) count(t *table) map[string]int {
	t.record("count", Key{Kind: KindTable})
	v, ok := t.get("count")
	if !ok {
		return nil
	}
	keys, ok := v.(map[string]any)
	if !ok || len(keys) == 0 {
		t.problem("count", "is %s, want the transactions of a workload, as in count = { TCP_RR = 1000 }", kindOf(v))
		return nil
	}
	out := map[string]int{}
	in := &table{doc: t.doc, path: joinPath(t.path, "count"), keys: keys}
	for _, w := range l.cat.Workloads {
		switch _, given := in.keys[w.Name]; {
		case w.Counts && given:
			out[w.Name] = int(in.number(w.Name, 1, 1, int64(cmp.Or(w.MostCount, maxCount))))
		case w.Counts:
			in.get(w.Name) // so that for a misspelt one the message suggests what was meant
		case given:
			in.get(w.Name)
			in.problem(w.Name, "has no transactions that could be counted, and runs for measure.duration; remove it")
		}
	}
	in.finish()
	return out
}

// cpu is a CPU of a machine of the lab. How many machines have that the driver does
// not make is not in the file.
func (l *loader) cpu(t *table, key string, fallback int, lab Lab) int {
	cpu := int(t.number(key, int64(fallback), 0, maxCPU))
	if !l.labOK || !lab.Capabilities().VMs || cpu < lab.VCPUs {
		return cpu
	}
	if t.has(key) {
		t.problem(key, "%d is not a CPU of a VM with vcpus = %d, want 0 to %d", cpu, lab.VCPUs, lab.VCPUs-1)
	} else {
		t.problem(key, "is %d where not given, which a VM with vcpus = %d has not; write %s = 0", cpu, lab.VCPUs, key)
	}
	return cpu
}

func (l *loader) matrix(t *table, s *Spec) {
	if !t.doc.has(t.path) {
		t.doc.problem(1, t.path, "is missing; write [matrix] with scenarios, workloads and policies")
		return
	}
	s.Scenarios = t.levels("scenarios", []string{Localhost, MultiHost})
	s.Workloads = t.levels("workloads", l.cat.workloadNames())
	for _, name := range slices.Sorted(maps.Keys(s.Measure.Count)) {
		if len(s.Workloads) > 0 && !slices.Contains(s.Workloads, name) {
			path := joinPath("measure.count", name)
			t.doc.problem(t.doc.lines[path], path, "is not in matrix.workloads; add it there, or remove it here")
		}
	}
	l.counted(t, s)
	l.oneProtocol(t, s.Workloads)
	switch {
	case s.Own == nil:
		s.Policies = t.counts("policies", 0, maxPolicies)
	case t.has("policies"):
		t.get("policies")
		t.problem("policies", "follows from [[policy]]: none, and those of its files; remove it")
	}
	if _, ok := t.get("clients"); ok {
		s.Clients = t.counts("clients", 1, maxClients)
		policiesForClients(t, s)
		if s.Own != nil && slices.ContainsFunc(s.Clients, func(n int) bool { return n > 1 }) {
			t.problem("clients", "are several, and [[policy]] chooses one pod that is the client; remove it")
		}
	}
	if _, ok := t.get("streams"); ok {
		s.Streams = t.counts("streams", 1, maxStreams)
		l.streams(t, s)
	}
	l.kernels(t, s)
	l.nics(t, s)
	t.finish()
}

// counted refuses workloads without a number of transactions that have no other length.
func (l *loader) counted(t *table, s *Spec) {
	for _, name := range s.Workloads {
		if w, _ := l.cat.workload(name); w.OnlyCounts && s.Measure.Count[name] == 0 {
			t.problem("workloads", "%q is measured by a number of requests; write count = { %s = 10000 } in [measure]", name, name)
		}
	}
}

// streams refuses numbers of streams that no workload has a use for.
func (l *loader) streams(t *table, s *Spec) {
	var able []string
	for _, w := range l.cat.Workloads {
		if w.Streams {
			able = append(able, strconv.Quote(w.Name))
		}
	}
	can := func(name string) bool { w, _ := l.cat.workload(name); return w.Streams }
	if len(s.Streams) > 0 && len(s.Workloads) > 0 && !slices.ContainsFunc(s.Workloads, can) {
		t.problem("streams", "is about %s, which is not in workloads; add it there, or remove streams", strings.Join(able, " and "))
	}
}

// policiesForClients refuses numbers of policies that are too small: each
// client has a policy of its own that admits it.
func policiesForClients(t *table, s *Spec) {
	most := 0
	for _, n := range s.Clients {
		most = max(most, n)
	}
	for i, n := range s.Policies {
		if n > 0 && n < most {
			path := element(joinPath(t.path, "policies"), i)
			t.doc.problem(max(t.doc.lines[path], t.at("policies")), shown(joinPath(t.path, "policies")),
				"%d is less than clients = %d, each of which has a policy of its own; write 0, or %d and more", n, most, most)
		}
	}
}

// kernels reads the kernels that are compared; without them the lab's is alone.
func (l *loader) kernels(t *table, s *Spec) {
	if _, ok := t.get("kernels"); !ok {
		return
	}
	kernels := t.levels("kernels", l.cat.Kernels, l.cat.Versions...)
	switch {
	case l.labOK && !s.Lab.Capabilities().VMs:
		t.problem("kernels", "are what VMs boot, and provider = %q has the kernel it has; remove it, or write provider = %s", s.Lab.Provider, l.cat.withVMs())
	case l.doc.has("lab.kernel"):
		t.problem("kernels", "is there beside lab.kernel in %s, and says both; remove one of them", l.doc.line(l.doc.lines["lab.kernel"]))
	case len(kernels) > 0:
		s.Kernels, s.Lab.Kernel = kernels, ""
	}
}

func (l *loader) arms(root *table, s Spec) []Arm {
	tables := root.children("arm")
	const write = "write at least one [[arm]] with name and datapath"
	if list, ok := root.keys["arm"].([]any); !root.has("arm") {
		root.problem("arm", "is missing; %s", write)
	} else if ok && len(list) == 0 {
		root.problem("arm", "is empty; %s", write)
	}
	var out []Arm
	line := map[string]int{}
	for _, t := range tables {
		a := l.arm(t, s)
		if first := line[a.Name]; first > 0 && a.Name != "" {
			t.problem("name", "%q is also the arm of %s; each name once", a.Name, l.doc.line(first))
		}
		line[a.Name] = t.at("name")
		out = append(out, a)
	}
	return out
}

func (l *loader) arm(t *table, s Spec) Arm {
	before := len(l.doc.problems)
	a := Arm{Name: t.name("name", "", wordPattern, wordWant), Options: map[string]string{}}
	if !t.has("name") {
		t.problem("name", "is missing")
	}
	entry, key, ok := l.chosen(t)
	if !ok {
		t.anyKey()
		return a
	}
	a.Datapath = entry.Name
	for _, o := range entry.Options {
		l.option(t, o, a.Options)
	}
	l.ownOptions(t, entry, s, &a)
	l.freeKeys(t, entry, &a)
	t.finish()
	l.clients(t, key, entry, s)
	l.protocols(t, key, entry, s)
	l.applications(t, key, entry, s)
	if len(l.doc.problems) > before {
		return a
	}
	l.tooMany(t, entry, s, a)
	l.refused(t, key, entry, s, a)
	l.ownArm(t, key, entry, s, a)
	if len(l.doc.problems) == before {
		l.inspect(t, entry, s, a)
	}
	return a
}

// refused notes the first combination of an arm with the lab that is impossible.
func (l *loader) refused(t *table, key string, entry DatapathEntry, s Spec, a Arm) {
	if entry.Refuse == nil || !l.labOK {
		return
	}
	for _, boot := range s.Boots() {
		for _, scenario := range s.Scenarios {
			if why := entry.Refuse(s.Lab.with(boot), scenario, a.Options); why != "" {
				t.problem(key, "%q cannot run %s: %s", t.keys[key], scenario, why)
				return // the same on other kernels
			}
		}
	}
}

// clients refuses more clients than a datapath can have.
func (l *loader) clients(t *table, key string, entry DatapathEntry, s Spec) {
	for _, n := range s.Clients {
		if entry.MaxClients > 0 && n > entry.MaxClients {
			t.problem(key, "%q cannot have %d clients (matrix.clients): %s; write clients of at most %d, or another datapath", t.keys[key], n, entry.WhyClients, entry.MaxClients)
			return
		}
	}
}

// applications refuses policies of requests for workloads that make none of that kind.
func (l *loader) applications(t *table, key string, entry DatapathEntry, s Spec) {
	for _, name := range s.Workloads {
		if w, ok := l.cat.workload(name); ok && entry.Application != "" && w.Application != entry.Application {
			t.problem(key, "%q judges requests of %s, and workload %q makes none; write a workload that does, or another filter", t.keys[key], entry.Application, name)
			return
		}
	}
}

// option reads one option of an arm into options, which hold those before it.
func (l *loader) option(t *table, o Option, options map[string]string) {
	level := t.level(o.Key, o.Allowed[0], o.Allowed)
	switch {
	case !o.Applies(options):
		if t.has(o.Key) {
			t.problem(o.Key, "means nothing without %s = %q; write that, or remove it", o.Needs.Key, o.Needs.Level)
		}
	case !o.Silent || level != o.Allowed[0]:
		options[o.Key] = level
	}
}

// chosen is what an arm measures: a datapath by its name, or a filter on a
// fabric. key is the key to blame for what is wrong with the combination.
func (l *loader) chosen(t *table) (entry DatapathEntry, key string, ok bool) {
	fabrics, filters := l.cat.axes()
	if t.has("filter") || t.has("fabric") {
		return l.crossed(t, fabrics, filters)
	}
	name := t.level("datapath", "", l.cat.datapathNames())
	t.get("filter")
	t.get("fabric")
	if !t.has("datapath") {
		t.problem("datapath", "is missing; write one of %s, or a filter, one of %s", quoted(l.cat.datapathNames()), quoted(filters))
	}
	entry, ok = l.cat.datapath(name)
	return entry, "datapath", ok
}

// crossed is the datapath of a filter on a fabric.
func (l *loader) crossed(t *table, fabrics, filters []string) (entry DatapathEntry, key string, ok bool) {
	if t.has("datapath") {
		t.problem("datapath", "is there beside filter or fabric, and says both; remove one of them")
	}
	if !t.has("filter") {
		t.problem("filter", "is missing beside fabric; write one of %s", quoted(filters))
	}
	filter := t.level("filter", "", filters)
	fabric := t.level("fabric", l.cat.baseFabric(), fabrics)
	for _, d := range l.cat.Datapaths {
		if !d.Crossed || d.Filter != filter || d.Fabric != fabric {
			continue
		}
		if d.Impossible != "" {
			t.problem("filter", "%q cannot work on fabric %q: %s", filter, fabric, d.Impossible)
		}
		return d, "filter", d.Impossible == "" && !t.has("datapath")
	}
	return DatapathEntry{}, "filter", false
}

// settings is the number of setups of one boot.
func (l *loader) settings(s Spec) int {
	n := 0 // of arm and number of policies
	for _, a := range s.Arms {
		entry, _ := l.cat.datapath(a.Datapath)
		n += len(policiesOf(entry, s))
	}
	return n * len(clientsOf(s))
}

// parts refuses more parts than there are setups to share.
func (l *loader) parts(s Spec) {
	const path = "measure.parts"
	if n := l.settings(s); s.Measure.Parts > n && len(l.doc.problems) == 0 {
		l.doc.problem(l.doc.lines[path], path, "is %d, and a boot has only %d setups to share; write at most %d", s.Measure.Parts, n, n)
	}
}

// planned is the number of trials of the experiment.
func (l *loader) planned(s Spec) int {
	workloads := 0 // with their numbers of streams
	for _, w := range s.Workloads {
		workloads += len(streamsOf(s, w, l.cat))
	}
	return l.settings(s) * len(s.Boots()) * len(s.Scenarios) * workloads * s.CellBlocks() * s.Measure.Trials
}

func (d *document) has(path string) bool { return d.lines[path] > 0 }

func (c Catalog) datapath(name string) (DatapathEntry, bool) {
	for _, d := range c.Datapaths {
		if d.Name == name {
			return d, true
		}
	}
	return DatapathEntry{}, false
}

// datapathNames lists the datapaths that have a name of their own.
func (c Catalog) datapathNames() (out []string) {
	for _, d := range c.Datapaths {
		if !d.Crossed {
			out = append(out, d.Name)
		}
	}
	return out
}

// axes lists the fabrics and filters of the crossed datapaths.
func (c Catalog) axes() (fabrics, filters []string) {
	for _, d := range c.Datapaths {
		if !d.Crossed {
			continue
		}
		if !slices.Contains(fabrics, d.Fabric) {
			fabrics = append(fabrics, d.Fabric)
		}
		if !slices.Contains(filters, d.Filter) {
			filters = append(filters, d.Filter)
		}
	}
	return fabrics, filters
}

// baseFabric is that of an arm that names a filter only.
func (c Catalog) baseFabric() string {
	if i := slices.IndexFunc(c.Datapaths, func(d DatapathEntry) bool { return d.Crossed && d.Base }); i >= 0 {
		return c.Datapaths[i].Fabric
	}
	return ""
}

func (c Catalog) workload(name string) (WorkloadEntry, bool) {
	for _, w := range c.Workloads {
		if w.Name == name {
			return w, true
		}
	}
	return WorkloadEntry{}, false
}

func (c Catalog) workloadNames() (out []string) {
	for _, w := range c.Workloads {
		out = append(out, w.Name)
	}
	return out
}

// Package plan turns an experiment file into a Plan: every cell, every trial,
// and the seeded order in which they run. It is pure: it touches no host.
package plan

import (
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"hookbed/analysis/catalog"
)

// Endpoints, scenarios and accelerators: the allowed levels.
const (
	EndpointDocker = "docker"
	EndpointNetns  = "netns"

	Localhost = "localhost"  // both endpoints on one node
	MultiHost = "multi-host" // client on node1, server on node2

	AccelAuto = "auto"
	AccelKVM  = "kvm"
	AccelTCG  = "tcg"

	SealedLibvirt = "libvirt" // sealed guests are machines of libvirt
	SealedQEMU    = "qemu"    // the driver starts QEMU itself, without any privilege

	ClockWall    = "wall"    // time as it passes
	ClockVirtual = "virtual" // time by executed instructions (QEMU -icount)

	EstimatorMedian     = "median"      // of all trials
	EstimatorFasterHalf = "faster-half" // mean of the faster half: for noise that only ever slows
)

// Spec is an experiment file as written, defaults filled in.
type Spec struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Seed        uint64   `json:"seed"`
	Lab         Lab      `json:"lab"`
	Measure     Measure  `json:"measure"`
	Scenarios   []string `json:"scenarios"`
	Workloads   []string `json:"workloads"` // by name in the catalog: TCP_STREAM, TCP_RR, ...
	Policies    []int    `json:"policies"`  // numbers of policies N; 0 is "no rule at all"
	// Clients are the numbers of client endpoints; nil is one, and no factor.
	Clients []int `json:"clients,omitempty"`
	// Streams are the numbers of connections that each client has at once, with
	// workloads that can; nil is one, and no factor.
	Streams []int `json:"streams,omitempty"`
	// Kernels are compared: every one is booted as often as Measure says. nil is
	// the lab's kernel alone.
	Kernels []string `json:"kernels,omitempty"`
	// NICs are compared likewise: cards of the data network.
	NICs []NIC `json:"nics,omitempty"`
	Arms []Arm `json:"arms"`
	// Own is the policies that the user wrote; nil: arms enforce generated ones.
	Own *Own `json:"own,omitempty"`
	// Traced is not of a file, but derived by Trace; nil: no traces are made.
	Traced *Traced `json:"traced,omitempty"`
}

// Traced says how traces are made and compared.
type Traced struct {
	// Against is the arm whose traces those of the other arms are compared with.
	Against string `json:"against"`
	// Window is how many units of work (transactions, MiB) of a trial its trace counts, the last; 0 is
	// all.
	Window int `json:"window,omitempty"`
	// Refusals is how many attempts that the policies refuse follow each trial's workload, to be
	// traced; 0 is none.
	Refusals int `json:"refusals,omitempty"`
}

// Lab says on what the experiment runs.
type Lab struct {
	Provider string `json:"provider"`
	Endpoint string `json:"endpoint"`
	Clock    string `json:"clock"`
	// Sealed is what starts sealed guests, SealedLibvirt or SealedQEMU; "" is libvirt where it can be
	// had, else QEMU. No number depends on it.
	Sealed string `json:"sealed,omitempty"`
	// About VMs, and zero where the provider has none.
	Accel  string `json:"accel,omitempty"`
	Kernel string `json:"kernel,omitempty"`     // name of a kernel lock, "6.12"
	VCPUs  int    `json:"vcpus,omitempty"`      // per VM
	Memory int    `json:"memory_mib,omitempty"` // MiB per VM
	Queues int    `json:"queues,omitempty"`     // queue pairs of the data NIC
	NIC    NIC    `json:"nic,omitzero"`         // the data NIC; its Queues are 0, or compared
	// Hypervisors run the VMs; nil is this computer.
	Hypervisors []Hypervisor `json:"hypervisors,omitempty"`
	// About existing machines; nil where the provider has none.
	Inventory *Inventory `json:"inventory,omitempty"`
	// provider is its entry, where the catalog lists others than catalog.Providers.
	provider *catalog.Provider
}

// Measure says how each trial is measured.
type Measure struct {
	// Blocks is the number of boots, of all kernels together where they are
	// compared. In virtual time it follows from Seeds: one block for each seed,
	// kernel and scenario.
	Blocks int `json:"blocks"`
	Seeds  int `json:"seeds,omitempty"` // virtual time only: boots of each scenario
	// Parts is how many boots share the setups of one seed, kernel and scenario, so that as many
	// computers can; 0 is one. Virtual time only.
	Parts  int `json:"parts,omitempty"`
	Trials int `json:"trials"` // per cell and block; with Stop, the most
	// Stop ends a cell early by a rule fixed beforehand; nil runs every trial.
	Stop *Stop `json:"stop,omitempty"`
	// Estimator is how a cell's trials become one number, fixed beforehand.
	Estimator string `json:"estimator"`
	// LoadLimit holds a trial back while the load average of this computer
	// (1 min, at the start of each setup) is above it. 0 is no limit. Wall clock only.
	LoadLimit float64 `json:"load_limit,omitempty"`
	// StealLimit voids a trial during which the node's CPUs were stolen for more
	// than this share of the time. 0 is no limit. Wall clock only.
	StealLimit float64       `json:"steal_limit,omitempty"`
	Duration   time.Duration `json:"duration_ns"` // of one measured workload, whole seconds
	Warmup     time.Duration `json:"warmup_ns"`   // before it, not counted, whole seconds
	// Count is how many transactions a trial has, by workload: it ends with the
	// last of them, whatever time that takes, and has no warm-up. Workloads that
	// are not named run for Duration after Warmup.
	Count      map[string]int `json:"count,omitempty"`
	Congestion string         `json:"congestion"` // TCP congestion control of both endpoints
	ClientCPU  int            `json:"client_cpu"` // CPU of its machine that the client is pinned to
	ServerCPU  int            `json:"server_cpu"`
}

// Stop is a sequential stopping rule: a cell ends when the 95 % interval of its
// estimate, half its width over the estimate, is no wider than CI.
type Stop struct {
	CI  float64 `json:"ci"`  // relative half width, 0.02 is 2 %
	Min int     `json:"min"` // trials of a cell before the rule is applied
	Max int     `json:"max"` // trials of a cell at the most
}

// Arm is a datapath with its options, under a name.
type Arm struct {
	Name     string            `json:"name"`
	Datapath string            `json:"datapath"`
	Options  map[string]string `json:"options"` // every option of the datapath, defaults filled in
	// Files are those that the arm names, by key.
	Files map[string]File `json:"files,omitempty"`
	// Images are the container images that the arm names, by key, as Image.Source.
	Images map[string]string `json:"images,omitempty"`
}

// Image is a container image that an arm names.
type Image struct {
	Level  string // in factors: the same for the same image only
	Source string // where it is found: a reference with its digest, or an absolute path
}

// Catalog is what the experiment may choose from; the datapath and workload
// packages supply it, so that plan can check a file without importing them.
type Catalog struct {
	Datapaths []DatapathEntry
	Workloads []WorkloadEntry
	Kernels   []string // names of the kernel locks that are tested
	// Versions are names of further kernel locks, of one version each, which are pinned
	// and not tested. They are many: errors do not list them.
	Versions []string
	// Providers are the ways to have nodes; nil: catalog.Providers.
	Providers []catalog.Provider
	// NICs are the models of network cards that a kernel has a driver for.
	NICs map[string][]string
	// Here is this computer, whose kernel some providers' nodes share; nil: not known.
	Here *Computer
	// Image finds what a text in a file of a directory names as a container image; nil: any
	// text is one.
	Image func(dir, text string) (Image, error)
	// Sealed is a guest in virtual time; nil: not known.
	Sealed *Computer
	// Reserved are ports that the testbed serves for itself.
	Reserved []int
}

// DatapathEntry describes one datapath to the loader: a filter on a fabric,
// by a name of its own ("cilium-like") or as one of the cross ("bridge+nft-set").
type DatapathEntry struct {
	Name    string
	Doc     string // one line
	Fabric  string // bridge, routed, bpf
	Filter  string // none, iptables-legacy, tc-hash, xdp-hash, xdp-pass, ...
	Options []Option
	Keys    []FreeKey
	// MaxClients is how many clients it can have at once, 0 for any number;
	// WhyClients says why.
	MaxClients int
	WhyClients string
	// Crossed: an arm names it by fabric and filter, not by its name.
	Crossed bool
	// Impossible is why this filter cannot work on this fabric; "" if it can.
	Impossible string
	// NoPolicies: enforces nothing, so only N = 0 exists.
	NoPolicies bool
	// Mechanism, Structure, Regime, Control, External and Model are the filter's, as
	// catalog.Filter has them; Base and FabricMechanism the fabric's.
	Mechanism string
	Structure string
	// Hook is where in the kernel its packets meet the filter, for readers; "" if nothing is hooked.
	Hook string
	// Since is the first release of Linux that has all it needs, as in "6.6"; "" if every kernel
	// that is tested has it. Options say the same of their levels.
	Since string
	// FabricDoc and FilterDoc are the two parts of Doc.
	FabricDoc, FilterDoc string
	Regime               string
	Control              bool
	External             string
	Model                *catalog.Pair
	Base                 bool
	FabricMechanism      string
	// Protocols are those that its policies can name. Without policies it carries any.
	Protocols []string
	// Application is the protocol whose requests its policies name, "" for none; workloads
	// must then be of it.
	Application string
	// Refuse returns why this combination is impossible, or "". It sees the
	// options with defaults filled in.
	Refuse func(lab Lab, scenario string, options map[string]string) string
	// MostPolicies is how many policies it can be given at so many clients, and
	// why no more. It sees the options with defaults filled in; nil: any number.
	MostPolicies func(options map[string]string, clients int) (most int, why string)
	// OwnRefuses returns why it cannot hold the policies that the user wrote, or "";
	// OwnLevels are the levels of its options that such policies decide.
	OwnRefuses func(s Spec, arm Arm, scenario string) string
	OwnLevels  map[string]string
	// Inspect says what is wrong with the files that an arm names, in addition to what
	// the loader finds; nil: nothing.
	Inspect func(s Spec, arm Arm) []Finding
}

// Option is a key an arm may set.
type Option struct {
	Key     string
	Allowed []string // the first is the default
	Doc     string
	// Silent: at its default it is no factor of a cell. So an option that came
	// later leaves cells that do not use it, and their IDs, as they were. The default
	// of such an option can never change: cells do not say it.
	Silent bool
	// Role, Regimes and Means are those of catalog.Option; the role is
	// catalog.RoleEnforcement unless said.
	Role    string
	Regimes map[string]string
	Means   map[string]string
	// Since is the first release of Linux that has a level, of those that a tested kernel lacks.
	Since map[string]string
	// Needs is the level of another option, listed before this one, without which
	// this one means nothing and is no factor.
	Needs Level
}

// Level is one level of one option. The zero value is none.
type Level struct{ Key, Level string }

// Applies says whether the option means something together with the others.
func (o Option) Applies(options map[string]string) bool {
	return o.Needs == Level{} || options[o.Needs.Key] == o.Needs.Level
}

// WorkloadEntry describes one workload to the loader.
type WorkloadEntry struct {
	Name    string
	Doc     string
	Streams bool // it can have several connections of each client
	Counts  bool // it can be measured by a number of transactions
	// OnlyCounts: it has no duration, and must be measured so.
	OnlyCounts bool
	// MostCount is how many transactions a trial can have, 0 for as many as any.
	MostCount int
	// Application is the protocol above Protocol whose requests policies can name, ""
	// for none.
	Application string
	// What the numbers are, as catalog.Workload has it.
	Protocol string // of what it measures, which policies then name
	Tool     string
	Headline []catalog.Metric
	Metrics  []catalog.Metric
	Work     catalog.Work
	Figure   string
	Study    map[string]string
}

// Cell is one combination of levels.
type Cell struct {
	ID      string            `json:"id"`    // 12 hex digits: hash of the sorted factors
	Setup   string            `json:"setup"` // ID of the setup shared with the cells that differ in workload and streams only
	Factors map[string]string `json:"factors"`
	// Files are those of its arm, by key.
	Files map[string]File `json:"-"`
	// Own is the policies that the user wrote; nil: they are generated.
	Own *Own `json:"-"`
	// Protocol is that of its workload, which policies name; one for all cells of a
	// plan. "" is TCP.
	Protocol string `json:"-"`
}

// Trial is one measured repetition of one cell, in the order it runs.
type Trial struct {
	Order int    `json:"order"` // 1-based position in the run
	Block int    `json:"block"` // 1-based
	Trial int    `json:"trial"` // 1-based within the cell and block
	Cell  string `json:"cell"`
}

// InstructionNanoseconds is what an instruction takes in virtual time.
const InstructionNanoseconds = 8

// Block is one boot where boots differ. In virtual time it is one scenario under
// one seed: what is compared with each other is so measured in the same boot. Of a
// plan of traces it is one cell.
type Block struct {
	Number   int    `json:"number"`             // 1-based
	Seed     int    `json:"seed,omitempty"`     // 1-based; the level of FactorSeed of the block's rows. Virtual time only
	Scenario string `json:"scenario,omitempty"` // virtual time only
	Kernel   string `json:"kernel,omitempty"`   // where kernels are compared
	NIC      string `json:"nic,omitempty"`      // where network cards are, by their names
	Part     int    `json:"part,omitempty"`     // 1-based, of measure.parts, where they are more than one
	Cell     string `json:"cell,omitempty"`     // of a plan of traces: the only one of the boot
}

// Plan is an experiment expanded.
type Plan struct {
	Schema int  `json:"schema"`
	Spec   Spec `json:"spec"`
	// Catalog is what the arms, options and workloads are; nil in schema 1.
	Catalog *catalog.Catalog `json:"catalog,omitempty"`
	Blocks  []Block          `json:"blocks,omitempty"` // in order, where they differ
	Cells   []Cell           `json:"cells"`
	Trials  []Trial          `json:"trials"`
}

// Factor names that other packages read. Options of an arm are factors too,
// under their own keys.
const (
	FactorArm        = "arm"
	FactorDatapath   = "datapath"
	FactorFabric     = "fabric"
	FactorFilter     = "filter"
	FactorScenario   = "scenario"
	FactorWorkload   = "workload"
	FactorPolicies   = "policies"
	FactorClients    = "clients" // only in cells of an experiment that names numbers of clients
	FactorStreams    = "streams" // only in cells of a workload that has several, where an experiment names them
	FactorProvider   = "provider"
	FactorEndpoint   = "endpoint"
	FactorKernel     = "kernel"   // lock name, or "host" where nodes are no VMs
	FactorNIC        = "nic"      // NIC.String, where it is compared or not the default
	FactorMTU        = "mtu"      // of every link, bytes, where it is not 1500
	FactorDuration   = "duration" // Go duration; not in cells with a count
	FactorWarmup     = "warmup"   // Go duration; not in cells with a count
	FactorCount      = "count"    // transactions of each client, in cells that are measured by them
	FactorCongestion = "congestion"
	FactorClientCPU  = "client_cpu"
	FactorServerCPU  = "server_cpu"
	FactorClock      = "clock" // ClockWall or ClockVirtual
	// FactorSeed is a factor of the block, not of the cell: rows of virtual runs
	// carry it in addition to the cell's factors.
	FactorSeed = "seed"
)

// Get is the level of a factor, "" if the cell has none.
func (c Cell) Get(factor string) string { return c.Factors[factor] }

// Int is the level of an integer factor, 0 if it is not one.
func (c Cell) Int(factor string) int {
	n, _ := strconv.Atoi(c.Factors[factor])
	return n
}

// Duration is the level of a duration factor.
func (c Cell) Duration(factor string) time.Duration {
	d, _ := time.ParseDuration(c.Factors[factor])
	return d
}

// Title is a short label for progress and messages.
func (c Cell) Title() string {
	parts := []string{c.Get(FactorScenario), c.Get(FactorArm), "N=" + c.Get(FactorPolicies), c.Get(FactorWorkload)}
	if n := c.Get(FactorClients); n != "" {
		parts = append(parts, "clients="+n)
	}
	if n := c.Get(FactorStreams); n != "" {
		parts = append(parts, "streams="+n)
	}
	return strings.Join(parts, " ")
}

// FactorNames lists every factor of any cell, sorted.
func (p *Plan) FactorNames() []string {
	seen := map[string]bool{}
	var out []string
	if p.Spec.Lab.Clock == ClockVirtual {
		seen[FactorSeed] = true
		out = append(out, FactorSeed)
	}
	for _, c := range p.Cells {
		for f := range c.Factors {
			if !seen[f] {
				seen[f] = true
				out = append(out, f)
			}
		}
	}
	sort.Strings(out)
	return out
}

// CellByID finds a cell; ok is false if the plan has none with that ID.
func (p *Plan) CellByID(id string) (cell Cell, ok bool) {
	for _, c := range p.Cells {
		if c.ID == id {
			return c, true
		}
	}
	return Cell{}, false
}

// Nodes is the number of nodes that the plan's scenarios need, 1 or 2.
func (p *Plan) Nodes() int {
	if slices.Contains(p.Spec.Scenarios, MultiHost) {
		return 2
	}
	return 1
}

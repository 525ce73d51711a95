// Package workload renders the measured programs, iperf3, netperf and h2load, into
// bundle steps and parses their raw output into metrics. It is pure.
package workload

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// Metric is one parsed figure of a trial.
type Metric struct {
	Name  string
	Unit  string // bit/s, 1/s, s, 1
	Value float64
}

// Target is where a workload runs, as the datapath laid it out.
type Target struct {
	ClientNode, ServerNode string // node names
	Clients                []Client
	Server                 string // endpoint role
	ServerAddr             string
	ControlPort            int    // netperf's control connection
	Path                   string // what requests of HTTP are for
	Proxy                  string // handle of the proxy that the datapath started, "" for none
}

// Client is one of the endpoints that a workload runs from.
type Client struct {
	Role string // endpoint role
	Port int    // data, where the server serves it: the port that its policy names
}

// workload is one entry of the registry.
type workload struct {
	plan.WorkloadEntry
	server func(t Target, port int) []string // nil: bundle.HTTPServer
	// each: a server of its own for each client, at the client's port; else one
	// serves all at the control port.
	each   bool
	warmup func(Target, Client, plan.Cell) []string // nil: the client warms up by itself
	client func(Target, Client, plan.Cell) []string // for as long, or as many transactions, as the cell says
	// parse reads what one client printed. alone: it was the only one; of several
	// one may have had nothing.
	parse func(data []byte, alone bool) ([]Metric, error)
	// raw is the suffix of the files with what clients print.
	raw string
	// amount is the metric of how much work a client did: clients share it, and virtual
	// time counts instructions for its unit (WorkloadEntry.Work).
	amount string
	// combine says how values of several clients become one, by metric; added is the rule
	// for a metric that is not named.
	combine map[string]combine
	// evidence reads from the same what the client did, and when it did nothing.
	evidence func(cell plan.Cell, data []byte) (Evidence, error)
	// turns is the policy under which programs share the one CPU of virtual time,
	// where they would else take turns as chance has it (docs/virtual-time.md).
	turns string
}

// Raw file names of a trial.
const (
	rawResult       = "result"
	rawClientBefore = "client-before.json"
	rawClientAfter  = "client-after.json"
	rawServerBefore = "server-before.json"
	rawServerAfter  = "server-after.json"
	serverHandle    = "workload-server"
)

func registry() []workload {
	return []workload{
		stream(),
		requestResponse(),
		connectRequestResponse(),
		http(), httpNew(), http2(),
	}
}

// Metrics of how clients share the amount of a workload: the last two begin with its name.
const (
	metricFairness = "fairness"
	suffixLeast    = "_min"
	suffixMost     = "_max"
)

// sharing are the metrics of how several clients share what is the higher the better.
func sharing(metric, unit string) []catalog.Metric {
	return []catalog.Metric{
		{Name: metricFairness, Unit: "1", Higher: true},
		{Name: metric + suffixLeast, Unit: unit, Higher: true}, {Name: metric + suffixMost, Unit: unit, Higher: true},
	}
}

// Catalog describes every workload to the plan's loader.
func Catalog() []plan.WorkloadEntry {
	var out []plan.WorkloadEntry
	for _, w := range registry() {
		out = append(out, w.WorkloadEntry)
	}
	return out
}

func find(cell plan.Cell) (workload, error) {
	name := cell.Get(plan.FactorWorkload)
	for _, w := range registry() {
		if w.Name == name {
			return w, nil
		}
	}
	return workload{}, fmt.Errorf("unknown workload %q in cell %s", name, cell.ID)
}

// Files are those of the bundle that a cell's workload needs, by name.
func Files(cell plan.Cell, t Target) map[string]bundle.File {
	if !NeedsHTTP(cell) {
		return nil
	}
	out := map[string]bundle.File{}
	for _, c := range t.Clients {
		_, files := bundle.HTTPServer("", t.ServerAddr, c.Port)
		maps.Copy(out, files)
	}
	return out
}

// Render renders the run phase of a trial: the server, a warm-up, and the
// measured client between two snapshots of both nodes' activity. The steps
// within are what count; starting the server does not.
func Render(cell plan.Cell, t Target) ([]bundle.Step, error) {
	w, err := find(cell)
	if err != nil {
		return nil, err
	}
	server := func(do bundle.Action) bundle.Step {
		return bundle.Step{Node: t.ServerNode, Phase: bundle.Run, In: t.Server, Do: do}
	}
	first := func(do bundle.Action) bundle.Step {
		return bundle.Step{Node: t.ClientNode, Phase: bundle.Run, In: t.Clients[0].Role, Do: do}
	}
	sched := ""
	if cell.Get(plan.FactorClock) == plan.ClockVirtual {
		sched = w.turns
	}
	var steps []bundle.Step
	for _, s := range w.servers(t, cell, sched) {
		steps = append(steps, server(s))
	}
	exec := func(argv func(Target, Client, plan.Cell) []string, seconds float64, out func(k int) string) bundle.Step {
		return t.fromAll(func(k int, c Client) bundle.Action {
			return bundle.Exec{Argv: argv(t, c, cell), CPUs: []int{cell.Int(plan.FactorClientCPU)}, Sched: sched, Timeout: seconds + 30, Out: out(k), HTTP: w.Application == catalog.HTTP}
		})
	}
	if warmup := cell.Duration(plan.FactorWarmup); w.warmup != nil && warmup > 0 {
		steps = append(steps, exec(w.warmup, warmup.Seconds(), func(int) string { return "" }))
	}
	steps = append(steps, w.cpu(t, cell, server, CPUBefore)...)
	steps = append(steps,
		server(bundle.Snapshot{Out: rawServerBefore}),
		first(bundle.Snapshot{Out: rawClientBefore}),
		exec(w.client, longest(cell), func(k int) string { return rawOf(cell, k) }),
		first(bundle.Snapshot{Out: rawClientAfter}),
		server(bundle.Snapshot{Out: rawServerAfter}),
	)
	steps = append(steps, w.cpu(t, cell, server, CPUAfter)...)
	for k := range w.servers(t, cell, sched) {
		steps = append(steps, server(bundle.Stop{Handle: handleOf(k)}))
	}
	return steps, nil
}

// slowestRate is the transactions a second below which a trial that counts them
// is taken for one that hangs.
const slowestRate = 20

// longest is how many seconds the measured client of a cell may take.
func longest(cell plan.Cell) float64 {
	if n := cell.Int(plan.FactorCount); n > 0 {
		return float64(n) / slowestRate
	}
	return (cell.Duration(plan.FactorWarmup) + cell.Duration(plan.FactorDuration)).Seconds()
}

// Measured is how many seconds each client of a trial was measured for: what the
// plan says, or what its transactions took.
func Measured(cell plan.Cell, metrics []Metric) float64 {
	n := cell.Int(plan.FactorCount)
	if n == 0 {
		return cell.Duration(plan.FactorDuration).Seconds()
	}
	w, _ := find(cell) // Render has refused others
	for _, m := range metrics {
		if m.Name == w.amount && m.Value > 0 { // of all clients together
			return float64(n*max(1, cell.Int(plan.FactorClients))) / m.Value
		}
	}
	return 0
}

// servers are the server programs of a workload.
func (w workload) servers(t Target, cell plan.Cell, sched string) []bundle.Start {
	ports := []int{t.ControlPort}
	if w.each {
		ports = nil
		for _, c := range t.Clients {
			ports = append(ports, c.Port)
		}
	}
	var out []bundle.Start
	for k, port := range ports {
		cpus := []int{cell.Int(plan.FactorServerCPU)}
		if w.Application == catalog.HTTP {
			s, _ := bundle.HTTPServer(handleOf(k), t.ServerAddr, port)
			s.CPUs, s.Sched = cpus, sched
			out = append(out, s)
			continue
		}
		out = append(out, bundle.Start{Handle: handleOf(k), Argv: w.server(t, port), CPUs: cpus, Sched: sched, Port: port})
	}
	return out
}

// fromAll is a step that acts in every client, at once if there are several.
func (t Target) fromAll(do func(k int, c Client) bundle.Action) bundle.Step {
	var all []bundle.Step
	for k, c := range t.Clients {
		all = append(all, bundle.Step{Node: t.ClientNode, Phase: bundle.Run, In: c.Role, Do: do(k, c)})
	}
	if len(all) == 1 {
		return all[0]
	}
	return bundle.Step{Node: t.ClientNode, Phase: bundle.Run, Do: bundle.Parallel{Steps: all}}
}

// handleOf names server number k, from 0.
func handleOf(k int) string { return numbered(serverHandle, k) }

// numbered is a name for the first of several, and with their numbers for the others.
func numbered(name string, k int) string {
	if k == 0 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, k+1)
}

// rawOf is the name of the raw file of client number k, from 0.
func rawOf(cell plan.Cell, k int) string {
	w, _ := find(cell) // Render has refused others
	return numbered(rawResult, k) + w.raw
}

// Parse turns the raw files of a trial into metrics.
func Parse(cell plan.Cell, raw fs.FS) ([]Metric, error) {
	w, err := find(cell)
	if err != nil {
		return nil, err
	}
	var each [][]Metric
	clients := max(1, cell.Int(plan.FactorClients))
	for k := range clients {
		data, err := fs.ReadFile(raw, rawOf(cell, k))
		if err != nil {
			return nil, fmt.Errorf("read result of %s: %w", w.Name, err)
		}
		metrics, err := w.parse(data, clients == 1)
		if err != nil {
			return nil, fmt.Errorf("parse %s output of %s: %w", rawOf(cell, k), w.Name, err)
		}
		each = append(each, metrics)
	}
	metrics, err := w.together(each)
	if err != nil {
		return nil, fmt.Errorf("parse output of %s: %w", w.Name, err)
	}
	if _, err := Evidences(cell, raw); err != nil { // what cannot be judged is no number
		return nil, err
	}
	activity, err := parseActivity(raw)
	if err != nil {
		return nil, err
	}
	counted, err := w.instructions(cell, raw, metrics)
	if err != nil {
		return nil, err
	}
	return slices.Concat(metrics, counted, activity), nil
}

// Traffic is the least a filter must have seen of a trial: packets, and bytes
// on the wire from client to server.
type Traffic struct{ Packets, Bytes float64 }

// LeastTraffic derives it from what the tools of one trial counted themselves,
// not from how long the trial should have been. A transaction is at least one
// packet each way; bulk data passes as aggregates, so it is counted in bytes.
func LeastTraffic(clients []Evidence) Traffic {
	var t Traffic
	for _, e := range clients {
		t.Packets += e.Transactions
		t.Bytes += e.Bytes
	}
	return t
}

// family is the option by which both tools keep to one address family.
func (t Target) family() string {
	if strings.Contains(t.ServerAddr, ":") {
		return "-6"
	}
	return "-4"
}

// wholeSeconds renders a duration for tools that count in seconds; the loader
// has refused any other.
func wholeSeconds(cell plan.Cell, factor string) string {
	return strconv.Itoa(int(cell.Duration(factor).Seconds()))
}

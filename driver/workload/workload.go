// Package workload renders the measured programs, iperf3 and netperf, into
// bundle steps and parses their raw output into metrics. It is pure.
package workload

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

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
	Client, Server         string // endpoint roles
	ServerAddr             string
	ServicePort            int // data, the port that policies name
	ControlPort            int // netperf's control connection
}

// workload is one entry of the registry.
type workload struct {
	plan.WorkloadEntry
	server func(Target) []string
	// port is the one the server listens on.
	port   func(Target) int
	warmup func(Target, plan.Cell) []string // nil: the client warms up by itself
	client func(Target, plan.Cell) []string
	parse  func([]byte) ([]Metric, error)
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
		{
			WorkloadEntry: plan.WorkloadEntry{Name: "TCP_STREAM", Doc: "iperf3, bulk TCP; bits received a second"},
			server:        iperfServer, port: servicePort, client: iperfClient, parse: parseIperf,
			turns: bundle.SchedBatch, // several threads, which real time does not suit
		},
		netperf("TCP_RR", "netperf, one-byte request and response on one connection; transactions a second and their latency"),
		netperf("TCP_CRR", "netperf, connect, request, response, close; connections a second"),
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
	client := func(do bundle.Action) bundle.Step {
		return bundle.Step{Node: t.ClientNode, Phase: bundle.Run, In: t.Client, Do: do}
	}
	clientCPU := []int{cell.Int(plan.FactorClientCPU)}
	sched := ""
	if cell.Get(plan.FactorClock) == plan.ClockVirtual {
		sched = w.turns
	}
	steps := []bundle.Step{server(bundle.Start{Handle: serverHandle, Argv: w.server(t), CPUs: []int{cell.Int(plan.FactorServerCPU)}, Sched: sched, Port: w.port(t)})}
	limit := func(s float64) float64 { return s + 30 }
	if warmup := cell.Duration(plan.FactorWarmup); w.warmup != nil && warmup > 0 {
		steps = append(steps, client(bundle.Exec{Argv: w.warmup(t, cell), CPUs: clientCPU, Sched: sched, Timeout: limit(warmup.Seconds())}))
	}
	total := cell.Duration(plan.FactorWarmup) + cell.Duration(plan.FactorDuration)
	steps = append(steps,
		server(bundle.Snapshot{Out: rawServerBefore}),
		client(bundle.Snapshot{Out: rawClientBefore}),
		client(bundle.Exec{Argv: w.client(t, cell), CPUs: clientCPU, Sched: sched, Timeout: limit(total.Seconds()), Out: rawResult + rawSuffix(w.Name)}),
		client(bundle.Snapshot{Out: rawClientAfter}),
		server(bundle.Snapshot{Out: rawServerAfter}),
		server(bundle.Stop{Handle: serverHandle}),
	)
	return steps, nil
}

// RawResult is the name of the raw file with the workload's own output.
func RawResult(cell plan.Cell) string { return rawResult + rawSuffix(cell.Get(plan.FactorWorkload)) }

func rawSuffix(name string) string {
	if name == "TCP_STREAM" {
		return ".json"
	}
	return ".txt"
}

// Parse turns the raw files of a trial into metrics.
func Parse(cell plan.Cell, raw fs.FS) ([]Metric, error) {
	w, err := find(cell)
	if err != nil {
		return nil, err
	}
	data, err := fs.ReadFile(raw, RawResult(cell))
	if err != nil {
		return nil, fmt.Errorf("read result of %s: %w", w.Name, err)
	}
	metrics, err := w.parse(data)
	if err != nil {
		return nil, fmt.Errorf("parse %s output of %s: %w", RawResult(cell), w.Name, err)
	}
	activity, err := parseActivity(raw)
	if err != nil {
		return nil, err
	}
	counted, err := instructions(cell, raw, metrics)
	if err != nil {
		return nil, err
	}
	return slices.Concat(metrics, counted, activity), nil
}

// Traffic is the least a filter must have seen of a trial: packets, and bytes
// on the wire from client to server.
type Traffic struct{ Packets, Bytes float64 }

// LeastTraffic derives it from the metrics of one trial. A transaction is at
// least one packet each way; bulk data passes as aggregates, so it is counted
// in bytes.
func LeastTraffic(cell plan.Cell, metrics []Metric) Traffic {
	seconds := cell.Duration(plan.FactorDuration).Seconds()
	var t Traffic
	for _, m := range metrics {
		switch m.Name {
		case "throughput":
			t.Bytes = m.Value * seconds / 8
		case "rate":
			t.Packets = m.Value * seconds
		}
	}
	return t
}

func servicePort(t Target) int { return t.ServicePort }

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

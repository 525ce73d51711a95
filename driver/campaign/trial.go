package campaign

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
	"hookbed/driver/workload"
)

// Snapshots of the hook's counters around the measured workload.
const (
	runBefore = "run-before"
	runAfter  = "run-after"
	// Snapshots of the overlay's counters.
	tunnelBefore = "tunnel-before"
	tunnelAfter  = "tunnel-after"
)

// applied is what was measured while a datapath was set up; every trial of the
// setup has these metrics.
type applied struct{ metrics []workload.Metric }

// applySetup makes the endpoints and applies the datapath.
func (r *runner) applySetup(ctx context.Context, setup datapath.Setup) (applied, error) {
	start := time.Now()
	done := r.clock("endpoints")
	err := r.lab.Begin(ctx, setup)
	done()
	if err != nil {
		return applied{}, err
	}
	endpoints := time.Since(start).Seconds()
	defer r.clock("apply")()
	start = time.Now()
	b := &bundle.Bundle{Schema: bundle.Schema, Name: "setup", Files: setup.Files, Steps: setup.Apply}
	ex, err := r.lab.Exec(ctx, b, bundle.Apply)
	if err != nil {
		return applied{}, err
	}
	a := applied{metrics: []workload.Metric{
		{Name: "endpoints_seconds", Unit: "s", Value: endpoints},
		{Name: "apply_seconds", Unit: "s", Value: time.Since(start).Seconds()},
	}}
	if r.replay {
		a.metrics = []workload.Metric{{Name: "apply_seconds", Unit: "s", Value: ex.Seconds()}}
	}
	a.metrics = append(a.metrics, stepMetrics(ex)...)
	return a, nil
}

// stepMetrics sums what the steps of a setup measured: the time to load the
// policies, the time to add one and remove it again, and the kernel memory of all.
func stepMetrics(ex lab.Execution) []workload.Metric {
	var out []workload.Metric
	add := func(name, unit string, v float64) {
		if v > 0 {
			out = append(out, workload.Metric{Name: name, Unit: unit, Value: v})
		}
	}
	load, update, memory := 0.0, 0.0, map[string]float64{}
	version, untested := 0.0, 0.0
	for i, o := range ex.Steps {
		version = max(version, o.Values[bundle.MetricAgentVersion])
		untested = max(untested, o.Values[bundle.MetricAgentUntested])
		load += o.Values[bundle.MetricLoad]
		update += o.Values[bundle.MetricUpdate]
		if bytes, ok := o.Values[bundle.MetricMemory]; ok {
			memory[holder(i, o.Step)] = bytes
		}
	}
	total := 0.0
	for _, bytes := range memory {
		total += bytes
	}
	add(bundle.MetricLoad, "s", load)
	add(bundle.MetricUpdate, "s", update)
	add(bundle.MetricMemory, "By", total)
	add(bundle.MetricAgentVersion, "1", version)
	add(bundle.MetricAgentUntested, "1", untested)
	return out
}

// holder names the owner of a step's memory: steps on a BPF object report all that
// the object holds at that time, other steps what they added.
func holder(i int, s bundle.Step) string {
	switch do := s.Do.(type) {
	case bundle.LoadBPF:
		return s.Node + " " + do.Handle
	case bundle.FillMap:
		return s.Node + " " + do.Handle
	}
	return strconv.Itoa(i)
}

// Bundle renders the trial of a cell: proof, then the workload between two
// reads of the filter's counters.
func Bundle(cell plan.Cell, setup datapath.Setup) (*bundle.Bundle, error) {
	t := setup.Topology
	target := workload.Target{
		ClientNode: t.Client.Node.Name, ServerNode: t.Server.Node.Name,
		Server: t.Server.Role, ServerAddr: t.Server.Addr.String(), ControlPort: datapath.ControlPort, Path: datapath.RequestPath(cell), Proxy: setup.Proxy,
	}
	for _, c := range t.Clients() {
		target.Clients = append(target.Clients, workload.Client{Role: c.Role, Port: c.Port})
	}
	run, err := workload.Render(cell, target)
	if err != nil {
		return nil, err
	}
	b := &bundle.Bundle{Schema: bundle.Schema, Name: cell.ID, Files: setup.Files}
	if own := workload.Files(cell, target); own != nil {
		b.Files = maps.Clone(setup.Files)
		maps.Copy(b.Files, own)
	}
	b.Steps = append(b.Steps, setup.Apply...)
	b.Steps = append(b.Steps, setup.Prove...)
	if setup.Tunnel != nil {
		b.Steps = append(b.Steps, setup.Tunnel.Read(bundle.Run, tunnelBefore))
	}
	if setup.Hook != nil {
		b.Steps = append(b.Steps, setup.Hook.Read(bundle.Run, runBefore))
	}
	b.Steps = append(b.Steps, run...)
	if setup.Hook != nil {
		b.Steps = append(b.Steps, setup.Hook.Read(bundle.Collect, runAfter))
	}
	if setup.Tunnel != nil {
		b.Steps = append(b.Steps, setup.Tunnel.Read(bundle.Collect, tunnelAfter))
	}
	b.Steps = append(b.Steps, setup.Guards(bundle.Collect)...)
	return b, nil
}

// trial runs one trial and records it. An error is the rig's fault; every other
// fault is recorded in rows.
func (r *runner) trial(ctx context.Context, t plan.Trial, setup datapath.Setup, a applied) error {
	cell, _ := r.Plan.CellByID(t.Cell)
	b, err := trialBundle(r.Plan, cell, setup)
	if err != nil {
		return err
	}
	start := time.Now()
	marks, err := r.lab.Mark(ctx, setup.Topology)
	if err != nil {
		return err
	}
	proof, measured, seen, err := r.watched(ctx, b, setup.Topology)
	if undo := r.lab.UndoTo(ctx, marks); err == nil && undo != nil {
		err = undo
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		if statusOf(err) == record.StatusRig {
			return err
		}
		return r.record(t, statusOf(err), err.Error(), "", nil)
	}
	if _, recorded := r.done[rundir.Key{Cell: t.Cell, Block: t.Block, Trial: t.Trial}]; recorded {
		return nil
	}
	raw, err := r.saveRaw(t, measured.Raw)
	if err != nil {
		return err
	}
	v, err := r.judge(cell, setup, raw, measured, seen)
	if err != nil {
		return r.record(t, record.StatusFailed, err.Error(), raw, nil)
	}
	status := record.StatusOK
	if v.void != "" {
		status = record.StatusVoid
	}
	metrics := append(v.metrics, a.metrics...)
	metrics = append(metrics, proofMetrics(cell, proof, measured)...)
	metrics = append(metrics, cpuMetrics(cell, setup, measured)...)
	metrics = append(metrics, r.ownMetrics(cell, setup, metrics, start)...)
	if bad := notFinite(metrics); bad != "" {
		return r.record(t, record.StatusFailed, bad, raw, nil)
	}
	if status == record.StatusOK {
		r.others.add(cell.ID, v.use)
	}
	return r.record(t, status, v.void, raw, metrics)
}

// ownMetrics are the driver's own metrics of a trial that began at start: the known
// cost of a control, and the seconds that were spent outside the workload.
func (r *runner) ownMetrics(cell plan.Cell, setup datapath.Setup, measured []workload.Metric, start time.Time) []workload.Metric {
	var out []workload.Metric
	if setup.KnownInstructions != nil {
		out = append(out, workload.Metric{Name: "known_added_instructions", Unit: "1", Value: *setup.KnownInstructions})
	}
	if !r.replay {
		out = append(out, workload.Metric{Name: "overhead_seconds", Unit: "s",
			Value: time.Since(start).Seconds() - workload.Measured(cell, measured) - cell.Duration(plan.FactorWarmup).Seconds()})
	}
	return out
}

// proveAndRun executes the proof of a bundle, and then its workload.
func (r *runner) proveAndRun(ctx context.Context, b *bundle.Bundle) (proof, measured lab.Execution, err error) {
	done := r.clock("prove")
	proof, err = r.lab.Exec(ctx, b, bundle.Prove)
	done()
	if err != nil {
		return proof, measured, fmt.Errorf("prove enforcement: %w", err)
	}
	defer r.clock("measure")()
	measured, err = r.lab.Exec(ctx, b, bundle.Run, bundle.Collect)
	if err != nil {
		return proof, measured, fmt.Errorf("run workload: %w", err)
	}
	return proof, measured, nil
}

// cpuMetrics are the CPU time that a request took, of programs that make and answer them.
func cpuMetrics(cell plan.Cell, setup datapath.Setup, measured lab.Execution) []workload.Metric {
	client := 0.0
	for _, o := range clientSteps(measured) {
		client += o.Values["cpu_seconds"]
	}
	requests := float64(cell.Int(plan.FactorCount) * max(1, cell.Int(plan.FactorClients)))
	return workload.CPUOfRequests(requests, client, readValues(measured, workload.CPUBefore), readValues(measured, workload.CPUAfter), setup.Proxy)
}

// tunnelGuard returns why the traffic did not go through the overlay as it should,
// or "".
func tunnelGuard(least workload.Traffic, t tunnel) string {
	switch {
	case t.in.Packets < least.Packets || t.in.Bytes < least.Bytes:
		return fmt.Sprintf("%.0f packets and %.0f bytes came through the overlay, the workload sent at least %.0f and %.0f: traffic took another path",
			t.in.Packets, t.in.Bytes, least.Packets, least.Bytes)
	case t.out < least.Packets || t.out == 0:
		return fmt.Sprintf("%.0f packets went back through the overlay, the workload had at least %.0f and not none: answers took another path", t.out, least.Packets)
	case t.fragments > 0:
		return fmt.Sprintf("the node made or met %.0f fragments of IP packets: the overlay's MTU is too large", t.fragments)
	}
	return ""
}

// tunnel is by how much the overlay's counters at the server's node grew during the
// workload: traffic in, packets out, and fragments.
type tunnel struct {
	in             workload.Traffic
	out, fragments float64
}

func tunnelTraffic(ex lab.Execution) tunnel {
	before, after := readValues(ex, tunnelBefore), readValues(ex, tunnelAfter)
	grew := func(key string) float64 { return after[key] - before[key] }
	return tunnel{in: workload.Traffic{Packets: grew("rx_packets"), Bytes: grew("rx_bytes")}, out: grew("tx_packets"), fragments: grew("fragments")}
}

// hookTraffic is by how much the filter's counters grew during the workload.
func hookTraffic(ex lab.Execution) workload.Traffic {
	before, after := readValues(ex, runBefore), readValues(ex, runAfter)
	return workload.Traffic{Packets: after[bundle.CountPackets] - before[bundle.CountPackets], Bytes: after[bundle.CountBytes] - before[bundle.CountBytes]}
}

// readValues are the values of the step that reads counters under a name, nil if
// there is none.
func readValues(ex lab.Execution, name string) map[string]float64 {
	for _, o := range ex.Steps {
		if read, ok := o.Do.(bundle.Read); ok && read.Name == name {
			return o.Values
		}
	}
	return nil
}

// proofMetrics are the metrics of the proof: what was probed, what the kernel
// holds, and what the filter counted.
func proofMetrics(cell plan.Cell, proof, measured lab.Execution) []workload.Metric {
	out := probeMetrics(proof)
	for _, o := range proof.Steps {
		if do, ok := o.Do.(bundle.Read); ok && do.Name == datapath.ProveAfter {
			out = append(out, workload.Metric{Name: "policies_realised", Unit: "1", Value: float64(cell.Int(plan.FactorPolicies))})
			for _, k := range slices.Sorted(maps.Keys(o.Values)) {
				if k == bundle.CountRules || k == bundle.CountRulesHook || k == bundle.CountRevision || isEntries(k) {
					out = append(out, workload.Metric{Name: "hook_" + k, Unit: "1", Value: o.Values[k]})
				}
			}
		}
	}
	if seen := hookTraffic(measured); seen.Packets > 0 {
		out = append(out, workload.Metric{Name: "hook_packets", Unit: "1", Value: seen.Packets},
			workload.Metric{Name: "hook_bytes", Unit: "By", Value: seen.Bytes})
	}
	if t := tunnelTraffic(measured); t.in.Packets > 0 {
		out = append(out, workload.Metric{Name: "overlay_packets", Unit: "1", Value: t.in.Packets},
			workload.Metric{Name: "overlay_bytes", Unit: "By", Value: t.in.Bytes},
			workload.Metric{Name: "overlay_packets_back", Unit: "1", Value: t.out})
	}
	return append(out, checksumMetrics(cell, proof)...)
}

// isEntries says whether a counter's value is how many entries a map has.
func isEntries(key string) bool {
	return len(key) > len(bundle.CountEntriesOf) && strings.HasPrefix(key, bundle.CountEntriesOf)
}

// checksumMetrics count the outer packets of the proof with and without a UDP
// checksum, if an engine made the overlay: the engine does not report which it uses.
func checksumMetrics(cell plan.Cell, proof lab.Execution) []workload.Metric {
	if !datapath.NeedsSwarm(cell) {
		return nil
	}
	seen := readValues(proof, datapath.OuterSeen)
	return []workload.Metric{{Name: "outer_checksum", Unit: "1", Value: seen["checksum"]}, {Name: "outer_no_checksum", Unit: "1", Value: seen["no_checksum"]}}
}

// probeMetrics counts the probes of all clients, by what they expect.
func probeMetrics(proof lab.Execution) []workload.Metric {
	allowed, denied := 0.0, 0.0
	for _, o := range proof.Steps {
		switch o.Do.(type) {
		case bundle.Probes, bundle.Requests, bundle.Parallel:
			allowed, denied = allowed+o.Values["allowed"], denied+o.Values["denied"]
		}
	}
	return []workload.Metric{{Name: "probes_allowed", Unit: "1", Value: allowed}, {Name: "probes_denied", Unit: "1", Value: denied}}
}

// saveRaw keeps the raw files of a trial, and returns the path of the one that its
// rows name.
func (r *runner) saveRaw(t plan.Trial, raw map[string]string) (string, error) {
	rel := ""
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		path, err := r.Dir.SaveRaw(t.Cell, t.Block, t.Trial, name, []byte(raw[name]))
		if err != nil {
			return "", err
		}
		if rel == "" || name == "result.json" || name == "result.txt" {
			rel = path
		}
	}
	return rel, nil
}

func (r *runner) recordAll(trials []plan.Trial, status, reason string) error {
	for _, t := range trials {
		if err := r.record(t, status, reason, "", nil); err != nil {
			return err
		}
	}
	return nil
}

// record appends one row per metric, or a single row if there is no metric.
func (r *runner) record(t plan.Trial, status, reason, raw string, metrics []workload.Metric) error {
	if _, recorded := r.done[rundir.Key{Cell: t.Cell, Block: t.Block, Trial: t.Trial}]; recorded {
		return nil
	}
	cell, _ := r.Plan.CellByID(t.Cell)
	row := record.Row{
		Run: r.Dir.Name(), Cell: t.Cell, Block: t.Block, Trial: t.Trial, Order: t.Order,
		Status: status, Reason: reason, Raw: raw, Factors: r.levels(t, cell),
	}
	rows := []record.Row{row}
	if len(metrics) > 0 {
		rows = rows[:0]
	}
	for _, m := range metrics {
		row.Metric, row.Unit, row.Value = m.Name, m.Unit, m.Value
		rows = append(rows, row)
	}
	if err := r.Dir.AppendRows(rows); err != nil {
		return err
	}
	r.result.Status[status]++
	if status != record.StatusOK {
		r.Log.Warn("trial "+status, "order", t.Order, "cell", cell.Title(), "reason", reason)
	}
	if !r.replay {
		r.Progress.Trial(t, cell, status)
	}
	return nil
}

// levels are the factors of a trial's rows: the cell's, and the seed of its
// block in virtual time.
func (r *runner) levels(t plan.Trial, cell plan.Cell) map[string]string {
	b, ok := r.Plan.BlockByNumber(t.Block)
	if !ok || b.Seed == 0 {
		return cell.Factors
	}
	out := maps.Clone(cell.Factors)
	out[plan.FactorSeed] = strconv.Itoa(b.Seed)
	return out
}

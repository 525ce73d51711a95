package workload

import (
	"encoding/json"
	"fmt"
	"io/fs"

	"hookbed/driver/bundle"
)

// Beginnings of the names of metrics that each side has; its name follows.
const (
	StealShareOf = "steal_share."
	TCPRetransOf = "tcp_retrans."
)

// parseActivity turns the snapshots around the client into busy CPUs, softirq
// and steal time of both nodes (CPU seconds a wall second), the share of all CPU
// time that was stolen, and softirq counts. iperf3's own CPU figure misses the work
// done in softirq.
func parseActivity(raw fs.FS) ([]Metric, error) {
	var out []Metric
	for _, side := range []struct{ name, before, after string }{
		{"client_node", rawClientBefore, rawClientAfter},
		{"server_node", rawServerBefore, rawServerAfter},
	} {
		a, err := readActivity(raw, side.before)
		if err != nil {
			return nil, err
		}
		b, err := readActivity(raw, side.after)
		if err != nil {
			return nil, err
		}
		out = append(out, activityMetrics(side.name, a, b)...)
	}
	return out, nil
}

func activityMetrics(side string, a, b bundle.Activity) []Metric {
	wall := between(a, b)
	if wall <= 0 {
		return nil
	}
	delta := func(state string) float64 { return (b.CPU[state] - a.CPU[state]) / wall }
	busy := 0.0
	for _, state := range []string{"user", "nice", "system", "irq", "softirq"} {
		busy += delta(state)
	}
	all := 0.0 // CPU seconds of every kind, added up in one order so that sums are equal to the last bit
	for _, state := range []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"} {
		all += b.CPU[state] - a.CPU[state]
	}
	share := 0.0
	if all > 0 {
		share = (b.CPU["steal"] - a.CPU["steal"]) / all
	}
	out := []Metric{
		{"cpu." + side, "1", busy},
		{"cpu_softirq." + side, "1", delta("softirq")},
		{"cpu_steal." + side, "1", delta("steal")},
		{StealShareOf + side, "1", share},
		{"load1." + side, "1", b.Load1},
	}
	for _, irq := range []string{"NET_RX", "NET_TX"} {
		out = append(out, Metric{"softirq_" + irq + "." + side, "1/s", float64(b.Softirqs[irq]-a.Softirqs[irq]) / wall})
	}
	return append(out, Metric{TCPRetransOf + side, "1", float64(b.TCP["RetransSegs"] - a.TCP["RetransSegs"])})
}

// between is how many seconds passed between two snapshots. Older ones, and those of
// virtual time, know only the clock that can be set.
func between(a, b bundle.Activity) float64 {
	if a.MonoNano != 0 && b.MonoNano != 0 {
		return float64(b.MonoNano-a.MonoNano) / 1e9
	}
	return float64(b.UnixNano-a.UnixNano) / 1e9
}

// Waited is for how long, in seconds, tasks had to wait for a CPU of either node
// during a trial; false where a node's kernel does not say.
func Waited(raw fs.FS) (float64, bool) {
	most := 0.0
	for _, side := range [][2]string{{rawClientBefore, rawClientAfter}, {rawServerBefore, rawServerAfter}} {
		a, err := readActivity(raw, side[0])
		b, err2 := readActivity(raw, side[1])
		if err != nil || err2 != nil || a.Waited == nil || b.Waited == nil {
			return 0, false
		}
		most = max(most, *b.Waited-*a.Waited)
	}
	return most, true
}

func readActivity(raw fs.FS, name string) (bundle.Activity, error) {
	var a bundle.Activity
	data, err := fs.ReadFile(raw, name)
	if err != nil {
		return a, fmt.Errorf("read snapshot: %w", err)
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("parse snapshot %s: %w", name, err)
	}
	return a, nil
}

package cost

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"

	"hookbed/analysis/figure"
	"hookbed/analysis/record"
	"hookbed/analysis/stat"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// Bench is what rates are measured on; *lab.Lab is one.
type Bench interface {
	Executor
	Begin(ctx context.Context, s datapath.Setup) error
	End(ctx context.Context, s datapath.Setup) error
	Facts(node string) map[string]string
}

// What is sent.
const (
	Drop   = "drop"   // a segment that no policy admits
	Accept = "accept" // a segment of an open connection
)

// RateConfig says what rates to measure.
type RateConfig struct {
	Lab      Bench
	Plan     *plan.Plan
	Rounds   int
	Seed     uint64
	CPU      int
	Seconds  float64 // to send for each number
	Progress func(done, total int, what string)
	Sample   func(RateSample) error // called for each measurement as it is made
}

// Rate is one arm with N policies, and what is sent to it.
type Rate struct {
	Arm      string `json:"arm"`
	Datapath string `json:"datapath"`
	Scenario string `json:"scenario"`
	Policies int    `json:"policies"`
	Sent     string `json:"sent"`   // Drop or Accept
	Status   string `json:"status"` // the worst of the rounds
	Reason   string `json:"reason,omitempty"`
	Samples  []RateSample
}

// RateSample is one measurement.
type RateSample struct {
	Rate    *Rate
	Round   int
	Frames  uint64  // given to the link
	Counted uint64  // dropped by the filter, or arrived in the server's TCP
	Seconds float64 // of sending
	Thread  float64 // seconds of CPU time of the sender, with the softirq work on it
	Softirq float64 // seconds of CPU time of that CPU's ksoftirqd
}

// PerSecond is the rate in packets a second.
func (s RateSample) PerSecond() float64 { return float64(s.Counted) / s.Seconds }

// PerCore is the rate in packets a second of CPU time.
func (s RateSample) PerCore() float64 { return float64(s.Counted) / (s.Thread + s.Softirq) }

// Share is the share of the CPU that sending and all that followed on it took.
func (s RateSample) Share() float64 { return (s.Thread + s.Softirq) / s.Seconds }

// Rates measures, in rounds of shuffled order, the packet rate of every arm of a
// plan with every N: the setup is applied anew and proven, then a generator sends.
func Rates(ctx context.Context, cfg RateConfig) ([]*Rate, error) {
	setups, err := setupsOf(cfg.Plan)
	if err != nil {
		return nil, err
	}
	var all []*Rate
	for _, s := range setups {
		all = append(all, s.rates...)
	}
	rng := rand.New(rand.NewPCG(cfg.Seed, 0x72617465))
	for round := range cfg.Rounds {
		order := slices.Clone(setups)
		rng.Shuffle(len(order), func(i, k int) { order[i], order[k] = order[k], order[i] })
		for i, s := range order {
			if cfg.Progress != nil {
				cfg.Progress(round*len(order)+i+1, cfg.Rounds*len(order), s.rates[0].title())
			}
			if err := cfg.measure(ctx, s, round+1); err != nil {
				return all, err
			}
		}
	}
	return all, nil
}

func (r *Rate) title() string { return fmt.Sprintf("%s %s N=%d", r.Scenario, r.Arm, r.Policies) }

// rateSetup is a rendered cell with what is measured of it.
type rateSetup struct {
	setup datapath.Setup
	probe map[string]bundle.Probe // by what is sent
	rates []*Rate
}

// setupsOf renders every setup of a plan once, whatever workloads it is for.
func setupsOf(p *plan.Plan) ([]rateSetup, error) {
	var out []rateSetup
	seen := map[string]bool{}
	for _, c := range p.Cells {
		key := fmt.Sprint(c.Get(plan.FactorScenario), c.Get(plan.FactorArm), c.Get(plan.FactorPolicies))
		if seen[key] {
			continue
		}
		seen[key] = true
		setup, err := datapath.Render(c)
		if err != nil {
			return nil, err
		}
		s := rateSetup{setup: setup, probe: probesOf(setup)}
		for _, sent := range []string{Drop, Accept} {
			if _, ok := s.probe[sent]; ok {
				s.rates = append(s.rates, &Rate{Arm: c.Get(plan.FactorArm), Datapath: c.Get(plan.FactorDatapath), Scenario: c.Get(plan.FactorScenario),
					Policies: c.Int(plan.FactorPolicies), Sent: sent, Status: record.StatusOK})
			}
		}
		if len(s.rates) > 0 {
			out = append(out, s)
		}
	}
	return out, nil
}

// probesOf picks from a setup's proof the first connection that is denied and
// the first that is admitted; a denied one only if the filter counts.
func probesOf(s datapath.Setup) map[string]bundle.Probe {
	out := map[string]bundle.Probe{}
	for _, st := range s.Prove {
		probes, ok := st.Do.(bundle.Probes)
		if !ok {
			continue
		}
		for _, try := range probes.Tries {
			sent := map[string]string{bundle.Deny: Drop, bundle.Allow: Accept}[try.Want]
			if _, had := out[sent]; had || sent == Drop && s.Hook == nil || try.Proto != "" && try.Proto != bundle.TCP {
				continue
			}
			out[sent] = try
		}
	}
	return out
}

// measure applies one setup, proves it, and sends. The error is the rig's or
// ctx's.
func (cfg RateConfig) measure(ctx context.Context, s rateSetup, round int) (err error) {
	if err := datapath.Check(s.setup, cfg.Lab.Facts(s.setup.Topology.Server.Node.Name)); err != nil {
		s.setStatus(record.StatusUnsupported, err)
		return nil
	}
	defer func() { err = errors.Join(err, cfg.Lab.End(ctx, s.setup)) }()
	if err := cfg.Lab.Begin(ctx, s.setup); err != nil {
		return err
	}
	b := &bundle.Bundle{Schema: bundle.Schema, Name: s.rates[0].title(), Files: s.setup.Files}
	b.Steps = slices.Concat(s.setup.Apply, s.setup.Prove, s.prepare())
	for _, phase := range []bundle.Phase{bundle.Apply, bundle.Prove, bundle.Run} {
		if _, err := cfg.Lab.Exec(ctx, b, phase); err != nil {
			return s.blame(ctx, fmt.Errorf("%s: %w", phase, err))
		}
	}
	for _, r := range s.rates {
		sample, err := cfg.send(ctx, s, r)
		if err != nil {
			if err := s.blame(ctx, err, r); err != nil {
				return err
			}
			continue
		}
		sample.Rate, sample.Round = r, round
		r.Samples = append(r.Samples, sample)
		if cfg.Sample != nil {
			if err := cfg.Sample(sample); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s rateSetup) setStatus(status string, err error, rates ...*Rate) {
	if len(rates) == 0 {
		rates = s.rates
	}
	for _, r := range rates {
		r.Status, r.Reason = status, err.Error()
	}
}

// blame sets the status of rates by whose fault an error is; the rig's goes back.
func (s rateSetup) blame(ctx context.Context, err error, rates ...*Rate) error {
	var f *lab.Fault
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.As(err, &f) {
		status, ok := map[string]string{bundle.FaultSubject: record.StatusFailed, bundle.FaultUnsupported: record.StatusUnsupported, bundle.FaultVoid: record.StatusVoid}[f.Kind]
		if ok {
			s.setStatus(status, err, rates...)
			return nil
		}
	}
	if errors.Is(err, errUncounted) {
		s.setStatus(record.StatusFailed, err, rates...)
		return nil
	}
	return err
}

const (
	rateFlow    = "rate"
	openTimeout = 30 // seconds; only what fails takes so long
)

// prepare makes the proven setup ready for frames that are not from a socket.
func (s rateSetup) prepare() []bundle.Step {
	t := s.setup.Topology
	var out []bundle.Step
	do := func(node, in string, a bundle.Action) {
		out = append(out, bundle.Step{Node: node, Phase: bundle.Run, In: in, Do: a})
	}
	server, client := t.Server.Node.Name, t.Client.Node.Name
	// The frames' TCP checksum is wrong on purpose, and their sequence numbers
	// are not the connection's: what conntrack thinks of either is not what is
	// measured. Only namespaces that have conntrack have the keys.
	for _, at := range [][2]string{{server, t.Server.Role}, {server, ""}, {client, ""}} {
		do(at[0], at[1], bundle.Sysctl{Key: "net.netfilter.nf_conntrack_checksum", Value: "0", Optional: true})
		do(at[0], at[1], bundle.Sysctl{Key: "net.netfilter.nf_conntrack_tcp_be_liberal", Value: "1", Optional: true})
	}
	out = append(out, s.setup.Guards(bundle.Run)...)
	// The other end of the client's link takes XDP frames only with GRO.
	if peer, in := s.peer(); peer != "" {
		do(client, in, bundle.Offload{Link: peer, Features: map[string]bool{"rx-gro": true}})
	}
	if p, ok := s.probe[Accept]; ok {
		do(server, t.Server.Role, bundle.Listen{Handle: rateFlow, Port: p.Port})
		do(client, t.Client.Role, bundle.Flow{Handle: rateFlow, Op: bundle.FlowOpen, Link: "eth0", From: p.From, To: p.To, Port: p.Port, Timeout: openTimeout})
	}
	return out
}

// peer is the other end of the client's eth0 and where it is.
func (s rateSetup) peer() (link, in string) {
	for _, st := range s.setup.Apply {
		v, ok := st.Do.(bundle.Veth)
		switch t := s.setup.Topology; {
		case ok && v.PeerIn == t.Client.Role:
			return v.Link, st.In
		case ok && st.In == t.Client.Role:
			return v.Peer, v.PeerIn
		}
	}
	return s.setup.Topology.Client.PeerLink(), ""
}

// errUncounted is wrapped when counters do not show what was sent.
var errUncounted = errors.New("the counters do not agree")

// send sends for one rate and reads what came of it.
func (cfg RateConfig) send(ctx context.Context, s rateSetup, r *Rate) (RateSample, error) {
	t, p := s.setup.Topology, s.probe[r.Sent]
	b := &bundle.Bundle{Schema: bundle.Schema, Name: r.title(), Files: s.setup.Files}
	do := func(node, in string, a bundle.Action) {
		b.Steps = append(b.Steps, bundle.Step{Node: node, Phase: bundle.Run, In: in, Do: a})
	}
	look := func(name string) {
		do(t.Server.Node.Name, t.Server.Role, bundle.Snapshot{Out: name})
		if s.setup.Hook != nil {
			b.Steps = append(b.Steps, s.setup.Hook.Read(bundle.Run, name))
		}
	}
	from, err := netip.ParseAddr(p.From)
	if err != nil {
		return RateSample{}, err
	}
	to, err := netip.ParseAddr(p.To)
	if err != nil {
		return RateSample{}, err
	}
	send := bundle.Generate{Link: "eth0", CPU: cfg.CPU, Seconds: cfg.Seconds, Frame: bundle.Frame{From: from, To: to, FromPort: 40000, ToPort: uint16(p.Port), BadSum: true}}
	if r.Sent == Accept {
		send.Flow = rateFlow
	}
	look("before")
	do(t.Client.Node.Name, t.Client.Role, send)
	look("after")
	ex, err := cfg.Lab.Exec(ctx, b, bundle.Run)
	if err != nil {
		return RateSample{}, fmt.Errorf("send: %w", err)
	}
	return sampleOf(ex, r.Sent)
}

// sampleOf reads one measurement from the executed steps, and holds the filter's
// counters against the server's.
func sampleOf(ex lab.Execution, sent string) (RateSample, error) {
	var s RateSample
	reads := map[string]map[string]float64{}
	for _, o := range ex.Steps {
		switch do := o.Do.(type) {
		case bundle.Generate:
			s.Frames, s.Seconds = uint64(o.Values["sent"]), o.Values["seconds"]
			s.Thread, s.Softirq = o.Values["thread_seconds"], o.Values["softirqd_seconds"]
		case bundle.Read:
			reads[do.Name] = o.Values
		}
	}
	arrived, err := arrivals(ex)
	if err != nil {
		return s, err
	}
	grown := func(key string) uint64 { return uint64(reads["after"][key] - reads["before"][key]) }
	switch {
	case s.Frames == 0 || s.Seconds <= 0:
		return s, fmt.Errorf("%w: nothing was sent", errUncounted)
	case sent == Drop && arrived > 0:
		return s, fmt.Errorf("%w: %d of %d packets that must be denied arrived", errUncounted, arrived, s.Frames)
	case sent == Drop:
		s.Counted = grown(bundle.CountDropped)
	default:
		s.Counted = arrived
	}
	if s.Counted == 0 || s.Counted > s.Frames+strays {
		return s, fmt.Errorf("%w: %d frames were sent, %d counted", errUncounted, s.Frames, s.Counted)
	}
	if len(reads) > 0 && sent == Accept && grown(bundle.CountPackets) < s.Counted {
		return s, fmt.Errorf("%w: %d packets arrived, and the filter saw %d", errUncounted, s.Counted, grown(bundle.CountPackets))
	}
	s.Counted = min(s.Counted, s.Frames)
	return s, nil
}

// strays are how many packets a filter may drop meanwhile that the generator did
// not send: some drop solicitations of neighbours and routers, too.
const strays = 32

// arrivals is how many of the frames the server's TCP has received: their
// checksum is wrong, so it counts and drops them.
func arrivals(ex lab.Execution) (uint64, error) {
	var act [2]bundle.Activity
	for i, name := range []string{"before", "after"} {
		if err := json.Unmarshal([]byte(ex.Raw[name]), &act[i]); err != nil {
			return 0, fmt.Errorf("read the server's counters: %w", err)
		}
	}
	const key = "InCsumErrors"
	return act[1].TCP[key] - act[0].TCP[key], nil
}

// values are the samples' values of a kind.
func (r *Rate) values(of func(RateSample) float64) []float64 {
	var out []float64
	for _, s := range r.Samples {
		out = append(out, of(s))
	}
	return out
}

// loss is the share of frames that no counter saw, over all rounds.
func (r *Rate) loss() float64 {
	var frames, counted uint64
	for _, s := range r.Samples {
		frames, counted = frames+s.Frames, counted+s.Counted
	}
	return 1 - float64(counted)/float64(frames)
}

// writeRatesCSV writes one line a rate: per_core in packets a second of CPU time,
// with its interval, median and cov (standard deviation over mean); per_second in
// packets a second as it passed.
func writeRatesCSV(w io.Writer, rates []*Rate) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"arm", "datapath", "scenario", "policies", "sent", "status", "reason", "rounds", "per_core", "low", "high", "confidence", "median", "cov", "per_second", "cpu_share", "loss"})
	for _, r := range rates {
		row := []string{r.Arm, r.Datapath, r.Scenario, strconv.Itoa(r.Policies), r.Sent, r.Status, r.Reason, strconv.Itoa(len(r.Samples))}
		if len(r.Samples) == 0 {
			_ = out.Write(append(row, make([]string, 9)...))
			continue
		}
		x := r.values(RateSample.PerCore)
		e := estimate(x, true)
		for _, v := range []float64{e.Estimate, e.Low, e.High, e.Confidence, stat.Median(x), stat.CoV(x),
			estimate(r.values(RateSample.PerSecond), true).Estimate, stat.Median(r.values(RateSample.Share)), r.loss()} {
			row = append(row, number(v, 4))
		}
		_ = out.Write(row)
	}
	out.Flush()
	return out.Error()
}

// RateTable is the rates as people read them.
func RateTable(rates []*Rate, rounds int, m Machine) Table {
	t := Table{Title: "Packet rates, million packets a second", Columns: []string{"arm", "scenario", "policies", "sent", "per core", "interval", "as time passed", "CPU", "lost"},
		Notes: []string{"Each number: " + estimator(rounds) + ". drop: counted by the filter; accept: of an open connection, arrived in the server's TCP. Per core: in a second of CPU time, the generator's included. CPU: the share of one CPU that this took; other programs had the rest.", m.note()}}
	for _, r := range rates {
		row := []string{r.Arm, r.Scenario, strconv.Itoa(r.Policies), r.Sent}
		if r.Status != record.StatusOK || len(r.Samples) == 0 {
			t.Rows = append(t.Rows, append(row, r.Status, "", "", "", ""))
			t.Notes = append(t.Notes, fmt.Sprintf("%s, %s: %s: %s", r.title(), r.Sent, r.Status, ends(r.Reason)))
			continue
		}
		e := estimate(r.values(RateSample.PerCore), true)
		t.Rows = append(t.Rows, append(row, mega(e.Estimate), mega(e.Low)+" to "+mega(e.High), mega(estimate(r.values(RateSample.PerSecond), true).Estimate),
			fmt.Sprintf("%.0f %%", 100*stat.Median(r.values(RateSample.Share))), fmt.Sprintf("%.2f %%", 100*r.loss())))
	}
	return t
}

func mega(v float64) string { return strconv.FormatFloat(v/1e6, 'f', 3, 64) }

// drawRates draws the rates at which arms drop over the number of policies; nil
// if there is nothing to draw. With those at which they accept there would be too
// many lines to distinguish.
func drawRates(rates []*Rate) []byte {
	f := figure.Curves{Title: "Packets that each arm drops", Value: "million packets a second of one core"}
	for _, r := range rates {
		if r.Sent == Drop && r.Status == record.StatusOK && len(r.Samples) > 0 {
			f.Add(r.Arm, false, float64(r.Policies), estimate(r.values(RateSample.PerCore), true).Estimate/1e6)
		}
	}
	return f.SVG()
}

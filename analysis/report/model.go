package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/analysis/record"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
	"hookbed/analysis/trace"
)

// Metrics of what was proven of an agent's policies, and of its version.
const (
	entriesMetric  = "hook_entries.policy"
	revisionMetric = "hook_revision"
	versionMetric  = "agent_version"  // 1020003 is 1.20.3
	untestedMetric = "agent_untested" // 1 where the version is
)

// Modelled is an arm of another project's filter, next to the arm of hookbed that was made like
// it, at one number of policies.
type Modelled struct {
	Scenario string `json:"scenario"` // name of the stratum
	Arm      string `json:"arm"`
	Version  string `json:"version,omitempty"`
	Model    string `json:"model"` // the arm of hookbed
	Policies int    `json:"policies"`
	OK       int    `json:"ok"` // trials of Arm
	Tried    int    `json:"tried"`
	// Entries of both policy maps, and the revision of the policies that were in force: ranges
	// over trials; "-" where none was read.
	Entries      string      `json:"entries"`
	ModelEntries string      `json:"model_entries"`
	Revision     string      `json:"revision"`
	Costs        []ModelCost `json:"costs"`
	// Functions are those of the kernel and of BPF programs in the path of a unit of work, where
	// both were traced; by workload.
	Functions []ModelFunctions `json:"functions,omitempty"`
}

// ModelCost is one measure of an arm over that of its model.
type ModelCost struct {
	Workload string         `json:"workload"`
	Metric   string         `json:"metric"`
	Name     string         `json:"name"`
	Ratio    *stat.Estimate `json:"ratio"`
	Word     string         `json:"word"`
}

// ModelFunctions counts functions that a unit of work enters.
type ModelFunctions struct {
	Workload string   `json:"workload"`
	Both     int      `json:"both"`
	Only     []string `json:"only"`       // in the arm, the dearest first
	Model    []string `json:"only_model"` // in the model
}

// models are all arms that the runs have with their models.
func (s traceSet) models() []Modelled {
	e := s.e
	var out []Modelled
	eachSetup(e, func(in summary.Stratum, line summary.Line, n int, groups []*summary.Group) {
		like := modelOf(e, groups[0])
		if like == nil {
			return
		}
		eachSetup(e, func(of summary.Stratum, model summary.Line, most int, against []*summary.Group) {
			fabric, filter := e.Words.Datapath(against[0].Factors)
			if of == in && most == n && model.Clients == line.Clients && fabric == like.Fabric && filter == like.Filter {
				out = append(out, s.modelled(groups, against))
			}
		})
	})
	return out
}

// modelOf is the pair that a group's filter is the original of, nil if there is none.
func modelOf(e *summary.Estimator, g *summary.Group) *catalog.Pair {
	_, filter := e.Words.Datapath(g.Factors)
	f, _ := e.Words.Filter(filter)
	return f.Model
}

// modelled compares the groups of all workloads of an arm with those of its model.
func (s traceSet) modelled(groups, model []*summary.Group) Modelled {
	of := groups[0]
	m := Modelled{Scenario: of.Stratum.String(), Arm: of.Line.String(), Version: versionOf(groups), Model: model[0].Line.String(), Policies: of.N,
		Entries: rangeOf(groups, entriesMetric), ModelEntries: rangeOf(model, entriesMetric), Revision: rangeOf(groups, revisionMetric), Costs: []ModelCost{}}
	for _, g := range groups {
		m.OK += g.Count(record.StatusOK)
		for _, status := range record.Statuses() {
			m.Tried += g.Count(status)
		}
		i := slices.IndexFunc(model, func(o *summary.Group) bool { return o.Workload == g.Workload })
		if i < 0 {
			continue
		}
		for _, measure := range s.e.Measures() {
			if measure.Workload != g.Workload {
				continue
			}
			r := s.e.Ratio(g, model[i], measure.Metric)
			m.Costs = append(m.Costs, ModelCost{g.Workload, measure.Metric, measure.Name, r, s.e.WordWithNeed(r, measure.HigherIsBetter)})
		}
		if f, ok := s.functions(g, model[i]); ok {
			m.Functions = append(m.Functions, f)
		}
	}
	return m
}

// functions compares the paths of two groups, where both were traced.
func (s traceSet) functions(g, model *summary.Group) (f ModelFunctions, ok bool) {
	of := func(p summary.Point) *traced {
		i := slices.IndexFunc(s.all, func(t *traced) bool {
			return t.stratum == p.Stratum && t.Workload == p.Workload && t.Arm == p.Line.Arm && t.Policies == p.N
		})
		if i < 0 {
			return nil
		}
		return s.all[i]
	}
	a, b := of(g.Point), of(model.Point)
	if a == nil || b == nil {
		return f, false
	}
	f.Workload = g.Workload
	for _, d := range trace.Compare(&a.trace, &b.trace) {
		switch {
		case d.Calls > 0 && d.CallsOf > 0:
			f.Both++
		case d.Calls > 0:
			f.Only = append(f.Only, d.Name)
		case d.CallsOf > 0:
			f.Model = append(f.Model, d.Name)
		}
	}
	f.Only, f.Model = orEmpty(f.Only), orEmpty(f.Model)
	return f, true
}

// versionOf is the version of the agent that trials ran, "" if they say none.
func versionOf(groups []*summary.Group) string {
	var all []string
	for _, g := range groups {
		for _, v := range g.Samples(versionMetric) {
			n := int(v)
			if text := fmt.Sprintf("%d.%d.%d", n/1e6, n/1e3%1e3, n%1e3); !slices.Contains(all, text) {
				all = append(all, text)
			}
		}
	}
	return strings.Join(all, ", ")
}

// modelSection is "The model and what it is a model of".
func modelSection(e *summary.Estimator, all []Modelled) table.Section {
	sec := table.Section{ID: "models", Title: "The model and what it is a model of",
		Note: "An arm that runs another project's own programs, next to the arm of hookbed that was made like it, with the same number of policies. " +
			"Entries are those of the policy map: one for each policy, and what the arm needs besides. A ratio of 1 says that the model costs what the original costs; what the two do in a packet's path may differ all the same."}
	t := table.Table{ID: "models", Columns: []table.Column{table.Text("scenario"), table.Text("arm"), table.Text("version"), table.Number("N"), table.Text("trials ok"),
		table.Number("revision"), table.Number("entries"), table.Number("entries of the model"), table.Text("model")}}
	var measures []ModelCost
	for _, m := range all {
		for _, c := range m.Costs {
			if !slices.ContainsFunc(measures, func(o ModelCost) bool { return o.Workload == c.Workload && o.Metric == c.Metric }) {
				measures = append(measures, c)
				t.Columns = append(t.Columns, table.Text(fmt.Sprintf("%s (%s) over the model", c.Name, c.Workload)))
			}
		}
	}
	for _, m := range all {
		row := table.Row{Cells: []string{m.Scenario, m.Arm, m.Version, strconv.Itoa(m.Policies), fmt.Sprintf("%d of %d", m.OK, m.Tried), m.Revision, m.Entries, m.ModelEntries, m.Model}}
		if m.OK < m.Tried || m.Tried == 0 {
			row.Class = "failed"
		}
		for _, c := range measures {
			row.Cells = append(row.Cells, m.cost(c, e.Confidence))
		}
		t.Rows = append(t.Rows, row)
	}
	sec.Tables = []table.Table{t}
	if f := modelFunctions(all); len(f.Rows) > 0 {
		sec.Tables = append(sec.Tables, f)
	}
	return sec
}

// cost is one of the arm's measures over the model's, in words.
func (m Modelled) cost(of ModelCost, confidence float64) string {
	for _, c := range m.Costs {
		if c.Workload == of.Workload && c.Metric == of.Metric && c.Ratio != nil {
			return table.RatioWithInterval(c.Ratio, confidence) + ", " + c.Word
		}
	}
	return table.None
}

// modelFunctions is the table of functions in the path; it has no rows without traces.
func modelFunctions(all []Modelled) table.Table {
	t := table.Table{ID: "model-functions", Title: "Functions in the path of a unit of work, where both were traced",
		Columns: []table.Column{table.Text("scenario"), table.Text("workload"), table.Text("arm"), table.Number("N"), table.Number("in both"), table.Number("in the arm alone"),
			table.Number("in the model alone"), table.Text("in the arm alone, the dearest"), table.Text("in the model alone, the dearest")}}
	for _, m := range all {
		for _, f := range m.Functions {
			t.Rows = append(t.Rows, table.Row{Cells: []string{m.Scenario, f.Workload, m.Arm, strconv.Itoa(m.Policies), strconv.Itoa(f.Both), strconv.Itoa(len(f.Only)), strconv.Itoa(len(f.Model)),
				table.Some(f.Only), table.Some(f.Model)}})
		}
	}
	return t
}

// untestedWarnings name the arms that ran a version of an agent that hookbed was not tested with.
func untestedWarnings(e *summary.Estimator) []string {
	byVersion := map[string][]string{}
	var versions []string
	for _, g := range e.All() {
		if len(g.Samples(untestedMetric)) == 0 {
			continue
		}
		v := versionOf([]*summary.Group{g})
		if byVersion[v] == nil {
			versions = append(versions, v)
		}
		if arm := g.Line.String(); !slices.Contains(byVersion[v], arm) {
			byVersion[v] = append(byVersion[v], arm)
		}
	}
	var out []string
	for _, v := range versions {
		out = append(out, fmt.Sprintf("Untested version of an agent: %s ran %s, and hookbed was tested with others. Each trial was proven as always; what the proof reads may mean something else in that version.",
			table.List(byVersion[v]), v))
	}
	return out
}

// Package report makes a report from run directories alone: Markdown, a
// self-contained HTML page, figures as SVG and CSV, and JSON. Equal input gives
// equal output, byte for byte.
package report

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hookbed/analysis/claims"
	"hookbed/analysis/explain"
	"hookbed/analysis/figure"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// Schema is the version of report.json.
const Schema = 1

// Options says how to report. The zero value is usable.
type Options struct {
	Title      string  // "" = the experiment's name
	Confidence float64 // of every interval; 0 = 0.95
	Seed       uint64  // of the bootstrap
	Resamples  int     // of the bootstrap; 0 = 2000
	Reference  string  // arm to compare with; "" = docker, or the first without policies
}

// Result is what Make wrote and found.
type Result struct {
	Files    []string // paths, outDir included, in the order written
	Answers  []Answer // what the runs say of the study's questions
	Warnings []string
}

// Document is report.json: everything the report says, for machines. Values
// are in base units.
type Document struct {
	Schema       int                          `json:"schema"`
	Title        string                       `json:"title"`
	Description  string                       `json:"description,omitempty"`
	Answers      []Answer                     `json:"answers"`         // in the order of the parts
	Parts        []Document                   `json:"parts,omitempty"` // one for each clock, where there are two; the rest is empty then
	Runs         []string                     `json:"runs"`
	Clock        string                       `json:"clock"`
	Accelerators []string                     `json:"accelerators"`
	Confidence   float64                      `json:"confidence"`
	Estimator    string                       `json:"estimator"`
	Reference    string                       `json:"reference"`
	Verdicts     []summary.Verdict            `json:"verdicts"`
	Warnings     []string                     `json:"warnings"`
	Problems     []Problem                    `json:"problems"`
	Summaries    []summary.Summary            `json:"summaries"`
	Claims       []claims.Verdict             `json:"claims"`
	Costs        []Cost                       `json:"costs"`
	Explanations []explain.Explanation        `json:"explanations,omitempty"`
	Overlays     []explain.OverlayCost        `json:"overlays,omitempty"`
	Models       []Modelled                   `json:"models,omitempty"`
	Traces       []Traced                     `json:"traces,omitempty"`
	Environment  map[string]map[string]string `json:"environment"`
}

// content is the whole report of one clock before it is written in any form.
type content struct {
	Document
	part     part
	overview []overviewPart
	figures  []figure.Figure
	sections []table.Section
	explain  []table.Section // before everything else, with its pictures
	bars     []figure.Figure
	data     partData     // the rest is for the page alone
	facts    []fact       // in the order in which they are shown
	pair     *pairSection // nil if these are not two runs of the same cells
}

// Make reads run directories (rows.csv; env.json and plan.json where they are
// there) and writes report.md, report.html, report.json and figures/ into
// outDir, which is made if there is none. Runs on one clock are merged; those on two
// have a part each, since no table has both time and instructions. It refuses what
// runs.LoadEach refuses.
func Make(runDirs []string, outDir string, opt Options) (Result, error) {
	all, err := runs.LoadEach(runDirs...)
	if err != nil {
		return Result{}, err
	}
	b, err := bind(all, outDir, opt)
	if err != nil {
		return Result{}, err
	}
	files, err := b.render()
	if err != nil {
		return Result{}, err
	}
	res := b.result()
	if err := os.MkdirAll(filepath.Join(outDir, "figures"), 0o755); err != nil {
		return Result{}, fmt.Errorf("make report directory: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(outDir, f.name)
		if err := os.WriteFile(path, f.data, 0o644); err != nil {
			return Result{}, fmt.Errorf("write report: %w", err)
		}
		res.Files = append(res.Files, path)
	}
	return res, nil
}

// compose works out the whole report of one clock, which goes into outDir.
func compose(e *summary.Estimator, outDir, title string) (content, error) {
	x, err := explain.New(e)
	if err != nil {
		return content{}, err
	}
	traces, err := readTraces(e, outDir)
	if err != nil {
		return content{}, err
	}
	x.Traces = traces.byCell()
	head := measureSummaries(e)
	c := content{Document: Document{Schema: Schema, Title: cmp.Or(title, titleOf(e.Runs)), Clock: e.Clock(), Accelerators: e.Accelerators(),
		Confidence: e.Confidence, Reference: e.Reference, Environment: map[string]map[string]string{}}}
	for _, r := range e.Runs {
		c.Runs = append(c.Runs, r.Name)
		c.Environment[r.Name] = r.Env
		if c.Description == "" && r.Plan != nil {
			c.Description = r.Plan.Spec.Description
		}
	}
	c.Verdicts, c.Warnings, c.Problems, c.Summaries = e.Verdicts(), warningsOf(e, head), problemsOf(e), allSummaries(e)
	c.Verdicts, c.Warnings, c.Problems = orEmpty(c.Verdicts), orEmpty(c.Warnings), orEmpty(c.Problems)
	c.Summaries, c.Accelerators = orEmpty(c.Summaries), orEmpty(c.Accelerators)
	judged, err := judgedClaims(e.Set)
	if err != nil {
		return content{}, err
	}
	costs := costFits(e)
	c.Claims, c.Costs, c.Estimator, c.part = orEmpty(judged), orEmpty(finiteCosts(costs)), e.EstimatorTitle(), partOf(e)
	c.overview, c.figures = overviewOf(e, c.Verdicts), figure.Measures(e)
	c.data, c.facts = dataOf(e), factsOf(e, len(c.Warnings))
	if c.pair, c.data.Pair, err = pairOf(e); err != nil {
		return content{}, err
	}
	if c.Explanations = x.Explanations(); len(c.Explanations) > 0 {
		c.explain, c.bars = []table.Section{x.Section(c.Explanations)}, figure.Explanations(e, c.Explanations)
	}
	if c.Overlays = x.Overlays(); len(c.Overlays) > 0 {
		c.explain, c.bars = append(c.explain, x.OverlaySection(c.Overlays)), append(c.bars, figure.Overlays(e, c.Overlays)...)
	}
	if c.Models = traces.models(); len(c.Models) > 0 {
		c.explain = append(c.explain, modelSection(e, c.Models))
	}
	if len(traces.all) > 0 {
		c.Traces, c.explain, c.bars = traces.summaries(), append(c.explain, traces.section()), append(c.bars, figure.Layers(traces.plain())...)
	}
	if s := traces.dropSection(); len(s.Tables) > 0 {
		c.explain = append(c.explain, s)
	}
	if s := claimSection(judged); len(s.Tables) > 0 {
		c.sections = append(c.sections, s)
	}
	c.Answers = answerer{e, x}.answers(c)
	c.sections = append(c.sections, strataSections(e)...)
	c.sections = append(c.sections, troubleSection(e))
	c.sections = append(c.sections, resultSections(e)...)
	for _, s := range []table.Section{costSection(e, costs), controlsSection(e), proofSection(e), activitySection(e), varianceSection(e, head), otherSection(e)} {
		if len(s.Tables) > 0 {
			c.sections = append(c.sections, s)
		}
	}
	return c, nil
}

// orEmpty makes nothing an empty list, so that JSON never says null for a list.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// titlePrefix begins the title of every report that is not given one.
const titlePrefix = "hookbed: "

func titleOf(all []runs.Run) string {
	var names []string
	for _, r := range all {
		name := r.Name
		if r.Plan != nil && r.Plan.Spec.Name != "" {
			name = r.Plan.Spec.Name
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return titlePrefix + strings.Join(names, " + ")
}

func measureSummaries(e *summary.Estimator) []summary.Summary {
	var out []summary.Summary
	for _, s := range e.Strata {
		for _, m := range e.Measures() {
			out = append(out, e.Summaries(s, m.Workload, m.Metric)...)
		}
	}
	return out
}

func allSummaries(e *summary.Estimator) []summary.Summary {
	var out []summary.Summary
	for _, s := range e.Strata {
		for _, w := range e.Workloads {
			groups := e.Ordered(s, w)
			names := summary.Metrics(groups)
			if len(names) == 0 && len(groups) > 0 {
				names = []string{""} // nothing measured, but the cells exist
			}
			for _, m := range names {
				out = append(out, e.Summaries(s, w, m)...)
			}
		}
	}
	return out
}

// reading is how the numbers were made, a line for each point.
func (c content) reading() []string {
	out := []string{
		"Each number is the median over trials. Its interval lies between two order statistics and has exactly the confidence shown, whatever the distribution; with few trials that is smallest to largest.",
		fmt.Sprintf("Effects are ratios of medians. From %d trials on either side their interval is a percentile bootstrap at %s; below, it spans the ratios of the extremes and \"at least\" is the confidence it cannot fall short of. Arms that share %d blocks or more are compared within each block, by Student's t on the logs of the blocks' ratios; with fewer than %d blocks that interval is marked %s. %s",
			stat.MinRatioBootstrap, table.Percent(c.Confidence), runs.MinBlocks, stat.MinPairs, stat.RoughMark, stat.RoughNote),
		fmt.Sprintf("Where a ratio has no confidence beside it, it is %s.", table.Percent(c.Confidence)),
		fmt.Sprintf("\"Slower\" and \"faster\" mean that an interval of %s excludes 1, \"not distinguishable\" that it does not, which does not mean equal: read the interval. \"Undecided\" is what has no such interval, whatever its numbers look like.", table.Percent(c.Confidence)),
		"How many trials, blocks or seeds would decide is planned from the effect and the spread seen: with as many, those at hand included, 8 runs in 10 would decide if both stay as they are. Few trials know little of their own spread, so it is a guide, not a promise.",
	}
	if c.Estimator != "median" {
		out[0] = "Each number is the mean of the faster half of the trials, which the plan fixed beforehand, for noise that only ever slows; its interval is a bootstrap t on logs, so that no bound is 0 or less."
		out[1] = strings.Replace(out[1], "ratios of medians", "ratios of faster halves", 1)
	}
	if c.Clock == runs.ClockVirtual {
		out = append(out, "The clock is virtual: a second is a fixed number of instructions, so rates and times count instructions. Each number is the median over seeds, and intervals describe variation over seeds, nothing else: the same seed gives the same number, always.")
	}
	judged := 0
	for _, v := range c.Verdicts {
		if v.Ratio != nil && v.Ratio.Confidence > 0 {
			judged++
		}
	}
	if judged > 1 {
		out = append(out, fmt.Sprintf("%d ratios are judged one by one. At %s each, about %.1f of them would exclude 1 even if nothing differed.", judged, table.Percent(c.Confidence), float64(judged)*(1-c.Confidence)))
	}
	if len(c.figures) > 0 {
		out = append(out, "In line figures every point stands where its N is; interval bars stand a little beside, so that those of several arms can be seen. More than a few arms are shown in panels with the same axes.")
	}
	if c.Reference != "" {
		out = append(out, "The arm compared with is "+c.Reference+", at N = 0.")
	}
	return out
}

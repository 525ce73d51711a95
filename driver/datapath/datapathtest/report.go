package datapathtest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Report collects results and writes them as a table. A nil Report takes none.
type Report struct {
	mu      sync.Mutex
	arms    []Arm
	results map[string]map[string]Result // by arm and check
	took    map[string]time.Duration     // by check, summed
	ended   int                          // arms that are through

	// Progress gets a line for every arm that is through; nil for none.
	Progress io.Writer
	// Of is how many arms there are in all, for Progress.
	Of int
}

func (r *Report) add(a Arm, check string, res Result, took time.Duration) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.results == nil {
		r.results, r.took = map[string]map[string]Result{}, map[string]time.Duration{}
	}
	if r.results[a.Name()] == nil {
		r.arms = append(r.arms, a)
		r.results[a.Name()] = map[string]Result{}
	}
	r.results[a.Name()][check] = res
	r.took[check] += took
}

// end says that an arm is through, and how it fared.
func (r *Report) end(a Arm, took time.Duration) {
	if r == nil || r.Progress == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended++
	count := map[Status]int{}
	for _, res := range r.results[a.Name()] {
		count[res.Status]++
	}
	fmt.Fprintf(r.Progress, "%d/%d `%s`: %s (%.0f s)\n", r.ended, r.Of, a.Name(), tally(count), took.Seconds())
}

// Failures lists what failed, "ARM: CHECK: why".
func (r *Report) Failures() (out []string) {
	for _, a := range r.sorted() {
		for _, c := range Checks() {
			if res := r.results[a.Name()][c.Name]; res.Status == Failed {
				out = append(out, fmt.Sprintf("%s: %s: %s", a.Name(), c.Name, res.Note))
			}
		}
	}
	return out
}

// sorted lists the arms by name.
func (r *Report) sorted() []Arm {
	out := slices.Clone(r.arms)
	slices.SortFunc(out, func(a, b Arm) int { return strings.Compare(a.Name(), b.Name()) })
	return out
}

// Markdown is the conformance table: a row for each datapath over all its arms,
// then the arms themselves, then every reason behind a cell.
func (r *Report) Markdown() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	r.summary(&b)
	b.WriteString("\n## Every arm\n\n")
	writeHead(&b, "arm")
	for _, a := range r.sorted() {
		writeRow(&b, "`"+a.Name()+"`", func(check string) string { return r.cell(a, check) })
	}
	r.reasons(&b)
	return b.String()
}

// cell is the status of a check on an arm; what was not reached is empty.
func (r *Report) cell(a Arm, check string) string { return string(r.results[a.Name()][check].Status) }

func writeHead(b *strings.Builder, first string) {
	b.WriteString("| " + first + " |")
	for _, c := range Checks() {
		b.WriteString(" " + c.Name + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(Checks())) + "\n")
}

func writeRow(b *strings.Builder, first string, cell func(check string) string) {
	b.WriteString("| " + first + " |")
	for _, c := range Checks() {
		b.WriteString(" " + cell(c.Name) + " |")
	}
	b.WriteString("\n")
}

// summary is one row for each datapath: of how many of its arms each check was
// ok or as declared, and how many were otherwise.
func (r *Report) summary(b *strings.Builder) {
	byDatapath := map[string][]Arm{}
	for _, a := range r.arms {
		byDatapath[a.Datapath] = append(byDatapath[a.Datapath], a)
	}
	writeHead(b, "datapath (arms)")
	for _, d := range slices.Sorted(maps.Keys(byDatapath)) {
		arms := byDatapath[d]
		writeRow(b, fmt.Sprintf("`%s` (%d)", d, len(arms)), func(check string) string {
			count := map[Status]int{}
			for _, a := range arms {
				if res, ok := r.results[a.Name()][check]; ok {
					count[res.Status]++
				}
			}
			return tally(count)
		})
	}
}

// tally writes counts of statuses, "-" only if there is nothing else.
func tally(count map[Status]int) string {
	var parts []string
	for _, s := range []Status{OK, Declared, Unsupported, Failed} {
		if count[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[s], s))
		}
	}
	if len(parts) == 0 && count[None] > 0 {
		return string(None)
	}
	return strings.Join(parts, ", ")
}

// reasons lists why cells are not just ok, each once with the number of arms.
func (r *Report) reasons(b *strings.Builder) {
	type reason struct {
		status      Status
		check, note string
	}
	count := map[reason]int{}
	for _, checks := range r.results {
		for check, res := range checks {
			if res.Note != "" {
				count[reason{res.Status, check, res.Note}]++
			}
		}
	}
	keys := slices.SortedFunc(maps.Keys(count), func(x, y reason) int {
		return strings.Compare(string(x.status)+x.check+x.note, string(y.status)+y.check+y.note)
	})
	b.WriteString("\n## Reasons\n\n")
	for _, k := range keys {
		fmt.Fprintf(b, "- **%s** `%s` (%d arms): %s\n", k.status, k.check, count[k], strings.ReplaceAll(k.note, "\n", "; "))
	}
}

// Took lists what each check took in all, in seconds.
func (r *Report) Took() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var parts []string
	for _, c := range Checks() {
		parts = append(parts, fmt.Sprintf("%s %.1f", c.Name, r.took[c.Name].Seconds()))
	}
	return strings.Join(parts, ", ")
}

// Package draft writes experiment files: of arms, numbers of policies and a budget of time it makes a
// commented file whose plan fits the budget, and says what it chose. It is pure: what there is of
// arms and keys, the catalog says, and how long a plan takes, its caller.
package draft

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"hookbed/driver/plan"
)

// ErrBudget is wrapped by the error of a request that no size fits into its budget.
var ErrBudget = errors.New("does not fit the budget")

// Request is what is to be measured. Nothing of it is left out: only how often and how long follows
// from the budget.
type Request struct {
	Name string
	// Arms are filters ("tc-hash"), filters on a fabric ("bpf+tc-hash") or datapaths with a name
	// ("cilium-like"), each with levels of options behind it ("tc-hash:attach=tcx").
	Arms      []string
	Provider  string
	Clock     string
	Kernels   []string // of VMs; one is booted, several are compared
	Policies  []int
	Workloads []string
	Scenarios []string
	Budget    time.Duration // wall time of the whole run
}

// Draft is an experiment file, and what was chosen.
type Draft struct {
	Text     []byte
	Plan     *plan.Plan
	Estimate time.Duration
	Choices  []string // each a sentence
}

// Writer drafts experiments.
type Writer struct {
	Catalog plan.Catalog
	// Estimate is how long a plan takes, in wall time.
	Estimate func(*plan.Plan) time.Duration
}

// Write drafts the largest experiment of a request that fits its budget. What is wrong with the
// request wraps plan.ErrInvalid; a budget that is too small, ErrBudget, and it says what would fit.
func (w Writer) Write(r Request) (Draft, error) {
	arms, err := w.arms(r.Arms)
	if err != nil {
		return Draft{}, err
	}
	var smallest Draft
	all := sizes(r)
	for i, s := range all {
		d, err := w.sized(r, arms, s)
		if err != nil {
			return Draft{}, err
		}
		if d.Estimate <= r.Budget {
			d.Choices = append([]string{s.chosen(r, i == 0)}, d.Choices...)
			return d, nil
		}
		smallest = d
	}
	return Draft{}, w.tooLong(r, arms, all[len(all)-1], smallest.Estimate)
}

// sized is the draft of one size.
func (w Writer) sized(r Request, arms []arm, s size) (Draft, error) {
	text := w.text(r, arms, s)
	spec, err := plan.Parse("", text, w.Catalog)
	if err != nil {
		return Draft{}, wrong(err)
	}
	p, err := plan.Expand(spec, w.Catalog)
	if err != nil {
		return Draft{}, err
	}
	return Draft{Text: text, Plan: p, Estimate: w.Estimate(p)}, nil
}

// wrong is what the loader says of a draft, without the lines of a file that the user has not seen.
func wrong(err error) error {
	var invalid *plan.InvalidError
	if !errors.As(err, &invalid) {
		return err
	}
	var lines []string
	for _, p := range invalid.Problems {
		lines = append(lines, p.Key+": "+p.What)
	}
	return fmt.Errorf("%w: %s", plan.ErrInvalid, strings.Join(lines, "\n"))
}

// tooLong says what of a request would fit its budget.
func (w Writer) tooLong(r Request, arms []arm, s size, least time.Duration) error {
	text := fmt.Sprintf("even the smallest size takes about %s, and the budget is %s; write a budget of %s", short(least), short(r.Budget), short(upToMinute(least)))
	fits := func(r Request, arms []arm) bool {
		d, err := w.sized(r, arms, s)
		return err == nil && d.Estimate <= r.Budget
	}
	for n := len(r.Policies) - 1; n > 0; n-- { // the smallest and the largest are the last to go
		fewer := r
		fewer.Policies = outermost(r.Policies, n)
		if fits(fewer, arms) {
			text += fmt.Sprintf(", or %s of policies, %s", plural(n, "number"), numbers(fewer.Policies))
			break
		}
	}
	for n := len(arms) - 1; n > 0; n-- {
		if fits(r, arms[:n]) {
			text += fmt.Sprintf(", or %d of the %d arms", n, len(arms))
			break
		}
	}
	for _, one := range []struct {
		what string
		all  *[]string
	}{{"workload", &r.Workloads}, {"scenario", &r.Scenarios}, {"kernel", &r.Kernels}} {
		whole := *one.all
		if len(whole) < 2 {
			continue
		}
		if *one.all = whole[:1]; fits(r, arms) {
			text += ", or one " + one.what
		}
		*one.all = whole
	}
	return fmt.Errorf("%w: %s", ErrBudget, text)
}

// outermost are n of the numbers: the smallest first, then the largest ones.
func outermost(all []int, n int) []int {
	sorted := slices.Sorted(slices.Values(all))
	if n == 1 {
		return sorted[len(sorted)-1:]
	}
	return append(sorted[:1:1], sorted[len(sorted)-n+1:]...)
}

func upToMinute(d time.Duration) time.Duration {
	return (d + time.Minute - time.Nanosecond).Truncate(time.Minute)
}

// short is a duration as people write it: "10m", not "10m0s".
func short(d time.Duration) string {
	text := d.Round(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// CheckArms says whether names are those of arms that a request can have.
func CheckArms(cat plan.Catalog, arms []string) error {
	_, err := Writer{Catalog: cat}.arms(arms)
	return err
}

// arm is an arm as the file has it.
type arm struct {
	name, doc                string
	datapath, filter, fabric string
	options                  []option
}

type option struct{ key, level string }

// arms reads the names of arms.
func (w Writer) arms(texts []string) (out []arm, err error) {
	if len(texts) == 0 {
		return nil, fmt.Errorf("%w: no arm is named; `driver arms` lists filters and datapaths", plan.ErrInvalid)
	}
	taken := map[string]bool{}
	for _, text := range texts {
		a, err := w.arm(text)
		if err != nil {
			return nil, err
		}
		if taken[a.name] {
			return nil, fmt.Errorf("%w: arm %q is there twice", plan.ErrInvalid, text)
		}
		taken[a.name] = true
		out = append(out, a)
	}
	return out, nil
}

// longestLevel is how long a level may be that becomes a part of an arm's name.
const longestLevel = 20

var notInName = regexp.MustCompile(`[^a-z0-9-]+`)

func (w Writer) arm(text string) (arm, error) {
	parts := strings.Split(text, ":")
	a := arm{name: parts[0]}
	for _, part := range parts[1:] {
		key, level, ok := strings.Cut(part, "=")
		if n := len(a.options); !ok && n > 0 { // a level with a colon in it
			a.options[n-1].level += ":" + part
			continue
		}
		if !ok || key == "" || level == "" {
			return arm{}, fmt.Errorf("%w: arm %q: %q is no option, want KEY=LEVEL as in tc-hash:attach=tcx", plan.ErrInvalid, text, part)
		}
		a.options = append(a.options, option{key, level})
		if len(level) <= longestLevel {
			a.name += "-" + level
		}
	}
	a.name = notInName.ReplaceAllString(a.name, "-")
	names := []string{}
	for _, d := range w.Catalog.Datapaths {
		switch {
		case !d.Crossed && d.Name == parts[0]:
			a.datapath, a.doc = d.Name, d.Doc
			return a, nil
		case d.Crossed && d.Name == parts[0]:
			a.fabric, a.filter, a.doc = d.Fabric, d.Filter, cmp.Or(d.FilterDoc, d.Doc)
			return a, nil
		case d.Crossed && d.Filter == parts[0]:
			a.filter, a.doc = d.Filter, cmp.Or(d.FilterDoc, d.Doc)
			return a, nil
		}
		names = append(names, d.Name, d.Filter)
	}
	return arm{}, fmt.Errorf("%w: there is no filter or datapath %q%s; `driver arms` lists them", plan.ErrInvalid, parts[0], plan.DidYouMean(parts[0], names))
}

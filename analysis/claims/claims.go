// Package claims holds sentences about container network policy as data (those of
// the 2017 study and hookbed's own) and judges them by the rows of runs:
// reproduced, contradicted or undecided, with the numbers behind each verdict. It
// is pure, and it has no estimator of its own: the intervals are those of stat.
package claims

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pelletier/go-toml/v2"
)

//go:embed claims.toml
var study []byte

// Schema is the version of a claims file.
const Schema = 1

// Kinds of hypothesis. "Better" is more throughput or less time, by the metric.
const (
	// Better: arm a is better than arm b by more than the margin, at every N
	// that both have.
	Better = "better"
	// Same: arm a is as good as arm b within the margin, at every N.
	Same = "same"
	// Flat: at every N an arm is as good as without policies, within the margin.
	Flat = "flat"
	// Hurts: at its largest number of policies, which must be AtLeast or more, an
	// arm is worse than without policies by more than the margin.
	Hurts = "hurts"
	// NoPenaltyUntil: below Until policies an arm is not worse than without
	// policies by more than the margin; at Until it is.
	NoPenaltyUntil = "no-penalty-until"
)

// Claim is one sentence with the hypothesis and the cells that it is about.
type Claim struct {
	ID       string `toml:"id" json:"id"`
	Sentence string `toml:"sentence" json:"sentence"`
	Source   string `toml:"source" json:"source"` // section and figure of the study, or "hookbed"

	Hypothesis string   `toml:"hypothesis" json:"hypothesis"`
	Scenario   string   `toml:"scenario" json:"scenario"`
	Workload   string   `toml:"workload" json:"workload"`
	Metrics    []string `toml:"metrics" json:"metrics"` // alternatives; the first one that was measured is used
	// A and B select arms by factors, not by names. B is for hypotheses about two
	// arms.
	A map[string]string `toml:"a" json:"a"`
	B map[string]string `toml:"b" json:"b,omitempty"`

	Margin  float64 `toml:"margin" json:"margin"`               // relative; 0.05 is 5 %
	Reason  string  `toml:"reason" json:"reason"`               // why this margin
	AtLeast int     `toml:"at_least" json:"at_least,omitempty"` // Better, Same: the smallest N to compare; Hurts: see there
	Until   int     `toml:"until" json:"until,omitempty"`       // NoPenaltyUntil
}

// Study returns the claims that are part of hookbed (claims.toml).
func Study() ([]Claim, error) { return Parse(study) }

// Parse reads a claims file strictly and checks every claim in it; the error
// names every wrong claim.
func Parse(data []byte) ([]Claim, error) {
	var file struct {
		Schema int     `toml:"schema"`
		Claims []Claim `toml:"claim"`
	}
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&file); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return nil, fmt.Errorf("parse claims: unknown keys:\n%s", strict.String())
		}
		return nil, fmt.Errorf("parse claims: %w", err)
	}
	if file.Schema != Schema {
		return nil, fmt.Errorf("parse claims: schema %d, want %d", file.Schema, Schema)
	}
	var errs []error
	seen := map[string]bool{}
	for i, c := range file.Claims {
		if err := c.check(); err != nil {
			errs = append(errs, fmt.Errorf("claim %d %q: %w", i+1, c.ID, err))
		}
		if seen[c.ID] {
			errs = append(errs, fmt.Errorf("claim %d: the ID %q is there twice", i+1, c.ID))
		}
		seen[c.ID] = true
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("parse claims: %w", errors.Join(errs...))
	}
	return file.Claims, nil
}

func (c Claim) check() error {
	for key, value := range map[string]string{"id": c.ID, "sentence": c.Sentence, "source": c.Source,
		"scenario": c.Scenario, "workload": c.Workload, "reason": c.Reason} {
		if value == "" {
			return fmt.Errorf("%s is missing", key)
		}
	}
	two := c.Hypothesis == Better || c.Hypothesis == Same
	switch {
	case !slices.Contains([]string{Better, Same, Flat, Hurts, NoPenaltyUntil}, c.Hypothesis):
		return fmt.Errorf("unknown hypothesis %q", c.Hypothesis)
	case len(c.Metrics) == 0:
		return errors.New("metrics is missing")
	case len(c.A) == 0 || two != (len(c.B) > 0):
		return fmt.Errorf("hypothesis %s wants a%s", c.Hypothesis, map[bool]string{true: " and b", false: " and no b"}[two])
	case !(c.Margin > 0 && c.Margin < 10):
		return fmt.Errorf("margin is %g, want a share above 0", c.Margin)
	case (c.Until > 0) != (c.Hypothesis == NoPenaltyUntil):
		return fmt.Errorf("until belongs to %s", NoPenaltyUntil)
	case c.AtLeast < 0 || c.AtLeast > 0 && (c.Hypothesis == Flat || c.Hypothesis == NoPenaltyUntil):
		return fmt.Errorf("at_least belongs to %s, %s and %s", Better, Same, Hurts)
	}
	return nil
}

// describe is a selector in words, "datapath=iptables state=as-study".
func describe(selector map[string]string) string {
	out := ""
	for _, k := range slices.Sorted(maps.Keys(selector)) {
		if out != "" {
			out += " "
		}
		out += k + "=" + selector[k]
	}
	return out
}

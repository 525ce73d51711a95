package claims

import (
	"bytes"
	_ "embed"
	"fmt"

	"github.com/pelletier/go-toml/v2"
)

//go:embed contrast.toml
var studyContrast []byte

// Contrast is two arms that differ in several things, and the ways from one to the
// other by which one thing changes at a time.
type Contrast struct {
	Schema int     `toml:"schema"`
	About  string  `toml:"about"` // in a sentence
	From   Place   `toml:"from"`
	To     Place   `toml:"to"`
	Orders []Order `toml:"order"`
}

// Order is one way from From to To.
type Order struct {
	Name  string         `toml:"name"`
	By    string         `toml:"by"` // what tells it from others of its name
	Steps []ContrastStep `toml:"step"`
}

// ContrastStep leads to another arm, by changing what its kind says.
type ContrastStep struct {
	Kind string `toml:"kind"`
	To   Place  `toml:"to"`
}

// Place is an arm as the study means it: all that is not said is at its default.
type Place struct {
	Fabric string `toml:"fabric"`
	Filter string `toml:"filter"`
	State  string `toml:"state"` // which packets ask the policies, where the filter can be told; else ""
}

// Name is that of the datapath, "bridge+tc-hash".
func (p Place) Name() string { return p.Fabric + "+" + p.Filter }

// Title names it with its state, "bridge+ipset (as-study)".
func (p Place) Title() string {
	if p.State == "" {
		return p.Name()
	}
	return p.Name() + " (" + p.State + ")"
}

// Title is "structure first, by ipset".
func (o Order) Title() string {
	if o.By == "" {
		return o.Name
	}
	return o.Name + ", by " + o.By
}

// Arms are those that the order passes, both ends included.
func (c Contrast) Arms(o Order) []Place {
	out := []Place{c.From}
	for _, s := range o.Steps {
		out = append(out, s.To)
	}
	return out
}

// StudyContrast is the study's own.
func StudyContrast() (Contrast, error) {
	var c Contrast
	if err := toml.NewDecoder(bytes.NewReader(studyContrast)).DisallowUnknownFields().Decode(&c); err != nil {
		return c, fmt.Errorf("parse the study's contrast: %w", err)
	}
	if c.Schema != Schema {
		return c, fmt.Errorf("parse the study's contrast: schema %d, want %d", c.Schema, Schema)
	}
	for _, o := range c.Orders {
		if len(o.Steps) == 0 || o.Steps[len(o.Steps)-1].To != c.To {
			return c, fmt.Errorf("parse the study's contrast: the order %q does not end at %s", o.Title(), c.To.Name())
		}
	}
	return c, nil
}

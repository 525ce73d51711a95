package claims

import (
	"bytes"
	_ "embed"
	"fmt"

	"github.com/pelletier/go-toml/v2"
)

//go:embed contrast.toml
var studyContrast []byte

// Contrast is two arms that differ in several properties, and orders of steps from
// one to the other that change one property each.
type Contrast struct {
	Schema int     `toml:"schema"`
	About  string  `toml:"about"` // one sentence
	From   Arm     `toml:"from"`
	To     Arm     `toml:"to"`
	Orders []Order `toml:"order"`
}

// Order is one sequence of steps from From to To.
type Order struct {
	Name  string         `toml:"name"`
	By    string         `toml:"by"` // how it differs from other orders of its name
	Steps []ContrastStep `toml:"step"`
}

// ContrastStep leads to another arm by changing one property, its kind.
type ContrastStep struct {
	Kind string `toml:"kind"` // "mechanism", "structure" or "path"
	To   Arm    `toml:"to"`
}

// Arm is an arm by its properties; options that it does not have are at their
// defaults.
type Arm struct {
	Fabric string `toml:"fabric"`
	Filter string `toml:"filter"`
	State  string `toml:"state"` // level of the option state; "" if the filter does not have it
}

// Name is that of the datapath, "bridge+tc-hash".
func (a Arm) Name() string { return a.Fabric + "+" + a.Filter }

// Title is the name with the state, "bridge+ipset (as-study)".
func (a Arm) Title() string {
	if a.State == "" {
		return a.Name()
	}
	return a.Name() + " (" + a.State + ")"
}

// Title is the order's name for readers: "structure first, by ipset".
func (o Order) Title() string {
	if o.By == "" {
		return o.Name
	}
	return o.Name + ", by " + o.By
}

// Arms are the arms of an order, both ends included.
func (c Contrast) Arms(o Order) []Arm {
	out := []Arm{c.From}
	for _, s := range o.Steps {
		out = append(out, s.To)
	}
	return out
}

// StudyContrast is the contrast of the study (contrast.toml). An error is a defect
// of that file.
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

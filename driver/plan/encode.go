package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Encode is plan.json. The same plan always gives the same bytes.
func (p *Plan) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	return append(data, '\n'), nil
}

// Digest is the SHA-256 of plan.json in hex.
func (p *Plan) Digest() (string, error) {
	data, err := p.Encode()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// SameTrials is a digest of what is measured, in which order: of all of the plan but
// its schema and the words for what arms are, which a later driver may have more of, and what starts
// sealed guests, which changes no number.
func (p *Plan) SameTrials() (string, error) {
	bare := *p
	bare.Schema, bare.Catalog, bare.Spec.Lab.Sealed = 0, nil, ""
	return bare.Digest()
}

// Decode reads plan.json and checks that it hangs together: known fields,
// IDs that match their factors, blocks that follow from the experiment, trials
// of known cells in their blocks, each once and in order.
func Decode(data []byte) (*Plan, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var p Plan
	if err := dec.Decode(&p); err != nil {
		return nil, fmt.Errorf("decode plan: %w", err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("decode plan: %w", err)
	}
	p.attach()
	return &p, nil
}

func (p *Plan) check() error {
	if p.Schema != PlanSchema && p.Schema != 1 {
		return fmt.Errorf("schema %d, want 1 or %d", p.Schema, PlanSchema)
	}
	if err := p.checkCatalog(); err != nil {
		return err
	}
	if len(p.Trials) == 0 {
		return errors.New("no trials")
	}
	if p.Spec.Traced != nil && p.Spec.Lab.Clock != ClockVirtual {
		return fmt.Errorf("traces with clock %q, want %q", p.Spec.Lab.Clock, ClockVirtual)
	}
	if !slices.Equal(p.Blocks, p.blocks()) {
		return fmt.Errorf("%d blocks that are not those of %d seeds, the kernels %v and the scenarios %v",
			len(p.Blocks), p.Spec.Measure.Seeds, p.Spec.Kernels, p.Spec.Scenarios)
	}
	if err := p.checkFiles(); err != nil {
		return err
	}
	if n := p.Spec.Measure.Blocks; len(p.Blocks) > 0 && n != len(p.Blocks) {
		return fmt.Errorf("%d blocks, want %d", len(p.Blocks), n)
	}
	cells := map[string]Cell{}
	for _, c := range p.Cells {
		want := newCell(c.Factors, p.Spec.Measure)
		if c.ID != want.ID || c.Setup != want.Setup {
			return fmt.Errorf("cell %s of setup %s has the factors of cell %s of setup %s", c.ID, c.Setup, want.ID, want.Setup)
		}
		cells[c.ID] = c
	}
	return p.checkTrials(cells)
}

// checkFiles compares the files that arms name with their digests, which are in the arms' options
// and in the factors of cells: scripts are executed by root.
func (p *Plan) checkFiles() error {
	for _, a := range p.Spec.Arms {
		for key, f := range a.Files {
			want := fileLevel(f.Path, f.Data)
			if a.Options[key] != want {
				return fmt.Errorf("the file %s of arm %q, %s, has the digest of %s, and not that of %s: it was changed after the plan was made", f.Path, a.Name, key, want, a.Options[key])
			}
			for _, c := range p.Cells {
				if c.Get(FactorArm) == a.Name && c.Get(key) != want {
					return fmt.Errorf("cell %s has %s of arm %q as %s, and the arm has %s", c.ID, key, a.Name, c.Get(key), want)
				}
			}
		}
	}
	return nil
}

func (p *Plan) checkTrials(cells map[string]Cell) error {
	seen, part := map[Trial]bool{}, p.partOf()
	for i, t := range p.Trials {
		if t.Order != i+1 {
			return fmt.Errorf("trial %d has order %d", i+1, t.Order)
		}
		t.Order = 0
		cell, known := cells[t.Cell]
		if !known || seen[t] {
			return fmt.Errorf("trial %d: cell %s, block %d, trial %d is unknown or there twice", i+1, t.Cell, t.Block, t.Trial)
		}
		if t.Block < 1 || t.Block > p.Spec.Measure.Blocks {
			return fmt.Errorf("trial %d is in block %d of %d", i+1, t.Block, p.Spec.Measure.Blocks)
		}
		if b, ok := p.BlockByNumber(t.Block); ok && (!b.has(cell) || b.Part != part[cell.ID]) {
			return fmt.Errorf("trial %d is %s on kernel %s, part %d, in block %d, which is %s on kernel %s, part %d",
				i+1, cell.Get(FactorScenario), cell.Get(FactorKernel), part[cell.ID], t.Block, b.Scenario, b.Kernel, b.Part)
		}
		seen[t] = true
	}
	return nil
}

package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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

// Decode reads plan.json and checks that it hangs together: known fields,
// IDs that match their factors, trials of known cells, each once and in order.
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
	return &p, nil
}

func (p *Plan) check() error {
	if p.Schema != PlanSchema {
		return fmt.Errorf("schema %d, want %d", p.Schema, PlanSchema)
	}
	if len(p.Trials) == 0 {
		return errors.New("no trials")
	}
	cells := map[string]bool{}
	for _, c := range p.Cells {
		want := newCell(c.Factors)
		if c.ID != want.ID || c.Setup != want.Setup {
			return fmt.Errorf("cell %s of setup %s has the factors of cell %s of setup %s", c.ID, c.Setup, want.ID, want.Setup)
		}
		cells[c.ID] = true
	}
	seen := map[Trial]bool{}
	for i, t := range p.Trials {
		if t.Order != i+1 {
			return fmt.Errorf("trial %d has order %d", i+1, t.Order)
		}
		t.Order = 0
		if !cells[t.Cell] || seen[t] {
			return fmt.Errorf("trial %d: cell %s, block %d, trial %d is unknown or there twice", i+1, t.Cell, t.Block, t.Trial)
		}
		seen[t] = true
	}
	return nil
}

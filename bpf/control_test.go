package bpf

import (
	"fmt"
	"testing"
)

// spins are those that experiments may request.
var spins = []uint32{0, 100, 1000, 10000}

func loadSpinning(t testing.TB, spin uint32) *rig {
	t.Helper()
	return load(t, ControlObject(), map[string]any{VarSpin: spin})
}

// TestControlPasses: whatever it spins, the control passes, counts and touches
// nothing.
func TestControlPasses(t *testing.T) {
	for _, spin := range spins {
		t.Run(fmt.Sprintf("spin=%d", spin), func(t *testing.T) {
			r := loadSpinning(t, spin)
			for _, c := range append(verdictCases(false), verdictCases(true)...) {
				if untestable(c.frame) {
					continue // a header cut short is none of a test run's frames
				}
				out := r.want(ProgControl, c.frame, actOK, StatPassed)
				checkUntouched(t, c.frame, out.frame)
			}
		})
	}
}

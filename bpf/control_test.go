package bpf

import (
	"fmt"
	"testing"
)

// spins are the values of spin in experiments.
var spins = []uint32{0, 100, 1000, 10000}

func loadSpinning(t testing.TB, spin uint32) *rig {
	t.Helper()
	return load(t, ControlObject(), map[string]any{VarSpin: spin})
}

// TestControlPasses: with any spin, the control passes and counts packets, and does
// not change them.
func TestControlPasses(t *testing.T) {
	for _, spin := range spins {
		t.Run(fmt.Sprintf("spin=%d", spin), func(t *testing.T) {
			r := loadSpinning(t, spin)
			for _, c := range append(verdictCases(false), verdictCases(true)...) {
				if untestable(c.frame) {
					continue // a test run does not accept a frame with a cut header
				}
				out := r.want(ProgControl, c.frame, actOK, StatPassed)
				checkUntouched(t, c.frame, out.frame)
			}
		})
	}
}

package bundle

import (
	"reflect"
	"testing"
	"time"
)

// TestLimits: a request may take at least what its steps say that they wait for, and a step that
// is executed next to others does not add to them.
func TestLimits(t *testing.T) {
	exec := func(seconds float64) Step { return Step{Do: Exec{Timeout: seconds}} }
	of := func(steps ...Step) time.Duration { return Request{Exec: &Steps{Steps: steps}}.Limit() }
	zero := 0
	for what, tt := range map[string]struct{ got, least, most time.Duration }{
		"a mark":            {Request{Mark: true}.Limit(), margin, margin},
		"an undo":           {Request{UndoTo: &zero}.Limit(), UndoLimit + margin, UndoLimit + margin},
		"no step":           {of(), margin, margin},
		"a program":         {of(exec(30)), 30*time.Second + margin, 30*time.Second + margin + endingLimit + usual},
		"one after another": {of(exec(30), exec(40)), 70*time.Second + margin, 70*time.Second + margin + 2*(endingLimit+usual)},
		"at once":           {of(Step{Do: Parallel{Steps: []Step{exec(30), exec(40)}}}), 40*time.Second + margin, 40*time.Second + margin + endingLimit + 3*usual},
		"a script":          {of(Step{Do: Tool{Do: Program{Timeout: 500}}}), 500*time.Second + margin, 10 * time.Minute},
		"a script's usual":  {of(Step{Do: Read{From: Counter{Script: &Program{}}}}), scriptLimit + margin, scriptLimit + margin + endingLimit + usual},
	} {
		if tt.got < tt.least || tt.got > tt.most {
			t.Errorf("%s may take %s, want %s to %s", what, tt.got, tt.least, tt.most)
		}
	}
}

// TestTimeoutsAreInLimits: every action with a field Timeout has it in its limit.
func TestTimeoutsAreInLimits(t *testing.T) {
	for _, a := range actions() {
		v := reflect.New(reflect.TypeOf(a)).Elem()
		f := v.FieldByName("Timeout")
		if !f.IsValid() {
			continue
		}
		f.SetFloat(1000)
		if n := v.FieldByName("Times"); n.IsValid() {
			n.SetInt(1)
		}
		if n := v.FieldByName("Tries"); n.IsValid() && n.Kind() == reflect.Slice {
			n.Set(reflect.MakeSlice(n.Type(), 1, 1))
		}
		if got := (Step{Do: v.Interface().(Action)}).waits(); got < 1000*time.Second {
			t.Errorf("%s with a timeout of 1000 s may wait for %s", a.Kind(), got)
		}
	}
}

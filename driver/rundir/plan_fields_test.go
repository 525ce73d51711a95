package rundir

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// leaf is a place in a JSON document that holds a number, a text, a truth value or nothing.
type leaf struct {
	path string
	set  func(any)
	was  any
}

// leaves lists the places of a document.
func leaves(path string, v any, set func(any)) (out []leaf) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			out = append(out, leaves(path+"."+k, e, func(n any) { v[k] = n })...)
		}
	case []any:
		for i, e := range v {
			out = append(out, leaves(fmt.Sprintf("%s[%d]", path, i), e, func(n any) { v[i] = n })...)
		}
	default:
		out = append(out, leaf{path, set, v})
	}
	return out
}

// other is another value of the same kind.
func other(v any) any {
	switch v := v.(type) {
	case string:
		return v + "x"
	case float64:
		return v + 1
	case bool:
		return !v
	}
	return "x"
}

// TestEveryFieldOfThePlan: with any one field of plan.json changed, a run that has begun is refused.
// Without the environment, which has the plan's digest, most of these plans are refused still: they
// contradict themselves.
func TestEveryFieldOfThePlan(t *testing.T) {
	d := create(t)
	digest, err := d.Plan().Digest()
	if err == nil {
		err = errors.Join(d.WriteEnv(map[string]string{"plan_sha256": digest}), d.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(d.Path(), planFile)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var whole any
	if err := json.Unmarshal(data, &whole); err != nil {
		t.Fatal(err)
	}
	all := leaves("", whole, nil)
	if len(all) < 40 {
		t.Fatalf("the plan has %d fields", len(all))
	}
	for _, l := range all {
		l.set(other(l.was))
		text, err := json.MarshalIndent(whole, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		l.set(l.was)
		if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
		if again, err := Open(d.Path()); err == nil {
			t.Errorf("%s was %v, is %v, and the run goes on", l.path, l.was, other(l.was))
			again.Close()
		}
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := Open(d.Path())
	if err != nil {
		t.Fatalf("with the plan put back: %v", err)
	}
	again.Close()
}

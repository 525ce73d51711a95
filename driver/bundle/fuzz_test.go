package bundle

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
)

// FuzzRequest: what is read as a request can be written and read again, and has a limit in which a
// helper can answer.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"exec": {"name": "c", "steps": [{"node": "node1", "phase": "run", "in": "client", "kind": "exec", "args": {"argv": ["netperf"], "timeout": 31}}]}}`))
	f.Add([]byte(`{"exec": {"steps": [{"kind": "exec", "args": {"timeout": 1e300}}, {"kind": "refusals", "args": {"times": 9223372036854775807, "timeout": 3}}]}}`))
	f.Add([]byte(`{"exec": {"steps": [{"kind": "parallel", "args": {"steps": [{"kind": "tool", "args": {"do": {"timeout": -1e9}}}]}}]}}`))
	f.Add([]byte(`{"undo_to": 0}`))
	f.Add([]byte(`{"hello": {"schema": 1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Request
		if json.Unmarshal(data, &r) != nil {
			return
		}
		if limit := r.Limit(); limit < margin || limit > mostLimit {
			t.Errorf("its limit is %s", limit)
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var again Request
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if other, err := json.Marshal(again); err != nil || !bytes.Equal(text, other) {
			t.Errorf("%s is read as %s (%v)", text, other, err)
		}
	})
}

// FuzzPressure: a wait is a number of seconds, or none.
func FuzzPressure(f *testing.F) {
	f.Add("some avg10=0.00 avg60=0.00 avg300=0.00 total=12345\nfull avg10=0.00 total=0\n")
	f.Add("some total=nan\n")
	f.Fuzz(func(t *testing.T, text string) {
		if s := ParseWaited(text); s != nil && time.Duration(*s) < 0 && *s > 0 {
			t.Errorf("waited for %v s", *s)
		}
	})
}

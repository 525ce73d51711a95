package tracetest

import (
	"reflect"
	"testing"

	"hookbed/analysis/trace"
)

// Every trace is exact, can be written and is read back as it was.
func TestTraces(t *testing.T) {
	dir := t.TempDir()
	var want []trace.Trace
	cells := []string{"a1", "a2", "b1", "b2", "c1", "c2", "d1", "d2"}
	for i, arm := range []string{CiliumLike, Docker, Iptables, XDP} {
		for k, workload := range []string{RR, Stream} {
			x := New(cells[2*i+k], arm, workload, 100*k)
			if !x.Window.Exact() || x.Measured.Instructions() != x.Window.Measured {
				t.Errorf("%s is not exact: %s", x.Title(), x.Window)
			}
			if err := trace.Write(dir, &x); err != nil {
				t.Fatal(err)
			}
			want = append(want, x)
		}
	}
	got, err := trace.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if i >= len(got) || !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("trace %s is not read back as written", want[i].Cell)
		}
	}
}

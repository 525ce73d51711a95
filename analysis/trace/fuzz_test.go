package trace

import (
	"bytes"
	"io"
	"reflect"
	"testing"
)

// decoded reads a trace from the texts of its files, in the order of readers.
func decoded(texts ...[]byte) (t Trace, err error) {
	for i, f := range readers() {
		if err := f.read(bytes.NewReader(texts[i]), &t); err != nil {
			return t, err
		}
	}
	return t, t.check()
}

// encoded is a file of a trace.
func encoded(tb testing.TB, x *Trace, write func(io.Writer, *Trace) error) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := write(&b, x); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// FuzzRead: whatever is taken for a trace can be written, is then read as the same, and can be
// compared with another.
func FuzzRead(f *testing.F) {
	usual := smallTrace()
	for _, x := range []Trace{usual, other(), {Cell: "none", Unit: UnitMiB}} {
		f.Add(encoded(f, &x, WriteMeta), encoded(f, &x, WriteTree), encoded(f, &x, WriteCalls))
	}
	f.Fuzz(func(t *testing.T, meta, tree, calls []byte) {
		got, err := decoded(meta, tree, calls)
		if err != nil {
			return
		}
		for _, w := range writers() {
			encoded(t, &got, w.write)
		}
		again, err := decoded(encoded(t, &got, WriteMeta), encoded(t, &got, WriteTree), encoded(t, &got, WriteCalls))
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("%+v was written, and read as %+v, %v", got, again, err)
		}
		for _, write := range []func(io.Writer, *Trace, *Trace) error{WriteDiffCSV, WriteDiffFlame} {
			if err := write(io.Discard, &got, &usual); err != nil {
				t.Error(err)
			}
		}
		if err := WriteAllLayers(io.Discard, []Trace{got, usual}); err != nil {
			t.Error(err)
		}
		DiffFile(&got, &usual, ".svg")
	})
}

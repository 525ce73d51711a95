package watch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// log is a Handler that keeps what it was told, a line each.
type log struct{ lines []string }

func (l *log) say(format string, args ...any) {
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *log) Define(b *Block) {
	l.say("define %d pc=%x size=%v code=%x kind=%d", b.ID, b.PC, b.Size, b.Code, b.Kind)
}
func (l *log) Ran(b *Block, n int, stack []StackAccess) {
	l.say("ran %d n=%d stack=%x", b.ID, n, stack)
}
func (l *log) Clock(ns uint64)                       { l.say("clock %d", ns) }
func (l *log) Mark(id MarkID, a, b int64, ns uint64) { l.say("mark %d %d %d %d", id, a, b, ns) }
func (l *log) Symbols(text []byte)                   { l.say("symbols %q", text) }

// Blocks of the streams below.
func call() *Block { return &Block{ID: 0, PC: 0xffffffff81000000, Size: []uint8{1, 5}, Kind: Call} }
func ret() *Block  { return &Block{ID: 1, PC: 0xffffffff82000000, Size: []uint8{1}, Kind: Return} }
func rdtsc() *Block {
	return &Block{ID: 2, PC: 0x401000, Size: []uint8{3, 2}, Code: []byte{0x48, 0x89, 0xc8, 0x0f, 0x31}, Kind: ReadClock}
}

// sample has every kind of record.
func sample() []byte {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	w.Symbols([]byte("ffffffff81000000 T start\n"))
	w.Mark(MarkBegin, 1, -1, 1000)
	w.Define(call())
	w.Ran(call(), 2, []StackAccess{{Call, 0xffffc90000003ff8}})
	w.Define(ret())
	w.Ran(ret(), 1, []StackAccess{{Return, 0xffffc90000003ff8}})
	w.Ran(call(), 0, nil)
	w.Define(rdtsc())
	w.Ran(rdtsc(), 1, nil)
	w.Ran(rdtsc(), 2, nil)
	w.Clock(1048)
	w.Ran(call(), 2, []StackAccess{{Call, 0x7ffe00001000}})
	w.Ran(call(), 2, []StackAccess{{Call, 0x7ffe00000ff8}})
	w.Mark(MarkEnd, 1, -1, 2000)
	b := ret()
	b.ID = 3
	w.Mark(MarkBegin, 1, 0, 3000)
	w.Define(b)
	w.Ran(b, 1, nil)
	w.Mark(MarkEnd, 1, 0, 3008)
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func TestDecode(t *testing.T) {
	want := `symbols "ffffffff81000000 T start\n"
mark 1 1 -1 1000
define 0 pc=ffffffff81000000 size=[1 5] code= kind=1
ran 0 n=2 stack=[{1 ffffc90000003ff8}]
define 1 pc=ffffffff82000000 size=[1] code= kind=2
ran 1 n=1 stack=[{2 ffffc90000003ff8}]
ran 0 n=0 stack=[]
define 2 pc=401000 size=[3 2] code=4889c80f31 kind=11
ran 2 n=1 stack=[]
ran 2 n=2 stack=[]
clock 1048
ran 0 n=2 stack=[{1 7ffe00001000}]
ran 0 n=2 stack=[{1 7ffe00000ff8}]
mark 2 1 -1 2000
mark 1 1 0 3000
define 3 pc=ffffffff82000000 size=[1] code= kind=2
ran 3 n=1 stack=[]
mark 2 1 0 3008`
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(sample()), "byte by byte": iotest.OneByteReader(bytes.NewReader(sample())),
		"with what follows": io.MultiReader(bytes.NewReader(sample()), strings.NewReader("anything")),
	} {
		var l log
		if err := Decode(r, &l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.Join(l.lines, "\n"); got != want {
			t.Errorf("%s: heard\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestACopyIsTheSame(t *testing.T) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	if err := errors.Join(Decode(bytes.NewReader(sample()), w), w.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(buf.Bytes(), sample()) {
		t.Errorf("the copy is\n%x\nwant\n%x", buf.Bytes(), sample())
	}
}

// TestACutStreamIsAnError: wherever it is cut.
func TestACutStreamIsAnError(t *testing.T) {
	whole := sample()
	for n := range whole {
		if err := Decode(bytes.NewReader(whole[:n]), &log{}); !errors.Is(err, ErrCut) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(whole), err)
		}
	}
	broken := errors.New("broken")
	if err := Decode(io.MultiReader(bytes.NewReader(whole[:100]), iotest.ErrReader(broken)), &log{}); !errors.Is(err, broken) {
		t.Errorf("error %v, want the reader's", err)
	}
}

func TestDecodeRefusesNonsense(t *testing.T) {
	begun := func(write func(w *Writer)) []byte {
		var buf bytes.Buffer
		w := NewWriter(&buf)
		w.Mark(MarkBegin, 0, 0, 0)
		w.Define(call())
		w.Define(ret())
		w.Define(rdtsc())
		write(w)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	outside := func(write func(w *Writer)) []byte {
		var buf bytes.Buffer
		w := NewWriter(&buf)
		write(w)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	for want, data := range map[string][]byte{
		"want 0x74426b48, revision 1": []byte("this is no stream at all"),
		"was not defined":             begun(func(w *Writer) { w.Ran(&Block{ID: 3, Size: []uint8{1}}, 1, nil) }),
		"outside a window, or":        outside(func(w *Writer) { w.Ran(call(), 2, nil) }),
		"in place of the clock":       begun(func(w *Writer) { w.Ran(rdtsc(), 2, nil); w.Ran(ret(), 1, nil) }),
		"read by no block":            begun(func(w *Writer) { w.Ran(rdtsc(), 1, nil); w.Clock(1) }),
		"without a block":             begun(func(w *Writer) { w.Ran(ret(), 1, make([]StackAccess, 2)) }),
		"of a block of kind 11":       begun(func(w *Writer) { w.Ran(rdtsc(), 2, make([]StackAccess, 1)) }),
		"ended after 7 instructions":  begun(func(w *Writer) { w.Ran(call(), 2, nil); w.words(wordPartial | 7) }),
		"ended after 0 instructions":  begun(func(w *Writer) { w.words(wordPartial) }),
		"with 513 instructions":       begun(func(w *Writer) { w.Define(&Block{Size: bytes.Repeat([]byte{1}, 513)}) }),
		"with 0 instructions":         begun(func(w *Writer) { w.Define(&Block{}) }),
		"of kind 12 with 1":           begun(func(w *Writer) { w.Define(&Block{Size: []uint8{1}, Kind: kinds}) }),
		"an instruction of 16 bytes":  begun(func(w *Writer) { w.Define(&Block{Size: []uint8{16}}) }),
		"defined outside a window":    outside(func(w *Writer) { w.Define(call()) }),
		"mark 1 where":                begun(func(w *Writer) { w.Mark(MarkBegin, 0, 0, 0) }),
		"mark 2 where":                outside(func(w *Writer) { w.Mark(MarkEnd, 0, 0, 0) }),
		"mark 3 where":                outside(func(w *Writer) { w.Mark(MarkSymbols, 0, 0, 0) }),
		"symbols inside":              begun(func(w *Writer) { w.Symbols(nil) }),
		"bytes of symbols":            outside(func(w *Writer) { w.words(wordSymbols, 0, 1) }),
		"begins with 0xce000000":      outside(func(w *Writer) { w.words(0xce000000) }),
		"ends in a window":            begun(func(*Writer) {}),
	} {
		if err := Decode(bytes.NewReader(data), &log{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// count is the cheapest Handler.
type count struct{ instructions uint64 }

func (*count) Define(*Block)                          {}
func (c *count) Ran(_ *Block, n int, _ []StackAccess) { c.instructions += uint64(n) }
func (*count) Clock(uint64)                           {}
func (*count) Mark(MarkID, int64, int64, uint64)      {}
func (*count) Symbols([]byte)                         {}

// TestMemoryDoesNotGrowWithTheStream: of a long window and of many windows.
func TestMemoryDoesNotGrowWithTheStream(t *testing.T) {
	b := call()
	var head, loop bytes.Buffer
	w := NewWriter(&head)
	w.Mark(MarkBegin, 0, 0, 0)
	w.Define(b)
	if err := w.w.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 1 << 14 {
		loop.Write(binary.LittleEndian.AppendUint32(nil, 0))
	}
	var all []io.Reader
	all = append(all, &head)
	for range 256 {
		all = append(all, bytes.NewReader(loop.Bytes()))
	}
	c := &count{}
	per := testing.AllocsPerRun(1, func() {
		if c.instructions == 0 {
			if err := Decode(io.MultiReader(all...), c); !errors.Is(err, ErrCut) {
				t.Error(err)
			}
		}
	})
	if want := uint64(256<<14-1) * 2; c.instructions != want || per > 100 {
		t.Errorf("%d instructions with %g allocations, want %d with few", c.instructions, per, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sample())
	f.Add(sample()[:60])
	f.Fuzz(func(t *testing.T, data []byte) {
		var buf bytes.Buffer
		w := NewWriter(&buf)
		if err := Decode(bytes.NewReader(data), w); err != nil {
			return
		}
		// What was understood can be written, and is then understood in the same way.
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var once, twice log
		if err := errors.Join(Decode(bytes.NewReader(data), &once), Decode(&buf, &twice)); err != nil {
			t.Fatal(err)
		}
		if a, b := strings.Join(once.lines, "\n"), strings.Join(twice.lines, "\n"); a != b {
			t.Errorf("first\n%s\nthen\n%s", a, b)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	w.Mark(MarkBegin, 0, 0, 0)
	w.Define(call())
	w.Define(ret())
	n := 0
	for range 1 << 18 {
		w.Ran(call(), 2, []StackAccess{{Call, 0xffffc90000003ff8}})
		w.Ran(ret(), 1, []StackAccess{{Return, 0xffffc90000003ff8}})
		n += 4
	}
	w.Mark(MarkEnd, 0, 0, 0)
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := Decode(bytes.NewReader(buf.Bytes()), &count{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

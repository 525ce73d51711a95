package record

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode"
)

func sample() ([]string, []Row) {
	factors := []string{"policies", "arm", "enforce"}
	rows := []Row{
		{Run: "r1", Cell: "c1", Block: 1, Trial: 1, Order: 1, Status: StatusOK, Metric: "rate", Unit: "1/s", Value: 1234.5,
			Raw: "raw/c1/1", Factors: map[string]string{"arm": "docker", "policies": "0"}},
		{Run: "r1", Cell: "c1", Block: 1, Trial: 1, Order: 1, Status: StatusOK, Metric: "latency_p99", Unit: "s", Value: 0.1 + 0.2,
			Factors: map[string]string{"arm": "docker", "policies": "0"}},
		{Run: "r1", Cell: "c2", Block: 1, Trial: 1, Order: 2, Status: StatusFailed, Reason: `probe "denied", got through`,
			Factors: map[string]string{"arm": "xdp", "policies": "100", "enforce": "new"}},
		{Run: "r1", Cell: "c2", Block: 2, Trial: 1, Order: 3, Status: StatusVoid, Reason: "counters did not move", Metric: "rate", Unit: "1/s",
			Value: 7, Factors: map[string]string{"arm": "xdp", "policies": "100", "enforce": "new"}},
		{Run: "r1", Cell: "c2", Block: 2, Trial: 1, Order: 3, Status: StatusVoid, Reason: "counters did not move", Metric: "latency_p99",
			Unit: "s", Value: 8, Factors: map[string]string{"arm": "xdp", "policies": "100", "enforce": "new"}},
	}
	return factors, rows
}

func file(t *testing.T) []byte {
	t.Helper()
	factors, rows := sample()
	lines, err := Encode(factors, rows)
	if err != nil {
		t.Fatal(err)
	}
	return append(EncodeHeader(factors), lines...)
}

func TestHeader(t *testing.T) {
	factors := []string{"b", "a"}
	got := strings.Join(Header(factors), ",")
	want := "schema,run,cell,block,trial,order,status,reason,metric,unit,value,raw,f.a,f.b"
	if got != want {
		t.Errorf("Header = %s, want %s", got, want)
	}
	if factors[0] != "b" {
		t.Error("Header changed its argument")
	}
}

func TestRoundTrip(t *testing.T) {
	_, rows := sample()
	got, err := Read(bytes.NewReader(file(t)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, rows) {
		t.Errorf("read %+v\nwant %+v", got, rows)
	}
}

func TestFieldsAreOneLine(t *testing.T) {
	r := Row{Status: StatusRig, Reason: "first\r\nsecond\nthird\rfourth", Factors: nil}
	if got := r.Fields(nil)[7]; got != "first second third fourth" {
		t.Errorf("reason = %q", got)
	}
	if got := r.Fields(nil)[10]; got != "" {
		t.Errorf("value without a metric = %q, want empty", got)
	}
}

func TestReadIsStrict(t *testing.T) {
	head := "schema,run,cell,block,trial,order,status,reason,metric,unit,value,raw,f.arm\n"
	good := "1,r,c,1,1,1,ok,,rate,1/s,5,,docker\n"
	tests := []struct{ name, in, want string }{
		{"schema", head + "3,r,c,1,1,1,ok,,rate,1/s,5,,docker\n" + good, `line 2: schema "3", want 1 or 2`},
		{"block", head + good + "1,r,c,x,1,1,ok,,rate,1/s,5,,docker\n" + good, `line 3: block "x" is not a number`},
		{"order", head + "1,r,c,1,1,,ok,,rate,1/s,5,,docker\n", `line 2: order "" is not a number`},
		{"value", head + "1,r,c,1,1,1,ok,,rate,1/s,,,docker\n", `line 2: metric "rate": value "" is not a number`},
		{"nan", head + "1,r,c,1,1,1,ok,,rate,1/s,NaN,,docker\n", "not finite"},
		{"status", head + "1,r,c,1,1,1,fine,,rate,1/s,5,,docker\n", `line 2: unknown status "fine"`},
		{"ok without metric", head + "1,r,c,1,1,1,ok,,,,,,docker\n", "status ok without a metric"},
		{"value without metric", head + "1,r,c,1,1,1,failed,why,,,5,,docker\n", `value "5" without a metric`},
		{"short line inside", head + "1,r,c\n" + good, "line 2: wrong number of fields"},
		{"column", "schema,run\n", "columns start with"},
		{"column after", strings.Replace(head, "f.arm", "arm", 1), `unknown column "arm"`},
		{"column twice", strings.Replace(head, "f.arm", "f.arm,f.arm", 1), "twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Read(strings.NewReader(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if _, _, err := readWhole([]byte(tt.in)); err == nil {
				t.Error("ReadRecovering took it")
			}
		})
	}
}

func TestUnknownFactorsAreKept(t *testing.T) {
	in := "schema,run,cell,block,trial,order,status,reason,metric,unit,value,raw,f.arm,f.moon\n" +
		"1,r,c,1,1,1,ok,,rate,1/s,5,,docker,full\n"
	rows, err := Read(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	if rows[0].Factors["moon"] != "full" {
		t.Errorf("factors = %v", rows[0].Factors)
	}
}

// readWhole reads the trials of a file that are whole, how long they are, and what was cut
// short.
func readWhole(data []byte) (rows []Row, r *Reader, err error) {
	r = NewReader(bytes.NewReader(data))
	for {
		t, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rows, r, nil
		}
		if err != nil {
			return nil, r, err
		}
		rows = append(rows, t.Rows...)
	}
}

// open is a file as it was before trials had closing rows.
func open(t *testing.T) []byte {
	t.Helper()
	var out []byte
	for line := range bytes.Lines(file(t)) {
		switch {
		case bytes.Contains(line, []byte(ClosingMetric)):
		case bytes.HasPrefix(line, []byte("2,")):
			out = append(append(out, '1'), line[1:]...)
		default:
			out = append(out, line...)
		}
	}
	return out
}

// A file can be cut at every byte, and what is left is whole trials: the torn one is named,
// and the prefix that is kept is itself a valid file.
func TestEveryCut(t *testing.T) {
	whole := file(t)
	_, all := sample()
	ends := map[int]int{bytes.IndexByte(whole, '\n') + 1: 0} // rows by the offset where a trial ends
	n, at := 0, 0
	for line := range bytes.Lines(whole) {
		if at += len(line); bytes.Contains(line, []byte(ClosingMetric)) {
			ends[at] = n
		} else if at > len(line) {
			n++
		}
	}
	if len(ends) != 4 || n != len(all) {
		t.Fatalf("%d trials end, and there are %d rows", len(ends)-1, n)
	}
	for cut := 0; cut <= len(whole); cut++ {
		rows, r, err := readWhole(whole[:cut])
		if err != nil {
			t.Fatalf("cut %d: %v", cut, err)
		}
		valid := 0
		for end := range ends {
			if end <= cut {
				valid = max(valid, end)
			}
		}
		if r.Valid() != int64(valid) || len(rows) != ends[valid] || len(rows) > 0 && !reflect.DeepEqual(rows, all[:len(rows)]) {
			t.Fatalf("cut %d: valid %d, %d rows; want %d, %d", cut, r.Valid(), len(rows), valid, ends[valid])
		}
		if torn := r.Torn(); (torn == nil) != (valid == cut && cut > 0) || torn != nil && torn.Valid != int64(valid) {
			t.Fatalf("cut %d: torn %+v", cut, torn)
		}
		if whole[max(cut-1, 0)] == '\n' && valid > 0 && valid < cut { // at the end of a line
			want := all[len(rows)]
			if torn := r.Torn(); torn.Cell != want.Cell || torn.Block != want.Block || torn.Trial != want.Trial {
				t.Fatalf("cut %d: torn is %s", cut, torn.What())
			}
		}
		if valid == 0 {
			continue
		}
		again, err := Read(bytes.NewReader(whole[:valid]))
		if err != nil || len(again) != len(rows) {
			t.Fatalf("cut %d: kept prefix: %d rows, %v; want %d", cut, len(again), err, len(rows))
		}
	}
}

// Without closing rows a cut between two rows cannot be seen; one inside a row is.
func TestEveryCutWithoutClosingRows(t *testing.T) {
	whole := open(t)
	_, all := sample()
	header := bytes.IndexByte(whole, '\n') + 1
	for cut := header; cut <= len(whole); cut++ {
		rows, r, err := readWhole(whole[:cut])
		if err != nil {
			t.Fatalf("cut %d: %v", cut, err)
		}
		if r.Valid() > int64(cut) || len(rows) > 0 && !reflect.DeepEqual(rows, all[:len(rows)]) {
			t.Fatalf("cut %d: valid %d, %d rows", cut, r.Valid(), len(rows))
		}
		again, err := Read(bytes.NewReader(whole[:r.Valid()]))
		if err != nil || len(again) != len(rows) {
			t.Fatalf("cut %d: kept prefix: %d rows, %v; want %d", cut, len(again), err, len(rows))
		}
		if atLineEnd := whole[cut-1] == '\n'; atLineEnd == (r.Valid() != int64(cut)) {
			t.Fatalf("cut %d: valid %d", cut, r.Valid())
		}
	}
	// Cut inside the last row: its trial's first row goes too.
	if rows, _, err := readWhole(whole[:len(whole)-3]); err != nil || len(rows) != 3 {
		t.Errorf("cut in the second row of a trial: %d rows, %v; want 3", len(rows), err)
	}
	// Cut inside the first row of trial 3, after its order: trial 2 is whole.
	third := bytes.Index(whole, []byte("1,r1,c2,2,1,3,"))
	if rows, r, err := readWhole(whole[:third+16]); err != nil || len(rows) != 3 || r.Valid() != int64(third) {
		t.Errorf("cut in the first row: %d rows, valid %d, %v; want 3, %d", len(rows), r.Valid(), err, third)
	}
}

// TestEveryLineCounts: a file in which any line was removed, doubled or moved is refused, or
// read as one that was cut short; so is one with a changed byte in a value.
func TestEveryLineCounts(t *testing.T) {
	whole := file(t)
	lines := bytes.SplitAfter(whole, []byte{'\n'})
	lines = lines[:len(lines)-1]
	check := func(what string, changed ...[]byte) {
		t.Helper()
		if _, err := Read(bytes.NewReader(bytes.Join(changed, nil))); err == nil {
			t.Errorf("%s: the file is read", what)
		}
	}
	for i := 1; i < len(lines); i++ {
		before, after := bytes.Join(lines[:i], nil), bytes.Join(lines[i+1:], nil)
		check(fmt.Sprint("without line ", i+1), before, after)
		check(fmt.Sprint("line doubled: ", i+1), before, lines[i], lines[i], after)
		check(fmt.Sprint("line again at the end: ", i+1), whole, lines[i])
		if i+1 < len(lines) {
			check(fmt.Sprint("lines in another order: ", i+1), before, lines[i+1], lines[i], bytes.Join(lines[i+2:], nil))
		}
	}
	check("all of it twice", whole, bytes.Join(lines[1:], nil))
	check("the first trial twice", whole, bytes.Join(lines[1:4], nil))
	check("another value", bytes.Replace(whole, []byte("1234.5"), []byte("1234.6"), 1))
	check("another status", bytes.ReplaceAll(whole, []byte(",void,"), []byte(",rig,")))
	check("closing rows alone", lines[0], lines[3])
	old := open(t)
	check("without closing rows, all of it twice", old, old[bytes.IndexByte(old, '\n')+1:])
	check("a trial of both schemas", old, bytes.Join(lines[1:], nil))
}

// A later attempt at a trial was a second set of rows before trials had closing rows.
func TestAttemptsOfOldFiles(t *testing.T) {
	head := "schema,run,cell,block,trial,order,status,reason,metric,unit,value,raw\n"
	rows, err := Read(strings.NewReader(head + "1,r,c,1,1,1,rig,why,,,,\n1,r,c,1,1,1,rig,why,,,,\n1,r,c,1,1,1,ok,,rate,1/s,5,\n"))
	if err != nil || len(rows) != 3 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
}

// The name of the run is no part of a trial's digest.
func TestRenamedRunsAreWhole(t *testing.T) {
	renamed := bytes.ReplaceAll(file(t), []byte("2,r1,"), []byte("2,another-name,"))
	if rows, err := Read(bytes.NewReader(renamed)); err != nil || rows[0].Run != "another-name" {
		t.Error(err)
	}
}

func TestReadTorn(t *testing.T) {
	whole := file(t)
	_, err := Read(bytes.NewReader(whole[:len(whole)-3]))
	var torn *TornError
	if !errors.As(err, &torn) {
		t.Fatalf("error %v, want *TornError", err)
	}
	if torn.Line != 7 || torn.What() != "cell c2, block 2, trial 1" {
		t.Errorf("torn line %d of %s, want 7", torn.Line, torn.What())
	}
	short := append(bytes.Clone(whole), []byte("1,r1,c9\n")...)
	if _, err = Read(bytes.NewReader(short)); !errors.As(err, &torn) {
		t.Errorf("short last line: error %v, want *TornError", err)
	}
}

// Control characters are in no row: old files have spaces for them, new ones none.
func TestControlCharacters(t *testing.T) {
	for text, want := range map[string]string{"a\x1b[2Jb\tc": "a [2Jb c", "a\u009bb": "a b", "caf\u00e9 \u2265 1": "caf\u00e9 \u2265 1", "\xff": "\uFFFD", "a\x7f": "a "} {
		if got := (Row{Reason: text}).Fields(nil)[7]; got != want {
			t.Errorf("%q is written as %q, want %q", text, got, want)
		}
		head := "schema,run,cell,block,trial,order,status,reason,metric,unit,value,raw\n"
		rows, err := Read(strings.NewReader(head + "1,r,c,1,1,1,rig," + text + ",,,,\n"))
		if err != nil || rows[0].Reason != want {
			t.Errorf("%q is read as %v (%v), want %q", text, rows, err, want)
		}
		_, err = Read(strings.NewReader(head + "2,r,c,1,1,1,rig," + text + ",,,,\n2,r,c,1,1,1,rig,,,,,\n"))
		if text != want && (err == nil || !strings.Contains(err.Error(), "line 2: control character")) {
			t.Errorf("%q in a row of today: error %v", text, err)
		}
	}
}

// What a Reader keeps is bounded: a line without end is refused.
func TestLinesAreBounded(t *testing.T) {
	head := "schema,run,cell,block,trial,order,status,reason,metric,unit,value,raw\n"
	long := "1,r,c,1,1,1,rig," + strings.Repeat("x", 2*maxLine)
	if _, err := Read(strings.NewReader(head + long + ",,,,\n" + head)); err == nil || !strings.Contains(err.Error(), "line 2: longer than") {
		t.Errorf("a long line: %v", err)
	}
	var torn *TornError
	if _, err := Read(strings.NewReader(head + long)); !errors.As(err, &torn) {
		t.Errorf("a long line without end: %v", err)
	}
}

// A reason of any length, as a tool's output may be, is written so that it can be read.
func TestReasonsAreBounded(t *testing.T) {
	factors, rows := sample()
	row := rows[0]
	row.Status, row.Metric, row.Reason = StatusFailed, "", strings.Repeat("\u2265", maxLine)
	lines, err := Encode(factors, []Row{row})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(bytes.NewReader(append(EncodeHeader(factors), lines...)))
	if err != nil || len(got) != 1 || !strings.HasSuffix(got[0].Reason, "\u2265...") || len(got[0].Reason) > maxReason+3 {
		t.Fatalf("%d rows, %v", len(got), err)
	}
}

func FuzzReader(f *testing.F) {
	factors, rows := sample()
	lines, err := Encode(factors, rows)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(EncodeHeader(factors), lines...))
	f.Add([]byte("schema,run,cell,block,trial,order,status,reason,metric,unit,value,raw\n1,r,c,1,1,1,rig,\"a,b\",,,,\n1,r,c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, r, err := readWhole(data)
		if err != nil {
			return
		}
		if r.Valid() > int64(len(data)) || (r.Torn() == nil) != (r.Valid() == int64(len(data)) && len(data) > 0) {
			t.Fatalf("valid %d of %d, torn %v", r.Valid(), len(data), r.Torn())
		}
		again, s, err := readWhole(data[:r.Valid()])
		if err != nil || !reflect.DeepEqual(rows, again) || s.Torn() != nil && r.Valid() > 0 {
			t.Fatalf("the prefix has %d rows, want %d: %v, torn %v", len(again), len(rows), err, s.Torn())
		}
		for _, row := range rows {
			for _, text := range row.Fields(nil) {
				if strings.ContainsFunc(text, unicode.IsControl) {
					t.Fatalf("%q has a control character", text)
				}
			}
		}
	})
}

func TestEncodeRefusesWhatReadWould(t *testing.T) {
	for _, r := range []Row{
		{Status: "fine"},
		{Status: StatusOK},
		{Status: StatusOK, Metric: "rate", Value: math.Inf(1)},
		{Status: StatusOK, Metric: "rate", Value: math.NaN()},
		{Status: StatusOK, Metric: ClosingMetric, Value: 1},
	} {
		if _, err := Encode(nil, []Row{r}); err == nil {
			t.Errorf("Encode took %+v", r)
		}
	}
}

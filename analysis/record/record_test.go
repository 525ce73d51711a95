package record

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
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
		{"schema", head + "2,r,c,1,1,1,ok,,rate,1/s,5,,docker\n" + good, `line 2: schema "2", want 1`},
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
			if _, _, err := ReadRecovering(strings.NewReader(tt.in)); err == nil {
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

// Every possible cut of the file must be recovered to whole trials, and the
// prefix that is kept must itself be a valid file.
func TestReadRecoveringAtEveryCut(t *testing.T) {
	whole := file(t)
	_, all := sample()
	header := bytes.IndexByte(whole, '\n') + 1
	for cut := 0; cut <= len(whole); cut++ {
		rows, valid, err := ReadRecovering(bytes.NewReader(whole[:cut]))
		if err != nil {
			t.Fatalf("cut %d: %v", cut, err)
		}
		if valid > int64(cut) || (len(rows) > 0 && !reflect.DeepEqual(rows, all[:len(rows)])) {
			t.Fatalf("cut %d: valid %d, %d rows", cut, valid, len(rows))
		}
		if cut < header {
			if valid != 0 || rows != nil {
				t.Fatalf("cut %d in the header: valid %d, rows %v", cut, valid, rows)
			}
			continue
		}
		again, err := Read(bytes.NewReader(whole[:valid]))
		if err != nil || len(again) != len(rows) {
			t.Fatalf("cut %d: kept prefix: %d rows, %v; want %d", cut, len(again), err, len(rows))
		}
		if atLineEnd := whole[cut-1] == '\n'; atLineEnd == (valid != int64(cut)) {
			t.Fatalf("cut %d: valid %d", cut, valid)
		}
	}
}

func TestRecoveryDropsTheWholeTornTrial(t *testing.T) {
	whole := file(t)
	// Cut inside the last row: its trial's first row goes too.
	rows, _, err := ReadRecovering(bytes.NewReader(whole[:len(whole)-3]))
	if err != nil || len(rows) != 3 {
		t.Errorf("cut in the second row of a trial: %d rows, %v; want 3", len(rows), err)
	}
	// Cut inside the first row of trial 3, after its order: trial 2 is whole.
	third := bytes.Index(whole, []byte("1,r1,c2,2,1,3,"))
	rows, valid, err := ReadRecovering(bytes.NewReader(whole[:third+16]))
	if err != nil || len(rows) != 3 || valid != int64(third) {
		t.Errorf("cut in the first row: %d rows, valid %d, %v; want 3, %d", len(rows), valid, err, third)
	}
}

func TestReadTorn(t *testing.T) {
	whole := file(t)
	_, err := Read(bytes.NewReader(whole[:len(whole)-3]))
	var torn *TornError
	if !errors.As(err, &torn) {
		t.Fatalf("error %v, want *TornError", err)
	}
	if torn.Line != 5 {
		t.Errorf("torn line %d, want 5", torn.Line)
	}
	short := append(bytes.Clone(whole), []byte("1,r1,c9\n")...)
	if _, err = Read(bytes.NewReader(short)); !errors.As(err, &torn) {
		t.Errorf("short last line: error %v, want *TornError", err)
	}
}

func TestEncodeRefusesWhatReadWould(t *testing.T) {
	for _, r := range []Row{
		{Status: "fine"},
		{Status: StatusOK},
		{Status: StatusOK, Metric: "rate", Value: math.Inf(1)},
		{Status: StatusOK, Metric: "rate", Value: math.NaN()},
	} {
		if _, err := Encode(nil, []Row{r}); err == nil {
			t.Errorf("Encode took %+v", r)
		}
	}
}

package bundle

import (
	"encoding/json"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// filled returns a value of the type with every field set, so that a field
// lost on the wire shows.
func filled(typ reflect.Type) reflect.Value {
	v := reflect.New(typ).Elem()
	if typ == reflect.TypeFor[netip.Addr]() {
		return reflect.ValueOf(netip.MustParseAddr("198.18.1.7"))
	}
	switch typ.Kind() {
	case reflect.String:
		v.SetString("s")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Slice:
		v.Set(reflect.Append(v, filled(typ.Elem())))
	case reflect.Map:
		v.Set(reflect.MakeMap(typ))
		v.SetMapIndex(filled(typ.Key()), filled(typ.Elem()))
	case reflect.Interface: // an Action, of which any will do
		v.Set(reflect.ValueOf(Snapshot{Out: "s"}))
	case reflect.Pointer:
		v.Set(reflect.New(typ.Elem()))
		v.Elem().Set(filled(typ.Elem()))
	case reflect.Struct:
		if typ == reflect.TypeFor[netip.Addr]() {
			return reflect.ValueOf(netip.MustParseAddr("198.18.11.10"))
		}
		for i := range typ.NumField() {
			v.Field(i).Set(filled(typ.Field(i).Type))
		}
	}
	return v
}

func TestEveryActionSurvivesTheWire(t *testing.T) {
	for _, a := range actions() {
		in := Step{Node: "node1", Phase: Apply, In: "client", Do: filled(reflect.TypeOf(a)).Interface().(Action)}
		data, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var out Step
		if err := json.Unmarshal(data, &out); err != nil {
			t.Fatalf("%s: %v", a.Kind(), err)
		}
		if !reflect.DeepEqual(in, out) {
			t.Errorf("%s: %+v became %+v", a.Kind(), in, out)
		}
	}
}

func TestKindsAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		if seen[k] {
			t.Errorf("two actions are called %q", k)
		}
		seen[k] = true
	}
}

func TestUnknownIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{"node":"n","kind":"explode","args":{}}`:                       "explode",
		`{"node":"n","kind":"bridge","args":{"link":"b","colour":"x"}}`: "colour",
	} {
		var s Step
		if err := json.Unmarshal([]byte(text), &s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one naming %q", text, err, want)
		}
	}
}

func TestChunksKeepOrderAndSplitByNode(t *testing.T) {
	b := Bundle{Steps: []Step{
		{Node: "a", Phase: Apply, Do: Bridge{"1"}}, {Node: "a", Phase: Prove, Do: Bridge{"2"}},
		{Node: "a", Phase: Apply, Do: Bridge{"3"}}, {Node: "b", Phase: Apply, Do: Bridge{"4"}}, {Node: "a", Phase: Apply, Do: Bridge{"5"}},
	}}
	var got []string
	for _, c := range b.Chunks(Apply) {
		names := c.Node + ":"
		for _, s := range c.Steps {
			names += s.Do.(Bridge).Link
		}
		got = append(got, names)
	}
	if strings.Join(got, " ") != "a:13 b:4 a:5" {
		t.Errorf("chunks %v", got)
	}
}

func TestDigestFollowsContent(t *testing.T) {
	digest := func(b Bundle) string {
		d, err := b.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a := Bundle{Files: map[string]File{"f": NewFile([]byte("x"))}}
	b := Bundle{Files: map[string]File{"f": NewFile([]byte("y"))}}
	if digest(a) == digest(b) || digest(a) != digest(Bundle{Files: map[string]File{"f": NewFile([]byte("x"))}}) {
		t.Error("digest does not follow the content")
	}
}

// carrier is an action that only this test has: it names files in every way that an
// action can.
type carrier struct {
	Input string `json:"input" bundle:"file"`
	Word  string `json:"word"` // no file, even where one has that name
	Runs  struct {
		Programs map[string]*Program `json:"programs"`
	} `json:"runs"`
	Steps []Step `json:"steps"`
}

func (carrier) Kind() string { return "carrier" }

// TestActionBringsItsFiles: what an action tags is delivered, without a list of actions
// that have files.
func TestActionBringsItsFiles(t *testing.T) {
	b := Bundle{Files: map[string]File{}}
	for _, name := range []string{"input", "script", "stdin", "one", "two", "object", "word", "other"} {
		b.Files[name] = NewFile([]byte(name))
	}
	do := carrier{Input: "input", Word: "word", Steps: []Step{{Do: LoadBPF{Object: "object"}}, {Do: FillMap{File: "not in the bundle"}}}}
	do.Runs.Programs = map[string]*Program{"a": {Script: "script", Stdin: "stdin", Files: []string{"one", "two"}}, "b": nil}
	got := slices.Sorted(maps.Keys(b.FilesOf([]Step{{Node: "node1", Phase: Apply, Do: do}})))
	if want := []string{"input", "object", "one", "script", "stdin", "two"}; !slices.Equal(got, want) {
		t.Errorf("delivered %q, want %q", got, want)
	}
}

// TestFileTags: a tag is spelled right, and on a field that can hold names.
func TestFileTags(t *testing.T) {
	files := 0
	var check func(typ reflect.Type)
	check = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			check(typ.Elem())
		case reflect.Struct:
			for i := range typ.NumField() {
				f := typ.Field(i)
				tag, tagged := f.Tag.Lookup("bundle")
				if !tagged {
					if f.IsExported() && typ != reflect.TypeFor[Step]() {
						check(f.Type)
					}
					continue
				}
				files++
				if tag != "file" || f.Type != reflect.TypeFor[string]() && f.Type != reflect.TypeFor[[]string]() {
					t.Errorf("%v.%s is a %v with the tag %q", typ, f.Name, f.Type, tag)
				}
			}
		}
	}
	for _, a := range actions() {
		check(reflect.TypeOf(a))
	}
	if files == 0 {
		t.Error("no action has a file")
	}
}

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"hookbed/analysis/claims"
	"hookbed/driver/plan"
)

// schemaOf is the schema that the driver prints, compiled; it also holds the committed copy to it.
func schemaOf(t *testing.T, kind string) *jsonschema.Schema {
	t.Helper()
	var out strings.Builder
	if err := run(t.Context(), []string{"schema", kind}, &out, &out); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "docs", "schema", kind+".schema.json")
	if committed, err := os.ReadFile(file); err != nil || string(committed) != out.String() {
		t.Errorf("%s is not what the driver prints (%v): run `driver schema %s > docs/schema/%s.schema.json`", file, err, kind, kind)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(kind+".json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(kind + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func fits(schema *jsonschema.Schema, data []byte) error {
	var v map[string]any
	if err := toml.Unmarshal(data, &v); err != nil {
		return err
	}
	return schema.Validate(v)
}

// TestExperimentSchema: every file of experiments fits, and what the loader refuses because of one
// key does not.
func TestExperimentSchema(t *testing.T) {
	schema := schemaOf(t, "experiment")
	files, err := filepath.Glob("../experiments/*.toml")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d experiments, %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := fits(schema, data); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	good, err := os.ReadFile("../experiments/local.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, edit := range []struct{ old, now string }{
		{"schema = 1", "schema = 2"},
		{"schema = 1", "schema = 1\nsede = 2"},
		{"[measure]", "[measure]\ntrails = 3"},
		{"[measure]", "[measure]\nestimator = \"mean\""},
		{"[measure]", "[measure]\nload_limit = \"low\""},
		{"[measure]", "[measure]\nstop = { ci = 0.02, min = 5 }"},
		{"[matrix]", "[matrix]\nclients = [0]"},
		{"[matrix]", "[matrix]\nkernels = [\"6.12\", \"6.99\"]"},
		{"[[arm]]", "[[arm]]\nname = \"a\"\nfilter = \"tc-hash\"\nattach = \"native\"\n[[arm]]"},
		{"[[arm]]", "[[arm]]\nname = \"a\"\nfilter = \"tc-hash\"\nstate = \"as-study\"\n[[arm]]"},
		{"[[arm]]", "[[arm]]\nname = \"a\"\n[[arm]]"},
		{"[[arm]]", "[[arm]]\nfilter = \"tc-hash\"\n[[arm]]"},
		{"[[arm]]", "[[lab.machine]]\nhost = \"a\"\n[[arm]]"},
	} {
		bad := bytes.Replace(good, []byte(edit.old), []byte(edit.now), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("there is no %q", edit.old)
		}
		if err := fits(schema, bad); err == nil {
			t.Errorf("it fits with %q", edit.now)
		}
		if _, err := plan.Parse("x.toml", bad, anywhere()); err == nil {
			t.Errorf("the loader takes %q", edit.now)
		}
	}
}

// TestSchemaIsTheLoaders: every key has words, and a key that the schema requires is one that the
// loader misses.
func TestSchemaIsTheLoaders(t *testing.T) {
	schema := schemaOf(t, "experiment")
	required := 0
	var visit func(path string, s *jsonschema.Schema)
	visit = func(path string, s *jsonschema.Schema) {
		if items, ok := s.Items.(*jsonschema.Schema); ok {
			visit(path, items)
		}
		required += len(s.Required)
		for key, p := range s.Properties {
			at := strings.TrimPrefix(path+"."+key, ".")
			if p.Description == "" && !strings.HasPrefix(at, "measure.count.") {
				t.Errorf("%s has no words", at)
			}
			visit(at, p)
		}
	}
	visit("", schema)
	_, err := plan.Parse("x.toml", []byte("[[lab.machine]]\n[[lab.hypervisor]]\n[measure]\nstop = {}\n[matrix]\nnics = [{}]\n[[policy]]\n[[arm]]\n"), anywhere())
	missing := map[string]bool{}
	for line := range strings.Lines(fmt.Sprint(err)) {
		for _, key := range []string{"schema", "name", "lab.machine.name", "lab.machine.host", "lab.machine.key", "lab.machine.known_hosts",
			"lab.hypervisor.nodes", "lab.hypervisor.uri", "lab.hypervisor.key", "lab.hypervisor.known_hosts", "measure.stop.ci", "measure.stop.min", "measure.stop.max",
			"matrix.scenarios", "matrix.workloads", "policy.file", "arm.name"} {
			missing[key] = missing[key] || strings.Contains(line, ": "+key+": is missing")
		}
	}
	for key, is := range missing {
		if !is {
			t.Errorf("the loader does not miss %s", key)
		}
	}
	// and matrix, arm and the model of a card, which an empty file lacks in other words.
	if want := len(missing) + 3; required != want {
		t.Errorf("the schema requires %d keys, the loader %d", required, want)
	}
}

// TestClaimsSchema: the study's claims fit, and what is refused as a claim does not.
func TestClaimsSchema(t *testing.T) {
	schema := schemaOf(t, "claims")
	good, err := os.ReadFile("../analysis/claims/claims.toml")
	if err != nil {
		t.Fatal(err)
	}
	if err := fits(schema, good); err != nil {
		t.Error(err)
	}
	const one = "schema = 1\n[[claim]]\nid = \"a\"\nsentence = \"s\"\nsource = \"x\"\nhypothesis = \"flat\"\nscenario = \"localhost\"\nworkload = \"TCP_RR\"\nmetrics = [\"rate\"]\na = { filter = \"tc-hash\" }\nmargin = 0.05\nreason = \"r\"\n"
	if err := fits(schema, []byte(one)); err != nil {
		t.Error(err)
	}
	for _, edit := range []struct{ old, now string }{
		{"schema = 1", "schema = 2"}, {"\"flat\"", "\"bumpy\""}, {"\"flat\"", "\"better\""}, {"0.05", "0"}, {"[\"rate\"]", "[]"}, {"reason", "why"},
		{"margin", "until = 5\nmargin"}, {"margin", "at_least = 5\nmargin"}, {"margin", "b = { filter = \"none\" }\nmargin"}, {"id = \"a\"\n", ""}, {"\"flat\"", "\"no-penalty-until\""},
	} {
		bad := []byte(strings.Replace(one, edit.old, edit.now, 1))
		_, err := claims.Parse(bad)
		if fits(schema, bad) == nil || err == nil {
			t.Errorf("with %q: the schema says %v, the driver %v", edit.now, fits(schema, bad), err)
		}
	}
}

package docs_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/pack"
	"hookbed/driver/campaign"
)

func updateFlag() *bool {
	return flag.Bool("update", false, "pack the runs of docs/results again, with the report of now")
}

var update = updateFlag()

// Limits that keep the repository small, in bytes.
const (
	maxPack  = 800 << 10
	maxPacks = 4 << 20
)

// results are the packs of docs/results.
func results(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("results", "*"+pack.Extension))
	if err != nil || len(files) < 3 {
		t.Fatalf("found %q, %v", files, err)
	}
	return files
}

// Each pack of docs/results holds, as `driver verify` has it: digests, records, raw results against
// rows, and the report made anew.
func TestResultsHold(t *testing.T) {
	total := int64(0)
	for _, file := range results(t) {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
		if info.Size() > maxPack {
			t.Errorf("%s has %d bytes, want at most %d", file, info.Size(), maxPack)
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			verified(t, file)
		})
	}
	if total > maxPacks {
		t.Errorf("the packs have %d bytes, want at most %d", total, maxPacks)
	}
}

func verified(t *testing.T, file string) {
	dir := filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(file), pack.Extension))
	m, err := pack.Open(file, dir)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if _, err = pack.Write(dir, file); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if m, err = pack.Open(file, dir); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := campaign.CheckRaw(dir)
	if err != nil {
		t.Fatal(err)
	}
	if raw.Trials == 0 || len(raw.Differ) > 0 || len(raw.Missing) > 0 {
		t.Errorf("%d trials; these do not follow from their raw results: %q; these have none: %q", raw.Trials, raw.Differ, raw.Missing)
	}
	found, err := pack.Recheck(dir, m)
	if err != nil {
		t.Fatal(err)
	}
	if !found.None() {
		t.Errorf("found %+v\n(if the report was meant to change: go test ./docs -run TestResults -update)", found)
	}
}

// The page says of each pack which command made it, and names no other.
func TestResultsAreListed(t *testing.T) {
	text := open(t, "docs/results.md").text
	files := results(t)
	for _, file := range files {
		if !strings.Contains(text, "("+filepath.ToSlash(file)+")") {
			t.Errorf("docs/results.md does not link to %s", file)
		}
		name := strings.TrimSuffix(filepath.Base(file), pack.Extension)
		if !strings.Contains(text, "`driver run experiments/"+name+".toml`") {
			t.Errorf("docs/results.md does not say how %s was made", name)
		}
		if _, err := os.Stat(filepath.Join(root, "experiments", name+".toml")); err != nil {
			t.Errorf("%s is of no experiment that is here: %v", file, err)
		}
	}
	if got := strings.Count(text, pack.Extension+")"); got != len(files) {
		t.Errorf("docs/results.md links to %d packs, there are %d", got, len(files))
	}
}

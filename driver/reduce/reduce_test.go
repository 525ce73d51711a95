package reduce

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func testConfig() Config {
	return Config{Programs: testPrograms(), Unit: "transaction", Cut: Cut{Call: "__x64_sys_sendto"}}
}

// TestScripts: each script in testdata is a stream of a kind of its own, with the trace that is made
// of it.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.script")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		name := strings.TrimSuffix(filepath.Base(script), ".script")
		t.Run(name, func(t *testing.T) {
			r := New(testConfig())
			play(t, readFile(t, script), r)
			tr, err := r.Result()
			if err != nil {
				t.Fatal(err)
			}
			got, golden := show(tr), filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := readFile(t, golden); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

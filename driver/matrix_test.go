package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// sixBlocks has as many blocks as experiments/virtual.toml, of one trial on this computer each.
const sixBlocks = `schema = 1
name = "virtual"
[lab]
provider = "local"
[measure]
blocks = 6
trials = 1
count = { TCP_RR = 50 }
warmup = "0s"
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [0]
[[arm]]
name = "docker"
datapath = "docker"
`

// matrix is the workflow of docs/scale.md.
type matrix struct {
	Jobs map[string]struct {
		Strategy struct{ Matrix struct{ Share []int } }
		Steps    []struct {
			Run, Uses string
			With      map[string]string
		}
	}
}

// TestMatrix does what the jobs of the GitHub workflow in docs/scale.md do, with an experiment for
// this computer: its commands, once for each share, and what its actions do with files.
func TestMatrix(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	var m matrix
	if err := yaml.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sh := func(at, line string) {
		t.Helper()
		cmd := exec.Command("sh", "-ec", line)
		cmd.Dir = at
		cmd.Env = append(os.Environ(), "PATH="+binaries+":"+os.Getenv("PATH"), "XDG_STATE_HOME="+filepath.Join(dir, "state"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	for _, n := range m.Jobs["share"].Strategy.Matrix.Share {
		// Each job has a computer of its own.
		at := filepath.Join(dir, fmt.Sprint(n))
		sh(dir, "mkdir -p artifacts "+at+"/experiments")
		if err := os.WriteFile(filepath.Join(at, "experiments/virtual.toml"), []byte(sixBlocks), 0o600); err != nil {
			t.Fatal(err)
		}
		this := strings.NewReplacer("${{ matrix.share }}", fmt.Sprint(n))
		for _, s := range m.Jobs["share"].Steps {
			switch {
			case s.Run != "":
				sh(at, this.Replace(s.Run))
			case strings.HasPrefix(s.Uses, "actions/upload-artifact@"):
				sh(at, this.Replace("cp -r "+s.With["path"]+" ../artifacts/"+s.With["name"]))
			}
		}
	}
	for _, s := range m.Jobs["merge"].Steps {
		if strings.HasPrefix(s.Uses, "actions/download-artifact@") {
			sh(dir, "mv artifacts "+s.With["path"])
		} else {
			sh(dir, s.Run)
		}
	}
	if trials, err := trialsIn(filepath.Join(dir, "virtual/rows.csv")); err != nil || len(trials) != 6 {
		t.Errorf("%d trials are merged, want 6 (%v)", len(trials), err)
	}
}

package docs_test

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
	"go.yaml.in/yaml/v3"
)

// The workflows and the action of docs/nightly are those of GitHub, as actionlint has them, in the
// places to which they say that they are copied.
func TestTheWorkflowsAreValid(t *testing.T) {
	dir := t.TempDir()
	var workflows []string
	for from, to := range map[string]string{
		"workflow.yml": ".github/workflows/nightly.yml", "pull-request.yml": ".github/workflows/pull-request.yml",
		"action.yml": ".github/actions/hookbed-nightly/action.yml",
	} {
		data, err := os.ReadFile(filepath.Join("nightly", from))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(to, "workflows") {
			workflows = append(workflows, file)
			if text := string(data); !strings.Contains(text, to) {
				t.Errorf("docs/nightly/%s does not say that it is copied to %s", from, to)
			}
		}
	}
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{WorkingDir: dir, Shellcheck: "", Pyflakes: ""})
	if err != nil {
		t.Fatal(err)
	}
	project, err := actionlint.NewProject(dir)
	if err != nil {
		t.Fatal(err)
	}
	lint := func() []*actionlint.Error {
		found, err := linter.LintFiles(workflows, project)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for _, e := range lint() {
		t.Error(e)
	}
	// It does look at them: an input that the action does not have is refused.
	data, err := os.ReadFile(workflows[0])
	if err != nil {
		t.Fatal(err)
	}
	wrong := regexp.MustCompile(`(?m)^( *)- uses: \./\.github/actions/hookbed-nightly\n(?: *with:\n)?`).ReplaceAllString(string(data), "${0}${1}  with:\n${1}    unknown: 1\n")
	wrong = strings.Replace(wrong, "  with:\n        with:\n", "  with:\n", 1)
	if err := os.WriteFile(workflows[0], []byte(wrong), 0o644); err != nil {
		t.Fatal(err)
	}
	if len(lint()) == 0 {
		t.Error("a wrong input is not refused")
	}
}

var (
	calledScript = regexp.MustCompile(`\.ci/[a-z-]+`)
	input        = regexp.MustCompile(`inputs\.([a-z]+)`)
)

// What the templates call is there, and the action uses each of its inputs.
func TestTheTemplatesCallWhatThereIs(t *testing.T) {
	for _, name := range []string{"action.yml", "gitlab-ci.yml"} {
		text := open(t, filepath.Join("docs", "nightly", name)).text
		called := calledScript.FindAllString(text, -1)
		for _, script := range called {
			if _, err := os.Stat(filepath.Join(root, script)); err != nil {
				t.Errorf("%s calls %s, which there is not", name, script)
			}
		}
		for _, want := range []string{".ci/nightly", ".ci/nightly-summary"} {
			if !slices.Contains(called, want) {
				t.Errorf("%s does not call %s", name, want)
			}
		}
		if !strings.Contains(text, "bin/driver history") {
			t.Errorf("%s makes no trend page", name)
		}
	}
	var action struct{ Inputs map[string]any }
	text := open(t, "docs/nightly/action.yml").text
	if err := yaml.Unmarshal([]byte(text), &action); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, m := range input.FindAllStringSubmatch(text, -1) {
		used[m[1]] = true
		if action.Inputs[m[1]] == nil {
			t.Errorf("the action has no input %s", m[1])
		}
	}
	for name := range action.Inputs {
		if !used[name] {
			t.Errorf("the action does not use its input %s", name)
		}
	}
}

// The template for GitLab has jobs as GitLab has them: their stages exist, what they extend and need
// exists, and each has a script and a rule for when it runs.
func TestTheGitLabTemplateIsValid(t *testing.T) {
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(open(t, "docs/nightly/gitlab-ci.yml").text), &doc); err != nil {
		t.Fatal(err)
	}
	type job struct {
		Stage, Image, Extends string
		Script                []string
		Rules                 []struct{ If, When string }
		Needs                 []struct {
			Job       string
			Artifacts bool
		}
		Cache struct {
			Key, Policy, When string
			Paths             []string
		}
	}
	jobs, stages := map[string]job{}, doc["stages"].([]any)
	for name, v := range doc {
		if name == "variables" || name == "stages" {
			continue
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var j job
		if err := json.Unmarshal(data, &j); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		jobs[name] = j
	}
	for name, j := range jobs {
		of := j
		if j.Extends != "" {
			base, ok := jobs[j.Extends]
			if !ok {
				t.Errorf("%s extends %s, which there is not", name, j.Extends)
			}
			of.Stage, of.Script = base.Stage, base.Script
		}
		if !slices.Contains(stages, any(of.Stage)) || len(of.Script) == 0 {
			t.Errorf("%s has the stage %q and %d lines of script", name, of.Stage, len(of.Script))
		}
		if !strings.HasPrefix(name, ".") && len(j.Rules) == 0 {
			t.Errorf("%s runs always", name)
		}
		for _, n := range j.Needs {
			if _, ok := jobs[n.Job]; !ok {
				t.Errorf("%s needs %s, which there is not", name, n.Job)
			}
		}
	}
	if a, b := jobs["nightly"].Cache, jobs["merge-request"].Cache; a.Key != b.Key || a.Policy != "pull-push" || b.Policy != "pull" {
		t.Errorf("the caches are %+v and %+v: a merge request must read the nights' and not write it", a, b)
	}
}

// The workflow of docs/scale.md is GitHub's, as actionlint has it, and its shares are the blocks of the
// experiment.
func TestTheMatrixIsValid(t *testing.T) {
	_, text, found := strings.Cut(open(t, "docs/scale.md").text, "```yaml\n")
	text, _, ends := strings.Cut(text, "```")
	if !found || !ends {
		t.Fatal("docs/scale.md has no workflow")
	}
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{Shellcheck: "", Pyflakes: ""})
	if err != nil {
		t.Fatal(err)
	}
	lint := func(text string) []*actionlint.Error {
		found, err := linter.Lint("scale.yml", []byte("on: push\n"+text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for _, e := range lint(text) {
		t.Error(e)
	}
	if len(lint(strings.ReplaceAll(text, "matrix.share", "matrix.part"))) == 0 {
		t.Error("a value that the matrix does not have is not refused")
	}
	if shares := "share: [1, 2, 3, 4, 5, 6]"; !strings.Contains(text, shares) || !strings.Contains(text, "--shard ${{ matrix.share }}/6 ") {
		t.Errorf("the matrix is not %s:\n%s", shares, text)
	}
}

package browser_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/report"
	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/driver/workload"
	"hookbed/experiments/invented"
	"hookbed/images"
)

// arm is an arm of a fixture's experiment.
type arm struct{ fabric, filter, state string }

func (a arm) name() string {
	return strings.TrimSuffix(a.fabric+"-"+a.filter+"-"+a.state, "-")
}

func (a arm) toml() string {
	text := fmt.Sprintf("\n[[arm]]\nname = %q\nfabric = %q\nfilter = %q\n", a.name(), a.fabric, a.filter)
	if a.state != "" {
		text += fmt.Sprintf("state = %q\n", a.state)
	}
	return text
}

// fiftyArms begins with those that differ most, so that a few of them are a good fixture, too.
func fiftyArms() []arm {
	out := []arm{{"bridge", "iptables-legacy", "as-study"}, {"bridge", "none", ""}, {"bpf", "tc-hash", ""},
		{"bridge", "nft-set", "as-study"}, {"bridge", "tc-linear", ""}, {"bridge", "xdp-hash", ""}, {"routed", "none", ""}}
	for _, fabric := range []string{"bridge", "routed"} {
		for _, filter := range []string{"tc-hash", "xdp-linear"} {
			out = append(out, arm{fabric, filter, ""})
		}
		for _, state := range []string{"stateless", "established-first", "as-study"} {
			for _, filter := range []string{"ipset", "iptables-nft", "nft-linear", "nft-vmap", "iptables-legacy", "nft-set"} {
				a := arm{fabric, filter, state}
				if a != out[0] && a != out[3] {
					out = append(out, a)
				}
			}
		}
	}
	return append(out, arm{"routed", "tc-linear", ""}, arm{"routed", "xdp-hash", ""}, arm{"bpf", "tc-linear", ""}, arm{"bridge", "tc-lpm", ""}, arm{"bridge", "xdp-lpm", ""})
}

func catalog() plan.Catalog {
	return plan.Catalog{Datapaths: datapath.Catalog(), Workloads: workload.Catalog(), Kernels: images.Kernels(), Versions: images.Versions(), NICs: images.NICs()}
}

// experiment is a fixture's: so many arms, nine numbers of policies, two measures, and of many arms
// those in both scenarios.
func experiment(name, clock string, arms int) string {
	text := fmt.Sprintf("schema = 1\nname = %q\ndescription = \"Invented numbers. Nothing was measured.\"\nseed = 7\n\n", name)
	if clock == plan.ClockVirtual {
		text += "[lab]\nclock = \"virtual\"\nkernel = \"6.12\"\n\n[measure]\nseeds = 2\n"
	} else {
		text += "[lab]\nprovider = \"libvirt\"\nkernel = \"6.12\"\n\n[measure]\nblocks = 1\ntrials = 3\n"
	}
	scenarios := `["localhost"]`
	if arms > 3 {
		scenarios = `["localhost", "multi-host"]`
	}
	text += "\n[matrix]\nscenarios = " + scenarios + "\nworkloads = [\"TCP_STREAM\", \"TCP_RR\"]\n" +
		"policies = [0, 1, 5, 10, 25, 50, 100, 200, 1000]\n"
	for _, a := range fiftyArms()[:arms] {
		text += a.toml()
	}
	return text
}

// made is a report to make.
type made struct {
	report reportFile
	// runs makes the run directories in a folder.
	runs func(t *testing.T, folder string) []string
}

// look is what every report must pass, read what one with numbers must, and use what takes some
// time: each control, each table, paper.
func look() []string {
	return []string{"opens", "fits", "phone-fits", "accessible", "phone-accessible", "plain"}
}

func read() []string {
	return []string{"answers", "phone-answers", "small", "exact"}
}

func use() []string {
	return []string{"coloured", "dark", "chips", "searches", "keyboard", "clicks", "downloads", "remembers", "tables", "prints"}
}

// fixtures are reports of all sizes and kinds.
func fixtures() []made {
	var out []made
	for _, clock := range []string{plan.ClockVirtual, plan.ClockWall} {
		for _, arms := range []int{50, 12, 3, 1} {
			name := fmt.Sprintf("%s-%d", clock, arms)
			if !*every && !slices.Contains([]string{"virtual-50", "wall-12", "virtual-3", "wall-1"}, name) {
				continue
			}
			checks := slices.Concat(look(), read(), use())
			if !*every && arms == 50 {
				checks = slices.DeleteFunc(checks, func(c string) bool {
					return slices.Contains([]string{"accessible", "phone-accessible", "tables", "prints"}, c)
				})
			}
			out = append(out, made{reportFile{Name: name, Checks: checks, Arms: arms, Numbers: true}, func(t *testing.T, folder string) []string {
				return []string{run(t, folder, name, planned(t, experiment(name, clock, arms)))}
			}})
		}
	}
	return append(out,
		made{reportFile{Name: "both-clocks", Checks: slices.Concat(look(), read(), use()), Arms: 3, Numbers: true}, func(t *testing.T, folder string) []string {
			virtual, wall := planned(t, experiment("exact", plan.ClockVirtual, 3)), planned(t, experiment("rig", plan.ClockWall, 3))
			return []string{run(t, folder, "exact", virtual), run(t, folder, "rig", wall)}
		}},
		made{reportFile{Name: "two-runs", Checks: slices.Concat(look(), read(), use(), []string{"compares"}), Arms: 3, Numbers: true}, func(t *testing.T, folder string) []string {
			before, after := planned(t, experiment("before", plan.ClockWall, 3)), planned(t, strings.Replace(experiment("after", plan.ClockWall, 3), "seed = 7", "seed = 8", 1))
			return []string{run(t, folder, "before", before), run(t, folder, "after", after)}
		}},
		made{reportFile{Name: "trouble", Checks: slices.Concat(look(), read(), []string{"dark", "tables", "prints"}), Arms: 4, Numbers: true}, func(t *testing.T, folder string) []string {
			runstest.Small().Write(t, folder)
			return []string{folder}
		}},
		made{reportFile{Name: "empty", Checks: look()}, func(t *testing.T, folder string) []string {
			dir := run(t, folder, "empty", planned(t, experiment("empty", plan.ClockWall, 3)))
			path := filepath.Join(dir, runs.RowsFile)
			rows, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			runstest.WriteFile(t, path, []byte(strings.SplitAfter(string(rows), "\n")[0]))
			return []string{dir}
		}})
}

// ofExperiments are the reports of the experiments that are in the repository.
func ofExperiments(t *testing.T) []made {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "*.toml"))
	if err != nil || len(files) < 20 {
		t.Fatalf("found %q, %v", files, err)
	}
	var out []made
	for _, file := range files {
		name := filepath.Base(file)
		out = append(out, made{reportFile{Name: name, Checks: []string{"opens", "answers", "small", "fits", "exact", "narrow"}, Numbers: true}, func(t *testing.T, folder string) []string {
			spec, err := plan.Load(file, catalog())
			if err != nil {
				t.Fatal(err)
			}
			p, err := plan.Expand(spec, catalog())
			if err != nil {
				t.Fatal(err)
			}
			return []string{run(t, folder, strings.TrimSuffix(name, ".toml"), p)}
		}})
	}
	return out
}

func planned(t *testing.T, text string) *plan.Plan {
	t.Helper()
	s, err := plan.Parse("fixture.toml", []byte(text), catalog())
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Expand(s, catalog())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// environment is like a run's env.json.
func environment() map[string]any {
	return map[string]any{"accelerator": "tcg", "host_cpu": "Invented CPU at 3 GHz", "host_cpus": 2, "host_kernel": "6.12.0-invented",
		"kernel_release": "6.12.1-invented", "started": "2001-02-03T04:05:06Z", "host_load": "0.10 0.20 0.30 1/100 1000"}
}

// run is the directory of a plan's run, in a folder.
func run(t *testing.T, folder, name string, p *plan.Plan) string {
	t.Helper()
	dir := filepath.Join(folder, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := invented.Write(dir, p, environment()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// makeAll makes the reports, as many at once as there are CPUs.
func makeAll(t *testing.T, all []made) []reportFile {
	t.Helper()
	folder, out := *keep, make([]reportFile, len(all))
	if folder == "" {
		folder = t.TempDir()
	}
	t.Run("make", func(t *testing.T) {
		for i, m := range all {
			t.Run(m.report.Name, func(t *testing.T) {
				t.Parallel()
				in := filepath.Join(folder, m.report.Name)
				if err := os.Mkdir(in, 0o755); err != nil {
					t.Fatal(err)
				}
				dirs, to := m.runs(t, in), filepath.Join(in, "report")
				if _, err := report.Make(dirs, to, report.Options{Resamples: 100}); err != nil {
					t.Fatal(err)
				}
				out[i] = m.report
				out[i].File, out[i].JSON = filepath.Join(to, "report.html"), filepath.Join(to, "report.json")
				for _, d := range dirs {
					out[i].Runs = append(out[i].Runs, filepath.Base(d))
				}
			})
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return out
}

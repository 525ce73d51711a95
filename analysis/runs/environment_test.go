package runs

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/record"
)

// env.json of the local provider, as measured, and of virtual machines.
const (
	localEnv = `{"provider": "local", "accelerator": "none (this computer's kernel)", "host_cpu": "A", "host_load": "0.1 0.2", "host_kernel": "6.12.1", "started": "t1",
 "endpoint_sha256": "e", "lab_seconds": {"boot": 0.1}, "nodes": {"node1": {"kernel.release": "6.12.1", "kernel.config_sha256": "c", "cpu.model": "A", "mitigations": "spectre_v2=Retpolines"}}}`
	otherLocalEnv = `{"provider": "local", "accelerator": "none (this computer's kernel)", "host_cpu": "A", "host_load": "9 9", "host_kernel": "6.12.1", "started": "t2",
 "endpoint_sha256": "e", "lab_seconds": {"boot": 0.9}, "nodes": {"node1": {"kernel.release": "6.12.1", "kernel.config_sha256": "c", "cpu.model": "A", "mitigations": "spectre_v2=Retpolines"},
  "node2": {"kernel.release": "6.12.1", "kernel.config_sha256": "c", "cpu.model": "A", "mitigations": "spectre_v2=Retpolines"}}}`
	virtualEnv = `{"provider": "libvirt", "accelerator": "tcg", "accelerator_how": "because", "host_cpu": "A", "hypervisor": {"qemu": "10.0", "libvirt": "9"}, "kernel_release": "6.12.1", "image_sha256": {"vmlinuz": "v"}, "icount_shift": 3, "vcpus": 1}`
	bothEnv    = `{"provider": "libvirt", "accelerator": "tcg", "host_cpu": "A", "hypervisor": {"qemu": "10.0"}, "kernel_release": {"6.12": "6.12.1", "6.1": "6.1.9"}, "image_sha256": {"6.12": {"vmlinuz": "v"}, "6.1": {"vmlinuz": "w"}}, "icount_shift": 3, "vcpus": 1}`
)

// ranIn is a run of one row in an environment; "" is no env.json.
func ranIn(t *testing.T, name, clock, kernel string, envs ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	row := trial("c"+kernel, 1, 1, record.StatusOK, "", float64(len(name))+float64(name[0]))
	row.Run = name
	row.Factors["clock"], row.Factors["kernel"] = clock, kernel
	save(t, dir, []record.Row{row}, "{}")
	for i, env := range envs {
		if env == "" {
			continue
		}
		if !json.Valid([]byte(env)) {
			t.Fatalf("this is no JSON: %s", env)
		}
		if err := os.WriteFile(filepath.Join(dir, EnvFileName(i+1)), []byte(env), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func edit(env string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(env) }

// Runs from unlike environments are never combined; what is not part of the
// environment, or a level of a factor, does not matter.
func TestUnlikeEnvironmentsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		clock   string
		a, b    string
		kernelB string // level of the factor
		want    string // "" = read
	}{
		"the same computer":               {"wall", localEnv, otherLocalEnv, "6.12", ""},
		"another kernel":                  {"wall", localEnv, edit(otherLocalEnv, "6.12.1", "6.18.2"), "6.12", "nodes.node1.kernel.release is 6.12.1 in a, 6.18.2 in b: look at them apart"},
		"another configuration":           {"wall", localEnv, edit(otherLocalEnv, `sha256": "c"`, `sha256": "d"`), "6.12", "nodes.node1.kernel.config_sha256 is c in a, d in b"},
		"another processor":               {"wall", localEnv, edit(otherLocalEnv, `"A"`, `"B"`), "6.12", "host_cpu is A in a, B in b"},
		"other mitigations":               {"wall", localEnv, edit(otherLocalEnv, "Retpolines", "Vulnerable"), "6.12", "nodes.node1.mitigations is spectre_v2=Retpolines in a, spectre_v2=Vulnerable in b"},
		"other tools":                     {"wall", localEnv, edit(otherLocalEnv, `"e"`, `"f"`), "6.12", "endpoint_sha256 is e in a, f in b"},
		"peers in one":                    {"wall", localEnv, edit(otherLocalEnv, `"e"`, `"e", "peers_sha256": "p"`), "6.12", ""},
		"other peers":                     {"wall", edit(localEnv, `"e"`, `"e", "peers_sha256": "o"`), edit(otherLocalEnv, `"e"`, `"e", "peers_sha256": "p"`), "6.12", "peers_sha256 is o in a, p in b"},
		"wall, a disk of peers in one":    {"wall", virtualEnv, edit(virtualEnv, `"v"`, `"v", "peers.squashfs": "p"`), "6.12", ""},
		"virtual, peers in one":           {"virtual", virtualEnv, edit(virtualEnv, `"v"`, `"v", "sealed-peers.cpio": "p"`), "6.12", "image_sha256.sealed-peers.cpio is not recorded in a, p in b"},
		"one does not say":                {"wall", localEnv, "", "6.12", "env.json is recorded in a, not recorded in b"},
		"neither says":                    {"wall", "", "", "6.12", "env.json is not recorded in a, not recorded in b"},
		"virtual, same":                   {"virtual", virtualEnv, edit(virtualEnv, `"9"`, `"8"`, "because", "for"), "6.12", ""},
		"virtual, another host":           {"virtual", virtualEnv, edit(virtualEnv, `"A"`, `"B"`), "6.12", ""},
		"wall, another host":              {"wall", virtualEnv, edit(virtualEnv, `"A"`, `"B"`), "6.12", "host_cpu"},
		"existing machines, another desk": {"wall", edit(localEnv, `"local"`, `"ssh"`), edit(otherLocalEnv, `"local"`, `"ssh"`, `"host_cpu": "A"`, `"host_cpu": "B"`), "6.12", ""},
		"virtual, another QEMU":           {"virtual", virtualEnv, edit(virtualEnv, "10.0", "11.0"), "6.12", "hypervisor.qemu is 10.0 in a, 11.0 in b"},
		"virtual, another image":          {"virtual", virtualEnv, edit(virtualEnv, `"v"`, `"w"`), "6.12", "image_sha256.vmlinuz is v in a, w in b"},
		"virtual, another kernel":         {"virtual", virtualEnv, edit(virtualEnv, "6.12.1", "6.1.9"), "6.1", "make the kernel a factor of one experiment: kernels = [...]"},
		"both kernels in both":            {"virtual", bothEnv, bothEnv, "6.12", ""},
		"one boot of two":                 {"virtual", bothEnv, edit(bothEnv, `"6.12": "6.12.1", `, "", `"6.12": {"vmlinuz": "v"}, `, ""), "6.12", ""},
		"another image of a boot":         {"virtual", bothEnv, edit(bothEnv, `"w"`, `"x"`), "6.12", "image_sha256.6.1.vmlinuz is w in a, x in b"},
		"compared, and alone":             {"virtual", bothEnv, virtualEnv, "6.12", ""},
		"compared, and another alone":     {"virtual", bothEnv, edit(virtualEnv, "6.12.1", "6.12.7"), "6.12", "kernel_release.6.12 is 6.12.1 in a, 6.12.7 in b"},
		"compared, and one that is not":   {"virtual", bothEnv, edit(virtualEnv, "6.12.1", "7.3.0"), "7.3", "kernel_release is not recorded in a, 7.3.0 in b"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := ranIn(t, "a", c.clock, "6.12", c.a), ranIn(t, "b", c.clock, c.kernelB, c.b)
			for _, dir := range []string{a, b} {
				if _, err := Load(dir); err != nil {
					t.Errorf("alone: %v", err)
				}
			}
			_, err := Load(a, b)
			var unlike *UnlikeError
			if errors.As(err, &unlike) != (c.want != "") || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// A run that was resumed, or merged, has several environments: each is compared
// with those of the other run.
func TestLaterEnvironmentsCount(t *testing.T) {
	a := ranIn(t, "a", "wall", "6.12", localEnv)
	b := ranIn(t, "b", "wall", "6.12", localEnv, edit(localEnv, "6.12.1", "6.12.2"))
	if _, err := Load(a, b); err == nil || !strings.Contains(err.Error(), "nodes.node1.kernel.release is 6.12.1 in a, 6.12.2 in b") {
		t.Errorf("error %v, want one about the kernel of b's second process", err)
	}
}

// A run that was resumed elsewhere can be read alone, and has a warning about it.
func TestChangedEnvironments(t *testing.T) {
	for name, c := range map[string]struct {
		envs []string
		want string
	}{
		"never resumed":               {[]string{localEnv}, ""},
		"resumed on the same":         {[]string{localEnv, otherLocalEnv}, ""},
		"resumed on another, at last": {[]string{localEnv, otherLocalEnv, edit(localEnv, "6.12.1", "6.18.2")}, "nodes.node1.kernel.release was 6.12.1, then 6.18.2."},
		"not recorded":                {nil, ""},
	} {
		all, err := Load(ranIn(t, "a", "wall", "6.12", c.envs...))
		if err != nil {
			t.Fatal(err)
		}
		if got := all[0].ChangedWarning(); (got == "") != (c.want == "") || !strings.HasSuffix(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// Environments of runs on two clocks are not compared.
func TestEnvironmentsOfTwoClocks(t *testing.T) {
	var all []Run
	for _, dir := range []string{ranIn(t, "a", "wall", "6.12", localEnv), ranIn(t, "b", "virtual", "6.12", virtualEnv), ranIn(t, "cc", "wall", "6.12", otherLocalEnv)} {
		one, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, one[0])
	}
	if err := CheckEnvironments(all); err != nil {
		t.Error(err)
	}
	all[2].Env["host_cpu"] = "B"
	if err := CheckEnvironments(all); err == nil || !strings.Contains(err.Error(), "host_cpu is A in a, B in cc") {
		t.Errorf("error %v, want one about the two of one clock", err)
	}
}

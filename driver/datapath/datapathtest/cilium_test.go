//go:build cilium

package datapathtest

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/images"
	"hookbed/images/container"
)

// imageVariable names the image of Cilium to test with, as an arm's cilium_image does.
const imageVariable = "HOOKBED_CILIUM_IMAGE"

// agentRoots are the root file systems of the agent and of etcd.
func agentRoots(t *testing.T) map[string]string {
	t.Helper()
	name := os.Getenv(imageVariable)
	if name == "" {
		t.Fatalf("%s is not set; set it to an image of Cilium: NAME@sha256:..., or the absolute path of a file of docker save or OCI", imageVariable)
	}
	from, err := container.Parse(name, "")
	if err != nil {
		t.Fatal(err)
	}
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	img, err := store.EnsureContainer(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	set, err := store.Ensure(t.Context(), images.Want{Etcd: true})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{bundle.RootCilium: img.Dir, bundle.RootEtcd: set.EtcdDir}
}

// TestCilium puts the agent of the user's image to the test on this kernel. One arm after the
// other: an agent compiles its programs.
func TestCilium(t *testing.T) {
	rig := Rig{Guest: guestBinary(t), Dir: t.TempDir(), Roots: agentRoots(t), Silence: *silenceFlag, Report: &Report{Progress: os.Stdout}}
	arms := OfCilium(datapath.Catalog())
	if !*allFlag {
		arms = Defaults(arms)
	}
	only := regexp.MustCompile(*armsFlag)
	arms = slices.DeleteFunc(arms, func(a Arm) bool { return !only.MatchString(a.Name()) })
	rig.Report.Of = len(arms)
	others := Defaults(Arms(datapath.Catalog()))
	for i, a := range arms {
		rig.Other = others[i%len(others)]
		t.Run(a.Name(), func(t *testing.T) { Conform(t, rig, a) })
	}
	table := rig.Report.Markdown()
	t.Log("\n" + table)
	if *tableFlag != "" {
		if err := os.WriteFile(*tableFlag, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
	if len(rig.Report.arms) == 0 {
		t.Errorf("no arm is like %q", *armsFlag)
	}
}

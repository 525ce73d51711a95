package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

func TestFindImage(t *testing.T) {
	const pinned = "example.invalid/agent@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	if got, err := findImage("", pinned); err != nil || got != (plan.Image{Level: pinned, Source: pinned}) {
		t.Errorf("a reference with its digest is %+v, %v", got, err)
	}
	// No registry answers under a name that is reserved for that (RFC 2606).
	if _, err := findImage("", "example.invalid/agent:v1"); err == nil || !strings.Contains(err.Error(), "write its digest") {
		t.Errorf("a tag is %v, want how to write its digest", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "agent.tar"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"agent.tar", "none.tar", "none/"} {
		if _, err := findImage(dir, text); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want an error with its path", text, err)
		}
	}
}

func TestOneImageOfCilium(t *testing.T) {
	arm := func(name, level string) plan.Arm {
		return plan.Arm{Name: name, Options: map[string]string{datapath.KeyCiliumImage: level}, Images: map[string]string{datapath.KeyCiliumImage: "/" + level}}
	}
	of := func(arms ...plan.Arm) (plan.Image, error) {
		return ciliumImage(&plan.Plan{Spec: plan.Spec{Arms: arms}})
	}
	if got, err := of(plan.Arm{Name: "docker"}); err != nil || got != (plan.Image{}) {
		t.Errorf("without an arm of Cilium the image is %+v, %v", got, err)
	}
	if got, err := of(plan.Arm{Name: "docker"}, arm("a", "x@1"), arm("b", "x@1")); err != nil || got != (plan.Image{Level: "x@1", Source: "/x@1"}) {
		t.Errorf("of two arms with one image it is %+v, %v", got, err)
	}
	if _, err := of(arm("a", "x@1"), arm("b", "x@2")); err == nil || !strings.Contains(err.Error(), `arm "b"`) {
		t.Errorf("two images: %v", err)
	}
}

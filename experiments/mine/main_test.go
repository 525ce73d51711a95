package main

import (
	"os"
	"testing"

	"hookbed/driver/policy"
)

// TestCommittedFiles are what the program writes: 300 policies.
func TestCommittedFiles(t *testing.T) {
	dir := t.TempDir()
	if err := run([]string{dir}); err != nil {
		t.Fatal(err)
	}
	for name := range files() {
		want, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != string(want) {
			t.Errorf("%s is not what the program writes (%v): go run ./experiments/mine experiments/mine", name, err)
		}
	}
	set, err := policy.Read("policies.yaml", []byte(policies()))
	if err != nil || len(set.Policies) != 300 {
		t.Errorf("%v, and not 300 policies", err)
	}
	if run(nil) == nil {
		t.Error("no directory is no error")
	}
}

package runs

import (
	"os"
	"path/filepath"
	"testing"
)

// TestAccelerator: the accelerator is read from env.json as it is and as it was, and
// words for a person are none.
func TestAccelerator(t *testing.T) {
	tests := map[string]string{
		`{"accelerator": "tcg"}`:                                  "tcg",
		`{"accelerator": " KVM "}`:                                "kvm",
		`{"accel": "kvm"}`:                                        "kvm",
		`{"accel": {"used": "tcg", "why": "kvm did not boot"}}`:   "tcg",
		`{"lab": {"accel": {"used": "KVM"}}}`:                     "kvm",
		`{"lab": "libvirt", "accelerator": "tcg"}`:                "tcg",
		`{"accelerator_how": "kvm did not boot the probe guest"}`: "",
		`{"accelerator": "none (this computer's kernel)"}`:        "",
		`{"accelerator": 7, "qemu": "tcg"}`:                       "",
		`{"qemu": "tcg"}`:                                         "",
	}
	for text, want := range tests {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, EnvFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		envs, err := readEnvironments(dir)
		if err != nil || len(envs) != 1 || envs[0].Accelerator != want {
			t.Errorf("%s: %+v, %v, want accelerator %q", text, envs, err, want)
		}
	}
}

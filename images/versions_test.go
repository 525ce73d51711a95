package images

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// TestVersionLocks: every lock of one version names one kernel of just that version, whole,
// with the digest of the kernel in it, and none is mistaken for a kernel that is tested.
func TestVersionLocks(t *testing.T) {
	versions := Versions()
	if !slices.Contains(versions, "7.0.13") || !slices.Contains(versions, "7.1.13") {
		t.Errorf("versions are %v, want 7.0.13 and 7.1.13 among them", versions)
	}
	for _, v := range versions {
		l, err := readLock(lockKernelPrefix + v)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(l.Format(), recipeFile(versionLocks+"/"+l.Name+".lock")) {
			t.Errorf("lock %s is not in the form that Format writes", l.Name)
		}
		if slices.Contains(Kernels(), v) || slices.Contains(LockNames(), l.Name) {
			t.Errorf("kernel %s is a version and a series", v)
		}
		if len(l.Want) != 1 || l.Files[kernelFile] == "" {
			t.Errorf("lock %s wants %v and has the digest %q of the kernel", l.Name, l.Want, l.Files[kernelFile])
			continue
		}
		checkKernelPackages(t, v, l)
	}
}

func checkKernelPackages(t *testing.T, version string, l Lock) {
	t.Helper()
	release := strings.TrimPrefix(l.Want[0], imagePrefix)
	var parts []string
	for _, p := range l.Packages {
		if r, ok := kernelRelease(p); ok {
			parts = append(parts, strings.TrimSuffix(p.Name, r))
			if r != release || upstream(p.Version) != version {
				t.Errorf("lock %s has package %s %s", l.Name, p.Name, p.Version)
			}
		}
	}
	if !slices.Equal(parts, []string{imagePrefix}) && !slices.Equal(parts, []string{basePrefix, binaryPrefix, modulesPrefix}) {
		t.Errorf("lock %s has the parts %v of a kernel", l.Name, parts)
	}
}

func TestVersionsAreOrdered(t *testing.T) {
	got := []string{"7.3.4", "6.12.116", "7.3", "5.10.262", "6.12.95", "7.3-rc7", "6.1.192", "7.3-rc10"}
	slices.SortFunc(got, compareVersions)
	if want := []string{"5.10.262", "6.1.192", "6.12.95", "6.12.116", "7.3-rc7", "7.3-rc10", "7.3", "7.3.4"}; !slices.Equal(got, want) {
		t.Errorf("ordered versions are %v, want %v", got, want)
	}
}

func TestUpstreamVersion(t *testing.T) {
	for debian, want := range map[string]string{
		"7.0.13-1~bpo13+1":  "7.0.13",
		"6.12.90-2~bpo12+1": "6.12.90",
		"7.3~rc7-1~exp1":    "7.3-rc7",
		"5.10.262-1":        "5.10.262",
	} {
		if got := upstream(debian); got != want {
			t.Errorf("upstream version of %s is %s, want %s", debian, got, want)
		}
	}
}

// TestVersionIsNotLockedAnew: a version means one package for good, so neither a new lock
// nor another version in its place is a way to go on.
func TestVersionIsNotLockedAnew(t *testing.T) {
	l, err := readLock("kernel-7.0.13")
	if err != nil {
		t.Fatal(err)
	}
	_, err = aptRoot{}.replacement(t.Context(), l.Name, l.Packages[1])
	if err == nil || !strings.Contains(err.Error(), "kernel 7.0.13 is one version") {
		t.Errorf("a package of kernel 7.0.13 is replaced: %v", err)
	}
	err = aptRoot{}.resolveKernel(t.Context(), &Lock{}, "7.0.13")
	if err == nil || !strings.Contains(err.Error(), "kernel 7.0.13 is one version") {
		t.Errorf("kernel 7.0.13 is locked anew: %v", err)
	}
}

// TestNamesForTheNewestAreNoVersions: linux-image-6.12-cloud-amd64 has no kernel in it, and
// experimental's linux-image-7.3-cloud-amd64 has.
func TestNamesForTheNewestAreNoVersions(t *testing.T) {
	const stanzas = `Package: linux-image-6.12-cloud-amd64
Version: 6.12.117-1~deb12u1
Depends: linux-image-6.12.117+deb12-cloud-amd64 (= 6.12.117-1~deb12u1)

Package: linux-image-6.12.117+deb12-cloud-amd64
Version: 6.12.117-1~deb12u1
Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool

Package: linux-image-7.3-cloud-amd64
Version: 7.3~rc7-1~exp1
Depends: linux-base-7.3-cloud-amd64 (= 7.3~rc7-1~exp1), linux-binary-7.3-cloud-amd64 (= 7.3~rc7-1~exp1)
`
	var got []string
	for _, p := range imagePackages(stanzas) {
		got = append(got, upstream(p.Version))
	}
	if want := []string{"6.12.117", "7.3-rc7"}; !slices.Equal(got, want) {
		t.Errorf("versions are %v, want %v", got, want)
	}
}

func TestExperimentalIsInAdditionToUnstable(t *testing.T) {
	m := mirrors{main: "http://m/debian", security: "http://m/debian-security", trust: "signed-by=k"}
	const want = "deb [signed-by=k arch=amd64 check-valid-until=no] http://m/debian experimental main\n" +
		"deb [signed-by=k arch=amd64 check-valid-until=no] http://m/debian sid main\n"
	if got := m.sources("experimental"); got != want {
		t.Errorf("sources are %q, want %q", got, want)
	}
}

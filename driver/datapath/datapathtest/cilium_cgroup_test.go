//go:build cilium

package datapathtest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"hookbed/driver/datapath"
	"hookbed/driver/guest/cgroup"
	"hookbed/driver/plan"
)

// TestCiliumLeavesTheRoot: an agent on this computer attaches its programs of sockets to the cgroup
// that its endpoints are in, and none to the root of the hierarchy.
func TestCiliumLeavesTheRoot(t *testing.T) {
	mounts, err := cgroup.Mounted()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(mounts, func(m cgroup.Mount) bool { return m.Version == 2 })
	if at < 0 {
		t.Fatal("no cgroup hierarchy of version 2 is mounted; mount one")
	}
	top := mounts[at].Dir
	before, old := socketPrograms(t, top), groups(t, top)
	arms := OfCilium(datapath.Catalog())
	plain := slices.IndexFunc(arms, func(a Arm) bool { return a.plain() && a.Scenario == plan.Localhost })
	b := &bench{t: t, rig: Rig{Guest: guestBinary(t), Dir: t.TempDir(), Roots: agentRoots(t), Silence: *silenceFlag}, arm: arms[plain]}
	defer b.end()
	if err := b.begin(); err != nil {
		t.Fatal(err)
	}
	set, err := render(arms[plain].Cell(mainPolicies))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.h.exec(set.Files, set.Apply); err != nil {
		t.Fatal(err)
	}
	if now := socketPrograms(t, top); !maps.Equal(now, before) {
		t.Errorf("at the root are programs %v, and were %v", now, before)
	}
	for _, dir := range groups(t, top) {
		if programs := socketPrograms(t, dir); !slices.Contains(old, dir) && programs[ebpf.AttachCGroupInet4Connect] > 0 {
			t.Logf("%s has %v", dir, programs)
			return
		}
	}
	t.Error("no cgroup of the agent has programs")
}

// groups are those of all helpers.
func groups(t *testing.T, top string) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(top, "hookbed-*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// socketPrograms counts the programs at a cgroup that see sockets.
func socketPrograms(t *testing.T, dir string) map[ebpf.AttachType]int {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := map[ebpf.AttachType]int{}
	for _, at := range []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupInet4PostBind,
		ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupUDP6Recvmsg, ebpf.AttachCgroupInetSockRelease,
	} {
		got, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: at})
		if err != nil {
			t.Fatalf("list the programs of %s: %v", dir, err)
		}
		if len(got.Programs) > 0 {
			n[at] = len(got.Programs)
		}
	}
	return n
}

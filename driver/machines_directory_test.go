package main

import (
	"strings"
	"testing"
)

const directoryExperiment = `schema = 1
name = "directory"
seed = 5
[lab]
provider = "ssh"
directory = "DIRECTORY"
cache = false
[[lab.machine]]
name = "node1"
host = "198.18.101.2"
user = "` + plainUser + `"
key = "login"
known_hosts = "known_hosts"
` + oneShortTrial + `[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [2]
[[arm]]
name = "docker"
datapath = "docker"
`

// onFirst runs a script on the first machine of a fleet.
func (f *fleet) onFirst(script string) string {
	f.t.Helper()
	out, err := f.on(f.machines[0], "sh", "-c", script).CombinedOutput()
	if err != nil {
		f.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// expectRun runs the driver with a directory.
func (f *fleet) expectRun(exit int, want, dir, out string, change ...string) {
	f.t.Helper()
	text := strings.Replace(directoryExperiment, "DIRECTORY", dir, 1)
	f.write("directory.toml", strings.NewReplacer(change...).Replace(text))
	cmd, said := f.driver("run", "directory.toml", "--out", out)
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != exit || !strings.Contains(said.String(), want) {
		f.t.Errorf("%s: exit code %d, want %d and %q:\n%s", dir, got, exit, want, said)
	}
}

// TestMachinesDirectoryInUse: a run never takes into use, and never removes, what
// others have on a machine, whatever it is called.
func TestMachinesDirectoryInUse(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.onFirst(`mkdir -p /var/lib/shared/images /var/lib/shared/run-old && cd /var/lib/shared && echo precious | tee images/photo.png run-old/notes lock data.txt >/dev/null
touch -d '3 hours ago' run-old; ln -s shared /var/lib/link`)
	before := f.snapshots()
	f.expectRun(exitRig, "/var/lib/shared is not empty, and no run of hookbed made it", "/var/lib/shared", "one")
	f.expectRun(exitRig, "/var/lib/link is a symbolic link", "/var/lib/link", "two")
	f.expectRun(exitUsage, `directory.toml:6: lab.directory: "/var/lib/shared/.." is "/var/lib"`, "/var/lib/shared/..", "three")
	cmd, said := f.driver("doctor", "directory.toml")
	_ = cmd.Run()
	if cmd.ProcessState.ExitCode() != exitUsage {
		t.Errorf("doctor: %s", said)
	}
	f.expectAsBefore(before)

	// An empty one that is there stays; nothing stays in it.
	f.onFirst("mkdir /var/lib/empty")
	before = f.snapshots()
	f.expectRun(exitOK, "", "/var/lib/empty", "four")
	f.expectAsBefore(before)

	// With a cache the images stay, and the next run uses them. Files that others
	// put next to them stay when the images go.
	const inodes = `stat -c '%n %i' /var/lib/ours/images/*`
	f.expectRun(exitOK, "", "/var/lib/ours", "five", "cache = false", "cache = true")
	was := f.onFirst(inodes)
	f.expectRun(exitOK, "", "/var/lib/ours", "six", "cache = false", "cache = true")
	if now := f.onFirst(inodes); now != was {
		t.Errorf("images were brought again:\n%s%s", was, now)
	}
	f.onFirst(`cd /var/lib/ours && mkdir run-others && echo precious | tee images/photo.png run-others/notes >/dev/null && touch -d '3 hours ago' run-others`)
	f.expectRun(exitOK, "", "/var/lib/ours", "seven")
	left := f.onFirst(`cd /var/lib/ours && find . -type f | sort`)
	if want := "./.hookbed\n./images/photo.png\n./lock\n./run-others/notes\n"; left != want {
		t.Errorf("left:\n%swant:\n%s", left, want)
	}
}

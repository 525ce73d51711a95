package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// faultyMachines is the experiment of tries on machines that are reached by SSH.
const faultyMachines = `schema = 1
name = "faulty"
[lab]
provider = "ssh"
abandon_after = "15s"
[[lab.machine]]
name = "node1"
host = "198.18.101.2"
key = "login"
known_hosts = "known_hosts"
data = "eth1"
[[lab.machine]]
name = "node2"
host = "198.18.102.2"
key = "login"
known_hosts = "known_hosts"
data = "eth1"
[measure]
blocks = 1
trials = 1
warmup = "0s"
count = { TCP_RR = %d, TCP_CRR = 100 }
[matrix]
scenarios = ["multi-host"]
workloads = ["TCP_RR", "TCP_CRR"]
policies = [10]
[[arm]]
name = "a"
%s
`

// Victims on machines, and faults that are not signals.
const (
	theAgent      = "agent"
	theSupervisor = "agent's supervisor"
	theSession    = "sshd's session"

	cutAWhile    = "link cut for 3 s"
	cutForGood   = "link cut for good"
	diskThere    = "a machine's disk full"
	inodesThere  = "no inode left on a machine"
	hostile      = "hostile replies"
	foreignThere = "files of others on a machine"
)

// phaseSend begins when a machine has the run's directory: the helper's program is sent there.
const phaseSend = "directory made"

// byMachine is the kind of faults of machines that are no signals.
const byMachine = "machine"

// kindOfMachine is the line of the table.
func kindOfMachine(f try) string { return "ssh: " + f.kind() }

// machineFaultOf is the try of a number: the same for the same seed.
func machineFaultOf(seed uint64, number int) try {
	r := rand.New(rand.NewPCG(seed^0x55534948, uint64(number)))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	f := try{Number: number, Scenario: "multi-host", Arm: pick(`filter = "nft-set"`, `datapath = "xdp"`, `datapath = "cilium-like"`), Workloads: counted, Count: 1500, Pick: r.Uint64()}
	f.Phase = pick(phaseBoot, phaseSend, phaseSend, phaseApply, phaseRun, phaseRows, phaseAllRows)
	if r.IntN(10) < 5 {
		f.Kind, f.Fault = bySignal, pick("KILL", "KILL", "TERM", "INT", "HUP", stopAWhile)
		f.Victim = pick(theDriver, theHelper, theAgent, theAgent, theSupervisor, theClient, theServer, theSession)
		switch {
		case f.Victim == theClient || f.Victim == theServer:
			f.Phase = phaseRun
		case f.Victim != theDriver && f.Phase == phaseBoot, f.Victim != theDriver && f.Victim != theSession && f.Phase == phaseSend:
			f.Phase = phaseApply
		}
		if (f.Victim == theHelper || f.Victim == theAgent) && r.IntN(4) == 0 {
			f.Fault, f.Count = stopForAll, 200
		}
	} else {
		f.Kind, f.Fault = byMachine, pick(cutAWhile, cutForGood, diskThere, inodesThere, hostile, hostile, foreignThere)
	}
	f.Delay = time.Duration(1+r.IntN(1500)) * time.Millisecond
	switch {
	case f.Phase == phaseSend:
		f.Delay /= 5
	case f.Victim == theClient || f.Victim == theServer: // which work for moments
		f.Delay /= 10
	}
	return f
}

// TestFaultsOfMachines: as TestFaults, on machines that are there already. A machine whose driver
// is gone puts itself right.
func TestFaultsOfMachines(t *testing.T) {
	t.Parallel()
	var all []logged
	for n := range *faultsMachinesFlag {
		if *faultsOnlyFlag >= 0 && n != *faultsOnlyFlag {
			continue
		}
		f := machineFaultOf(*faultsSeedFlag, n)
		var result tried
		start := time.Now()
		ok := t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Log(f)
			tryMachines(t, f, &result)
		})
		if result.Seconds = time.Since(start).Seconds(); !ok && result.survived() {
			result.Leaked = []string{"see above"}
		}
		all = append(all, logged{Seed: *faultsSeedFlag, Try: f, Result: result})
	}
	table := faultTable(all, kindOfMachine)
	t.Logf("seed %d\n%s", *faultsSeedFlag, table)
	if *faultsTableFlag != "" {
		if err := os.WriteFile(*faultsTableFlag+".ssh", []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// machinesLimit is within what a driver must end after a fault: the limit of a request, of agents
// that put their machine right, and of a second attempt.
const machinesLimit = 8 * time.Minute

// tryMachines makes a try: a run with the fault, what it left, and a run that goes on to the end.
func tryMachines(t *testing.T, f try, result *tried) {
	fl := newFleet(t)
	wrong := func(format string, args ...any) {
		result.Wrong = append(result.Wrong, fmt.Sprintf(format, args...))
		t.Errorf(format, args...)
	}
	fl.write("e.toml", fmt.Sprintf(faultyMachines, f.Count, f.Arm))
	before := fl.snapshots()
	s := insideSpec{Try: f, Dir: fl.dir}
	m := fl.machines[f.Pick%2]
	mend := func() {}
	if f.Fault == hostile {
		mend, result.Met = fl.mangle(m, f), true
	}
	cmd, out := fl.driver("run", "e.toml", "--out", "run")
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := driven{cmd, out, make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(d.ended)
	}()
	if f.Fault != hostile && fl.await(s, d, m) {
		time.Sleep(f.Delay)
		mend = fl.strike(f, d, m, result)
	}
	struck := time.Now()
	o := d.end(result, struck, machinesLimit)
	o.killed, o.refuses = f.Victim == theDriver && (f.Fault == "KILL" || f.Phase == phaseBoot && o.out == ""), f.Fault == hostile
	s.checkEnd(result, o)
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && usage.Maxrss > 1<<20 {
		wrong("the driver took %d MiB", usage.Maxrss>>10)
	}
	if strings.ContainsAny(o.out, "\x1b\x07") {
		wrong("control characters reached the terminal: %q", o.out)
	}
	mend()
	fl.expectAsBefore(before)
	fl.goOn(s, result)
	fl.expectAsBefore(before)
	s.checkRows(result)
	if !result.survived() {
		t.Errorf("lost %q, doubled %q, leaked %q, wrong %q; it said:\n%s", result.Lost, result.Doubled, result.Leaked, result.Wrong, o.out)
	}
}

// goOn continues the run to its end.
func (f *fleet) goOn(s insideSpec, result *tried) {
	f.t.Helper()
	for result.Resumes = 1; ; result.Resumes++ {
		cmd, out := f.driver(s.again()...)
		timer := time.AfterFunc(machinesLimit, func() { _ = cmd.Process.Kill() })
		_ = cmd.Run()
		switch code := cmd.ProcessState.ExitCode(); {
		case !timer.Stop():
			result.Wrong = append(result.Wrong, "the resumed run does not end: "+out.String())
			return
		case code == exitOK:
			return
		case result.Resumes == 3:
			result.Lost = append(result.Lost, fmt.Sprintf("the run is not whole after %d resumes: exit code %d: %s", result.Resumes, code, out))
			return
		}
	}
}

// await waits until the phase has begun; false if the driver has ended before.
func (f *fleet) await(s insideSpec, d driven, m *fleetMachine) bool {
	for {
		began := true
		switch s.Try.Phase {
		case phaseSend:
			made, _ := filepath.Glob(fmt.Sprintf("/proc/%d/root/var/lib/hookbed/run-*", m.pid))
			began = len(made) > 0
		case phaseApply:
			began = f.find(m, theHelper) > 0
		case phaseRun:
			began = f.find(f.machines[0], theClient)+f.find(f.machines[1], theClient) > 0
		case phaseRows, phaseAllRows:
			data, _ := os.ReadFile(filepath.Join(s.Dir, "run", "rows.csv"))
			began = bytes.Count(data, []byte(",trial_rows,")) >= map[string]int{phaseRows: 1, phaseAllRows: 2}[s.Try.Phase]
		}
		if began {
			return true
		}
		select {
		case <-d.ended:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// find is a process of a machine by its part, as this process numbers it; 0 if there is none.
func (f *fleet) find(m *fleetMachine, part string) int {
	if m.pid == 0 {
		return 0
	}
	for _, pid := range append([]int{m.pid}, below(m.pid)...) {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		argv := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		switch {
		case part == theSession && strings.HasPrefix(argv[0], "sshd") && !strings.Contains(argv[0], "listener"),
			part == theAgent && slices.Contains(argv, "agent") && strings.Contains(argv[0], "exe"),
			part == theSupervisor && slices.Contains(argv, "agent") && filepath.Base(argv[0]) == "guest",
			partOf(argv) == part && part != theSession:
			return pid
		}
	}
	return 0
}

// below are the processes below one.
func below(pid int) (out []int) {
	for _, child := range childrenOf(pid) {
		out = append(append(out, child), below(child)...)
	}
	return out
}

// strike makes the fault, and returns what mends it.
func (f *fleet) strike(at try, d driven, m *fleetMachine, result *tried) (mend func()) {
	f.t.Helper()
	nothing := func() {}
	if at.Kind == bySignal {
		pid := d.cmd.Process.Pid
		if at.Victim != theDriver {
			if pid = f.find(m, at.Victim); pid == 0 {
				pid = f.find(f.machines[(at.Pick+1)%2], at.Victim)
			}
		}
		if pid == 0 {
			return nothing
		}
		result.Met = true
		insideSpec{Try: at}.strike(pid, d.cmd.Process.Pid)
		return nothing
	}
	result.Met = true
	switch at.Fault {
	case cutAWhile, cutForGood:
		f.cut()
		if at.Fault == cutAWhile {
			time.Sleep(3 * time.Second)
			f.heal()
			return nothing
		}
		return f.heal
	case diskThere, inodesThere:
		f.fill(m, at)
		return func() { f.must(m, "mount -o remount,size=1g,nr_inodes=1000000 /var/lib") }
	case foreignThere:
		theirs := f.on(m, "mkdir", "/var/lib/hookbed").Run() == nil // before the run could
		f.must(m, "mkdir -p /var/lib/hookbed/theirs /var/lib/hookbed/images && cd /var/lib/hookbed && echo precious | tee theirs/notes notes images/notes >/dev/null")
		return func() {
			f.must(m, `cd /var/lib/hookbed && for n in theirs/notes notes images/notes; do [ "$(cat $n)" = precious ] || exit 1; rm $n; done; rmdir theirs; rmdir images 2>/dev/null
case $(ls -A | tr '\n' ' ') in ".hookbed " | ".hookbed lock ") rm -r ../hookbed;; esac # they kept it from being removed`)
			if theirs {
				_ = f.on(m, "rmdir", "/var/lib/hookbed").Run() // it may be used
			}
		}
	}
	return nothing
}

// must runs a script on a machine.
func (f *fleet) must(m *fleetMachine, script string) {
	f.t.Helper()
	if out, err := f.on(m, "sh", "-c", script).CombinedOutput(); err != nil {
		f.t.Errorf("%s: %v: %s", script, err, out)
	}
}

// cut drops all packets between the hub and the machines; heal lets them pass.
func (f *fleet) cut() {
	f.t.Helper()
	for _, chain := range []string{"INPUT", "OUTPUT"} {
		f.hubMust("iptables-nft", "-A", chain, "-j", "DROP")
	}
}

func (f *fleet) heal() {
	f.t.Helper()
	f.hubMust("iptables-nft", "-F")
}

func (f *fleet) hubMust(argv ...string) {
	f.t.Helper()
	if out, err := f.in(f.hub, argv...).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

// fill leaves the disk of a machine up to 1 MiB, or 50 inodes.
func (f *fleet) fill(m *fleetMachine, at try) {
	f.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(fmt.Sprintf("/proc/%d/root/var/lib", m.pid), &st); err != nil {
		f.t.Fatal(err)
	}
	option := fmt.Sprintf("size=%dk", (st.Blocks-st.Bfree)*uint64(st.Bsize)/1024+4*(at.Pick/2%256)+4)
	if at.Fault == inodesThere {
		option = "nr_inodes=" + strconv.FormatUint(st.Files-st.Ffree+at.Pick/2%51, 10)
	}
	// What was used meanwhile may be more: then the next look leaves less room than there is.
	if out, err := f.on(m, "mount", "-o", "remount,"+option, "/var/lib").CombinedOutput(); err != nil {
		f.t.Logf("%s: %v: %s", option, err, out)
	}
}

// mangles are what a hostile machine makes of the agent's replies, as scripts of sed(1) for a line.
func mangles() []string {
	return []string{
		`s/.*/garbage/`,
		`s/^\(.\{20\}\).*/\1/`, // cut short
		`s/{/{"results":[],/`,  // no result, or a key twice
		`s/{/{"error":"\\u001b[31m\\u0007no","fault":"subject",/`, // control characters
		`s/{/{"error":"no","fault":"unheard of",/`,
		`s/{/{"mark":99999999999999999999,/`,
		`s/"seconds":[0-9.e+-]*/"seconds":-1e308/g`,
		`s/\("raw":{\)/\1"..\/..\/..\/escaped":"x",/`, // a file outside
		`s/.*/&\n&/`,         // an answer too many
		`: a; s/.*/&&/; t a`, // without end
	}
}

// mangle has a machine's sshd pass each reply of the agent's from some line on through sed.
func (f *fleet) mangle(m *fleetMachine, at try) (mend func()) {
	f.t.Helper()
	from, script := 1+at.Pick/2%12, mangles()[at.Pick/32%uint64(len(mangles()))]
	f.t.Logf("from line %d of node%d: %s", from, at.Pick%2+1, script)
	f.write("mangle.sed", fmt.Sprintf("%d,1000000 {\n%s\n}\n", from, script)) // to know the last line, sed would hold each back
	f.write("mangle.sh", `case "$SSH_ORIGINAL_COMMAND" in
*sftp*) exec /usr/lib/openssh/sftp-server ;;
*" 'agent' "*|*" agent "*) sh -c "$SSH_ORIGINAL_COMMAND" | { ulimit -v 200000; sed -u -f /mnt/mangle.sed; } ;;
*) exec sh -c "$SSH_ORIGINAL_COMMAND" ;;
esac
`)
	f.mode("mangle.sed", 0o644)
	f.mode("mangle.sh", 0o644)
	config := f.path(m.name + ".sshd_config")
	data, err := os.ReadFile(config)
	if err != nil {
		f.t.Fatal(err)
	}
	configure := func(text string) {
		f.write(m.name+".sshd_config", text)
		f.restartSSH(m)
	}
	configure(string(data) + "ForceCommand sh /mnt/mangle.sh\n")
	return func() { configure(string(data)) }
}

// restartSSH has a machine's sshd read its configuration again.
func (f *fleet) restartSSH(m *fleetMachine) {
	f.t.Helper()
	for _, pid := range below(m.pid) {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(data), "listener") {
			_ = unix.Kill(pid, unix.SIGHUP)
		}
	}
	eventually(f.t, m.name+" listens again", func() error {
		out, err := f.on(m, "ss", "-Hltn", "sport", "=", ":22").CombinedOutput()
		if err == nil && len(out) == 0 {
			err = errors.New("not yet")
		}
		return err
	})
}

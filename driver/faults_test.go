package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The fault suite (docs/faults.md): in each try a run on this computer meets one fault, chosen by
// the seed, in namespaces of its own, and is continued to its end.
var (
	faultsFlag      = flag.Int("faults", 30, "tries of the fault suite; from 100 on with those that wait for a limit")
	faultsSeedFlag  = flag.Uint64("faults.seed", 1, "seed of the fault suite")
	faultsOnlyFlag  = flag.Int("faults.only", -1, "number of the only try of the fault suite")
	faultsTableFlag = flag.String("faults.table", "", "file to write the table of the fault suite to")
)

const faultyExperiment = `schema = 1
name = "faulty"
[lab]
provider = "local"
[measure]
blocks = 1
trials = 1
duration = "1s"
warmup = "0s"
[matrix]
scenarios = [%q]
workloads = ["TCP_RR", "TCP_STREAM"]
policies = [10]
[[arm]]
name = "a"
%s
`

// faultyArms make rules, whose memory is weighed in a control group, BPF objects, and none.
func faultyArms() []string {
	return []string{`filter = "iptables-legacy"`, `filter = "nft-set"`, `filter = "tc-hash"`, `datapath = "xdp"`, `filter = "none"`}
}

// try is one fault: who gets which signal, and when.
type try struct {
	Number   int
	Scenario string
	Arm      string
	Victim   string
	Signal   string
	Phase    string
	Delay    time.Duration // after the phase has begun
}

func (f try) String() string {
	return fmt.Sprintf("try %d: %s to the %s, %s after %q, %s, %s", f.Number, f.Signal, f.Victim, f.Delay, f.Phase, f.Scenario, f.Arm)
}

// kind is its line of the table.
func (f try) kind() string { return f.Signal + " to the " + f.Victim }

// Victims.
const (
	theDriver = "driver"
	theHelper = "helper"
	theReaper = "reaper" // the first process of the PID namespace of programs
	theClient = "client"
	theServer = "server"
)

// Phases, by what begins them.
const (
	phaseBoot    = "driver started"
	phaseApply   = "helper started"
	phaseRun     = "client started"
	phaseRows    = "first rows"
	phaseAllRows = "last rows"
)

// Signals. The first are sent, the last ones are sequences.
const (
	stopAWhile = "STOP, CONT"
	stopForAll = "STOP for good"
	stopTerm   = "STOP for good, TERM to the driver"
	twice      = "TERM twice"
)

func sent() map[string]syscall.Signal {
	return map[string]syscall.Signal{"KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP}
}

// faultOf is the try of a number: the same for the same seed.
func faultOf(seed uint64, number int, long bool) try {
	r := rand.New(rand.NewPCG(seed, uint64(number)))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	f := try{Number: number, Scenario: pick("localhost", "localhost", "multi-host"), Arm: pick(faultyArms()...),
		Victim: pick(theDriver, theDriver, theHelper, theHelper, theReaper, theClient, theServer)}
	f.Signal = pick("KILL", "KILL", "TERM", "INT", "HUP", stopAWhile)
	switch f.Victim {
	case theDriver:
		f.Phase = pick(phaseBoot, phaseApply, phaseRun, phaseRows, phaseAllRows)
		if r.IntN(8) == 0 {
			f.Signal = twice
		}
	case theHelper:
		f.Phase = pick(phaseApply, phaseApply, phaseRun, phaseRows, phaseAllRows)
		if r.IntN(10) == 0 {
			f.Signal = stopTerm
		}
		if long && r.IntN(10) == 0 {
			f.Signal = stopForAll
		}
	case theReaper:
		f.Phase, f.Signal = phaseRun, pick("KILL", "KILL", stopAWhile)
	default:
		f.Phase = phaseRun
		if long && r.IntN(6) == 0 {
			f.Signal = stopForAll
		}
	}
	most := map[string]int64{phaseBoot: 400, phaseApply: 900, phaseRun: 900, phaseRows: 60, phaseAllRows: 60}[f.Phase]
	f.Delay = time.Duration(r.Int64N(most)) * time.Millisecond
	return f
}

// tried is what became of a try.
type tried struct {
	Lost, Doubled, Leaked, Wrong []string
	Met                          bool // the victim was there
	Resumes                      int
	Seconds                      float64
}

func (r tried) survived() bool { return len(r.Lost)+len(r.Doubled)+len(r.Leaked)+len(r.Wrong) == 0 }

// TestFaults: no fault loses or doubles a trial, leaves anything behind, ends in an exit code that is
// not documented, or in nothing at all.
func TestFaults(t *testing.T) {
	if spec := os.Getenv(insideEnv); spec != "" {
		os.Exit(insideFaults(spec))
	}
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes namespaces: run it as root")
	}
	removeLeftGroups()
	all, done := make([]try, 0, *faultsFlag), make([]tried, *faultsFlag)
	var lines sync.Mutex
	slots := make(chan struct{}, 4)
	t.Run("tries", func(t *testing.T) {
		for n := range *faultsFlag {
			f := faultOf(*faultsSeedFlag, n, *faultsFlag >= 100)
			all = append(all, f)
			if *faultsOnlyFlag >= 0 && n != *faultsOnlyFlag {
				continue
			}
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				result, said := tryFault(t, f)
				lines.Lock()
				defer lines.Unlock()
				done[n] = result
				if !result.survived() {
					t.Errorf("seed %d, %s: lost %q, doubled %q, leaked %q, wrong %q\n%s", *faultsSeedFlag, f, result.Lost, result.Doubled, result.Leaked, result.Wrong, said)
				}
			})
		}
	})
	table := faultTable(all, done)
	t.Logf("seed %d\n%s", *faultsSeedFlag, table)
	if *faultsTableFlag != "" {
		if err := os.WriteFile(*faultsTableFlag, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// faultTable counts what became of the tries, by the kind of fault.
func faultTable(all []try, done []tried) string {
	type count struct{ tries, met, survived, lost, doubled, leaked, wrong int }
	kinds, total := map[string]*count{}, &count{}
	some := func(list []string) int { return min(len(list), 1) }
	for i, f := range all {
		if kinds[f.kind()] == nil {
			kinds[f.kind()] = &count{}
		}
		for _, c := range []*count{kinds[f.kind()], total} {
			c.tries++
			if done[i].Met {
				c.met++
			}
			if done[i].survived() {
				c.survived++
			}
			c.lost, c.doubled = c.lost+some(done[i].Lost), c.doubled+some(done[i].Doubled)
			c.leaked, c.wrong = c.leaked+some(done[i].Leaked), c.wrong+some(done[i].Wrong)
		}
	}
	var out strings.Builder
	out.WriteString("| fault | tries | met | survived | lost | doubled | leaked | wrong |\n|---|---|---|---|---|---|---|---|\n")
	line := func(kind string, c *count) {
		fmt.Fprintf(&out, "| %s | %d | %d | %d | %d | %d | %d | %d |\n", kind, c.tries, c.met, c.survived, c.lost, c.doubled, c.leaked, c.wrong)
	}
	var names []string
	for kind := range kinds {
		names = append(names, kind)
	}
	slices.Sort(names)
	for _, kind := range names {
		line(kind, kinds[kind])
	}
	line("all", total)
	return out.String()
}

// tryLimit bounds a whole try, with its resumes.
const tryLimit = 15 * time.Minute

// tryFault makes a try in PID, mount, network and control group namespaces of its own, and returns
// what was said in it.
func tryFault(t *testing.T, f try) (tried, string) {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"tmp", "state"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "e.toml"), fmt.Appendf(nil, faultyExperiment, f.Scenario, f.Arm), 0o600); err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(insideSpec{Try: f, Dir: dir, Driver: filepath.Join(binaries, "driver"), Cgroups: ownCgroups(t)})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFaults$")
	cmd.Env = append(os.Environ(), insideEnv+"="+string(spec), binariesEnv+"="+binaries, "TMPDIR="+filepath.Join(dir, "tmp"), "XDG_STATE_HOME="+filepath.Join(dir, "state"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(tryLimit, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	var result tried
	data, readErr := os.ReadFile(filepath.Join(dir, "result.json"))
	if readErr == nil {
		readErr = json.Unmarshal(data, &result)
	}
	if !limit.Stop() || err != nil || readErr != nil {
		result.Wrong = append(result.Wrong, fmt.Sprintf("the try itself ended by %v, %v after %s", err, readErr, time.Since(start)))
	}
	result.Seconds = time.Since(start).Seconds()
	return result, said.String()
}

// faultGroups begins the names of the tries' control groups, each of which its maker has locked.
const faultGroups = "hookbed-faults-"

// groupTops is where hierarchies of control groups are mounted that hookbed uses.
func groupTops() []string {
	return []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"}
}

// removeLeftGroups removes the control groups of tests that were killed: nothing locks them, and
// they are older than a lock takes.
func removeLeftGroups() {
	for _, top := range groupTops() {
		dirs, _ := filepath.Glob(filepath.Join(top, faultGroups+"*"))
		for _, dir := range dirs {
			f, err := os.Open(dir)
			if err != nil {
				continue
			}
			st, err := f.Stat()
			if err == nil && time.Since(st.ModTime()) > time.Minute && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				inner, _ := filepath.Glob(filepath.Join(dir, "hookbed-*"))
				for _, g := range append(inner, dir) {
					_ = os.Remove(g)
				}
			}
			_ = f.Close()
		}
	}
}

// ownCgroups makes a control group in each hierarchy that hookbed uses, for the processes of one try:
// what is left there is theirs.
func ownCgroups(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, top := range groupTops() {
		if _, err := os.Stat(filepath.Join(top, "cgroup.procs")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(top, faultGroups)
		if err != nil {
			t.Fatal(err)
		}
		lock, err := os.Open(dir)
		if err == nil {
			err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			t.Fatal(err)
		}
		out[top] = dir
		t.Cleanup(func() {
			defer lock.Close()
			for limit := time.Now().Add(10 * time.Second); os.Remove(dir) != nil && time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
				inner, _ := filepath.Glob(filepath.Join(dir, "hookbed-*")) // the test has failed for it
				for _, g := range inner {
					_ = os.Remove(g)
				}
			}
		})
	}
	return out
}

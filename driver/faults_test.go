package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The fault suite (docs/faults.md): in each try a run on this computer meets one fault, chosen by
// the seed, in namespaces of its own, and is continued to its end.
var (
	faultsFlag         = flag.Int("faults", 30, "tries of the fault suite; from 100 on with those that wait for a limit")
	faultsSeedFlag     = flag.Uint64("faults.seed", 1, "seed of the fault suite")
	faultsOnlyFlag     = flag.Int("faults.only", -1, "number of the only try of the fault suite")
	faultsTogetherFlag = flag.Int("faults.together", 4, "tries of the fault suite at the same time")
	faultsMachinesFlag = flag.Int("faults.machines", 1, "tries of the fault suite on machines that are reached by SSH")
	faultsTableFlag    = flag.String("faults.table", "", "file to write the table of the fault suite to")
	faultsLogFlag      = flag.String("faults.log", "", "file of the results of the fault suite, a line each: tries that it has are not made again")
)

// faultyExperiment is short: what it measures takes moments, and that it does is what matters.
const faultyExperiment = `schema = 1
name = "faulty"
[lab]
provider = "local"
[measure]
blocks = 1
trials = 1
warmup = "0s"
duration = "1s"
%s
[matrix]
scenarios = [%q]
workloads = [%s]
policies = [10]
[[arm]]
name = "a"
%s
`

// faultyArms make rules, whose memory is weighed in a control group, BPF objects, and none.
func faultyArms() []string {
	return []string{`filter = "iptables-legacy"`, `filter = "nft-set"`, `filter = "tc-hash"`, `datapath = "xdp"`, `filter = "none"`}
}

// Workloads of two trials, and how much of them is measured.
const (
	counted = `"TCP_RR", "TCP_CRR"`
	timed   = `"TCP_RR", "TCP_STREAM"`
)

// try is one fault: what happens to whom, and when.
type try struct {
	Number    int
	Scenario  string
	Arm       string
	Workloads string
	Count     int    // transactions
	Kind      string // how the fault is made
	Fault     string // what it is: a signal, or in words
	Victim    string // of a signal
	Phase     string
	Delay     time.Duration // after the phase has begun
	Pick      uint64        // which byte, field or file it is, and how much room
}

func (f try) String() string {
	return fmt.Sprintf("try %d: %s, %s after %q, pick %d, %s, %s, %s", f.Number, f.kind(), f.Delay, f.Phase, f.Pick, f.Scenario, f.Arm, f.Workloads)
}

// kind is its line of the table.
func (f try) kind() string {
	if f.Kind == bySignal {
		return f.Fault + " to the " + f.Victim
	}
	return f.Fault
}

// cell names what is measured: tries of one cell differ in the fault only.
func (f try) cell() string { return fmt.Sprint(f.Scenario, " ", f.Arm, " ", f.Workloads, " ", f.Count) }

func (f try) experiment() []byte {
	count := fmt.Sprintf("count = { TCP_RR = %d }", f.Count)
	if f.Workloads == counted {
		count = fmt.Sprintf("count = { TCP_RR = %d, TCP_CRR = %d }", f.Count, max(f.Count/10, 20))
	}
	return fmt.Appendf(nil, faultyExperiment, count, f.Scenario, f.Workloads, f.Arm)
}

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

// Kinds of faults.
const (
	bySignal  = "signal"
	byDisk    = "disk"
	byDamage  = "damage" // of a run that was ended, before it is resumed
	byForeign = "foreign"
)

// Faults that are not signals.
const (
	diskFull       = "disk full"
	inodesFull     = "no inode left"
	quotaFull      = "quota full"
	diskReadOnly   = "disk read-only"
	rowsCut        = "rows.csv cut"
	runByte        = "a byte of rows.csv, plan.json or env.json"
	planField      = "a field of plan.json"
	cacheByte      = "a byte of the cache"
	foreignFiles   = "files of others, driver killed"
	foreignRunning = "files of others"
)

func sent() map[string]syscall.Signal {
	return map[string]syscall.Signal{"KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP}
}

// faultOf is the try of a number: the same for the same seed.
func faultOf(seed uint64, number int, long bool) try {
	r := rand.New(rand.NewPCG(seed, uint64(number)))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	f := try{Number: number, Scenario: pick("localhost", "localhost", "multi-host"), Arm: pick(faultyArms()...),
		Workloads: pick(counted, counted, counted, timed), Count: 1500, Pick: r.Uint64()}
	switch n := r.IntN(100); {
	case n < 70:
		f.signal(pick, r.IntN, long)
	case n < 78:
		f.Kind, f.Fault = byDisk, pick(diskFull, diskFull, diskFull, inodesFull, inodesFull, diskReadOnly)
		f.Phase = pick(phaseBoot, phaseApply, phaseRun, phaseRows)
		if long && f.Fault == diskFull && f.Pick%3 == 0 {
			f.Fault = quotaFull
		}
	case n < 94:
		f.Kind, f.Fault = byDamage, pick(rowsCut, rowsCut, rowsCut, runByte, runByte, planField, cacheByte)
		f.Phase = pick(phaseRun, phaseRows, phaseAllRows)
	default:
		f.Kind, f.Fault, f.Phase = byForeign, pick(foreignFiles, foreignRunning), pick(phaseApply, phaseRun, phaseRows)
	}
	// Short and long delays are as frequent.
	most := map[string]float64{phaseBoot: 1000, phaseApply: 2000, phaseRun: 1000, phaseRows: 1000, phaseAllRows: 200}[f.Phase]
	f.Delay = time.Duration(math.Pow(most, r.Float64()) * float64(time.Millisecond))
	return f
}

// signal chooses a signal, and who gets it in which phase.
func (f *try) signal(pick func(...string) string, below func(int) int, long bool) {
	f.Kind, f.Victim = bySignal, pick(theDriver, theDriver, theHelper, theHelper, theReaper, theClient, theServer)
	f.Fault = pick("KILL", "KILL", "TERM", "INT", "HUP", stopAWhile)
	switch f.Victim {
	case theDriver:
		f.Phase = pick(phaseBoot, phaseApply, phaseRun, phaseRows, phaseAllRows)
		if below(8) == 0 {
			f.Fault = twice
		}
	case theHelper:
		f.Phase = pick(phaseApply, phaseApply, phaseRun, phaseRows, phaseAllRows)
		if below(10) == 0 {
			f.Fault = stopTerm
		}
		if long && below(10) == 0 {
			f.Fault = stopForAll
		}
	case theReaper:
		f.Phase, f.Fault = phaseRun, pick("KILL", "KILL", stopAWhile)
		if long && below(6) == 0 {
			f.Fault = stopForAll
		}
	default:
		f.Phase = phaseRun
		if long && below(6) == 0 {
			f.Fault, f.Count = stopForAll, 200 // whose limit is 40 s
		}
	}
}

// tried is what became of a try.
type tried struct {
	Lost, Doubled, Leaked, Wrong []string
	Met                          bool // the victim was there
	Resumes                      int
	Seconds                      float64
	Ending                       float64            // seconds from the fault to the driver's end
	Numbers                      map[string]float64 // of the trials, by workload and metric
}

func (r tried) survived() bool { return len(r.Lost)+len(r.Doubled)+len(r.Leaked)+len(r.Wrong) == 0 }

// logged is a line of the log.
type logged struct {
	Seed   uint64
	Try    try
	Result tried
	Said   string `json:",omitempty"` // of a try that was not survived
}

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
	done := readFaultLog(t)
	var mu sync.Mutex // of done
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range max(*faultsTogetherFlag, 1) {
		workers.Go(func() {
			for n := range numbers {
				t.Run(fmt.Sprint(n), func(t *testing.T) {
					f := faultOf(*faultsSeedFlag, n, *faultsFlag >= 100)
					result, said := tryFault(t, f)
					if result.survived() {
						said = ""
					}
					mu.Lock()
					defer mu.Unlock()
					done[n] = logged{*faultsSeedFlag, f, result, said}
					appendFaultLog(t, done[n])
				})
			}
		})
	}
	for n := range *faultsFlag {
		if _, has := done[n]; !has && (*faultsOnlyFlag < 0 || n == *faultsOnlyFlag) {
			numbers <- n
		}
	}
	close(numbers)
	workers.Wait()
	judgeFaults(t, slices.SortedFunc(maps.Values(done), func(a, b logged) int { return a.Try.Number - b.Try.Number }))
}

// tryLimit bounds a whole try, with its resumes.
const tryLimit = 15 * time.Minute

// tryFault makes a try in PID, mount, network and control group namespaces of its own, and returns
// what was said in it.
func tryFault(t *testing.T, f try) (tried, string) {
	t.Helper()
	dir := t.TempDir()
	spec, err := json.Marshal(insideSpec{Try: f, Dir: filepath.Join(dir, workDir), Others: os.TempDir(), Result: filepath.Join(dir, "result.json"), Driver: filepath.Join(binaries, "driver"), Cgroups: ownCgroups(t)})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFaults$")
	cmd.Env = append(os.Environ(), insideEnv+"="+string(spec), binariesEnv+"="+binaries, "TMPDIR="+filepath.Join(dir, workDir, "tmp"), "XDG_STATE_HOME="+filepath.Join(dir, workDir, "state"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	runtime.LockOSThread() // the try dies with the thread that starts it
	defer runtime.UnlockOSThread()
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
			for limit := time.Now().Add(time.Minute); os.Remove(dir) != nil && time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
				inner, _ := filepath.Glob(filepath.Join(dir, "hookbed-*")) // the test has failed for it
				for _, g := range inner {
					_ = os.Remove(g)
				}
			}
		})
	}
	return out
}

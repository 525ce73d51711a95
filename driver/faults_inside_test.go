package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/analysis/record"
	"hookbed/driver/plan"
)

// insideEnv tells this test binary, started anew as the first process of namespaces, which try to
// make.
const insideEnv = "HOOKBED_TEST_FAULT"

// insideSpec is a try with all that it needs.
type insideSpec struct {
	Try     try
	Dir     string // a file system of its own, with e.toml
	Others  string // the directory in which other tests have theirs
	Result  string // file
	Driver  string
	Cgroups map[string]string // the try's own, by mount
}

// workDir is the directory of a try in which the driver has everything, but for images.
const workDir = "work"

// faultEndLimit is within what a driver must end after a fault: the limit of a request and those of two
// teardowns, at the most.
const faultEndLimit = 8 * time.Minute

// stopTermLimit is within what a driver must end that got SIGTERM while its helper is stopped.
const stopTermLimit = 90 * time.Second

// leftLimit is how long processes may take to end after the driver.
const leftLimit = 30 * time.Second

// furnishedEnv is set in the second stage: a control group namespace is a thread's, so the program is
// started anew in it.
const furnishedEnv = "HOOKBED_TEST_FAULT_FURNISHED"

// insideFaults makes a try and writes what became of it.
func insideFaults(spec string) int {
	var s insideSpec
	err := json.Unmarshal([]byte(spec), &s)
	if err == nil && os.Getenv(furnishedEnv) == "" {
		err = s.enterCgroups()
	}
	if err == nil {
		err = s.furnish()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	data, err := json.Marshal(s.make())
	if err == nil {
		err = os.WriteFile(s.Result, data, 0o600)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// enterCgroups moves this process into control groups of its own, makes them the top of what it sees,
// and starts the program anew. It returns only if that fails.
func (s insideSpec) enterCgroups() error {
	runtime.LockOSThread()
	for _, dir := range s.Cgroups {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), furnishedEnv+"=1"))
}

// furnish gives the namespaces what a computer has: links, routes and rules that are not the lab's,
// and control groups that only this try uses.
func (s insideSpec) furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := s.leaveOthersMounts(); err != nil {
		return err
	}
	for top := range s.Cgroups {
		kind, data := "cgroup2", ""
		if filepath.Base(top) == "memory" {
			kind, data = "cgroup", "memory"
		}
		if err := errors.Join(unix.Unmount(top, unix.MNT_DETACH), unix.Mount("cgroup", top, kind, 0, data)); err != nil {
			return fmt.Errorf("mount %s: %w", top, err)
		}
	}
	if err := errors.Join(unix.Mount("proc", "/proc", "proc", 0, ""), unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, ""), s.furnishDir()); err != nil {
		return err
	}
	script := `set -e
ip link set lo up; ip link add other0 type veth peer name other1; ip link set other0 addrgenmode none; ip link set other1 addrgenmode none; ip link set other1 up; ip addr add 198.18.77.1/24 dev other0; ip link set other0 up
ip route add 198.18.78.0/24 via 198.18.77.9; ip rule add from 198.18.77.1 lookup 77
nft add table ip other; nft add chain ip other input '{ type filter hook input priority 0; }'; nft add rule ip other input tcp dport 99 drop`
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return s.settle()
}

// settle waits until the kernel has noticed that both ends of a link are up: on a busy computer that
// takes a while, and would look like a change.
func (s insideSpec) settle() error {
	const settled = `[ $(ip -br link show up type veth | grep -c ' UP ') = 2 ] && [ $(ip -6 route show table local | grep -c '^multicast ff00::/8 dev other') = 2 ]`
	for limit := time.Now().Add(time.Minute); exec.Command("sh", "-c", settled).Run() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			return errors.New("the links do not come up")
		}
	}
	return nil
}

// furnishDir makes the directory of the try a disk of its own.
func (s insideSpec) furnishDir() error {
	err := os.Mkdir(s.Dir, 0o700)
	switch {
	case err != nil:
	case s.Try.Fault == quotaFull:
		err = s.mountWithQuota()
	default:
		err = unix.Mount("tmpfs", s.Dir, "tmpfs", 0, "mode=0700,"+diskWithRoom)
	}
	for _, dir := range []string{"tmp", "state", "others"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(s.Dir, dir), 0o700))
	}
	return errors.Join(err, os.WriteFile(filepath.Join(s.Dir, "e.toml"), s.Try.experiment(), 0o600))
}

// leaveOthersMounts takes away what other tests have mounted on their directories: when they
// remove those, the mounts go away here, too.
func (s insideSpec) leaveOthersMounts() error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasPrefix(f[4], s.Others+"/") || strings.HasPrefix(s.Dir+"/", f[4]+"/") {
			continue
		}
		if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", f[4], err)
		}
	}
	return nil
}

// surroundings are what a run must leave as it was, by name.
func (s insideSpec) surroundings() map[string]string {
	out := map[string]string{}
	for name, command := range map[string]string{
		"links": "ip -d link", "addresses": "ip addr", "routes": "ip route show table all; ip -6 route show table all", "rules": "ip rule; ip -6 rule",
		"nft": "nft list ruleset", "iptables": "for v in iptables ip6tables; do $v-legacy-save; done 2>/dev/null | sed -e '/^#/d' -e 's/ .[0-9]*:[0-9]*.$//'", "qdiscs": "tc qdisc; tc filter show dev other0", "mounts": "cat /proc/self/mountinfo", "pins": "find /sys/fs/bpf",
		"namespaces": "ls /run/netns 2>/dev/null", "sysctls": "cd /proc/sys/net && find . -type f -perm -400 ! -name stable_secret -exec grep -H . {} + 2>/dev/null",
	} {
		text, _ := exec.Command("sh", "-c", command).Output()
		out[name] = string(text)
	}
	return out
}

// make makes the try: a run with the fault, what it left, and resumes up to the end.
func (s insideSpec) make() (result tried) {
	before := s.surroundings()
	s.fault(&result)
	// What the kernel takes away after a process has ended may come a moment later.
	s.checkLeft(&result, before)
	for result.Resumes = 1; ; result.Resumes++ {
		code, out, ended := s.driver(faultEndLimit, s.again()...)
		if !ended {
			result.Wrong = append(result.Wrong, "the resumed run does not end: "+out)
			return result
		}
		if code == exitOK {
			break
		}
		if result.Resumes == 3 {
			result.Lost = append(result.Lost, fmt.Sprintf("the run is not whole after %d resumes: exit code %d: %s", result.Resumes, code, out))
			return result
		}
	}
	s.checkLeft(&result, before)
	s.checkFiles(&result)
	s.checkOthers(&result)
	s.checkRows(&result)
	return result
}

// fault makes the fault, and looks at how the driver ended.
func (s insideSpec) fault(result *tried) {
	switch s.Try.Kind {
	case bySignal:
		s.checkEnd(result, s.faulted(result))
	case byDisk:
		s.onDisk(result)
	case byDamage:
		s.damaged(result)
	case byForeign:
		s.amongOthers(result)
	}
}

// again is the command that continues the run, or begins it if there is none.
func (s insideSpec) again() []string {
	if _, err := os.Stat(filepath.Join(s.Dir, "run", "plan.json")); err != nil {
		return []string{"run", "e.toml", "--out", "run"}
	}
	return []string{"run", "--resume", "run"}
}

// outcomeOfFault is how the driver ended that met the fault.
type outcomeOfFault struct {
	code    int // -1: by a signal
	out     string
	ended   bool
	killed  bool // by the fault
	refuses bool // it may also say that what it was given is wrong
}

// driven is a driver at work.
type driven struct {
	cmd   *exec.Cmd
	out   *bytes.Buffer
	ended chan struct{}
}

// begin starts a run in the try's directory.
func (s insideSpec) begin() driven {
	cmd, out := s.start("run", "e.toml", "--out", "run")
	d := driven{cmd, out, make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(d.ended)
	}()
	return d
}

// end waits for the end of the driver, and ends it if it takes longer than its limit.
func (d driven) end(result *tried, since time.Time, limit time.Duration) outcomeOfFault {
	select {
	case <-d.ended:
		result.Ending = time.Since(since).Seconds()
		return outcomeOfFault{code: d.cmd.ProcessState.ExitCode(), out: d.out.String(), ended: true}
	case <-time.After(limit):
		_ = d.cmd.Process.Kill()
		<-d.ended
		return outcomeOfFault{code: -1, out: d.out.String()}
	}
}

// faulted runs the experiment and makes the fault.
func (s insideSpec) faulted(result *tried) outcomeOfFault {
	d := s.begin()
	limit, struck := faultEndLimit, time.Now()
	if s.await(d.cmd.Process.Pid, d.ended) {
		time.Sleep(s.Try.Delay)
		if pid := s.victim(d.cmd.Process.Pid); pid > 0 {
			result.Met, struck = true, time.Now()
			limit = s.strike(pid, d.cmd.Process.Pid)
		}
	}
	o := d.end(result, struck, limit)
	// On a busy computer the driver may not have come so far as to catch signals.
	o.killed = s.Try.Victim == theDriver && (s.Try.Fault == "KILL" || s.Try.Phase == phaseBoot && o.out == "")
	return o
}

// strike sends the signals, and returns within what the driver must end then.
func (s insideSpec) strike(victim, driver int) time.Duration {
	kill := func(pid int, signal syscall.Signal) { _ = syscall.Kill(pid, signal) }
	switch s.Try.Fault {
	case stopAWhile:
		kill(victim, syscall.SIGSTOP)
		time.Sleep(300 * time.Millisecond)
		kill(victim, syscall.SIGCONT)
	case stopForAll:
		kill(victim, syscall.SIGSTOP)
	case stopTerm:
		kill(victim, syscall.SIGSTOP)
		kill(driver, syscall.SIGTERM)
		return stopTermLimit
	case twice:
		kill(victim, syscall.SIGTERM)
		time.Sleep(sameEvent + 100*time.Millisecond)
		kill(victim, syscall.SIGTERM)
		return stopTermLimit
	default:
		kill(victim, sent()[s.Try.Fault])
	}
	return faultEndLimit
}

// await waits until the phase has begun; false if the driver has ended before.
func (s insideSpec) await(driver int, ended <-chan struct{}) bool {
	began := func() bool {
		switch s.Try.Phase {
		case phaseApply:
			return find(driver, theHelper) > 0
		case phaseRun:
			return find(driver, theClient) > 0
		case phaseRows, phaseAllRows:
			data, _ := os.ReadFile(filepath.Join(s.Dir, "run", "rows.csv"))
			want := map[string]int{phaseRows: 1, phaseAllRows: 2}[s.Try.Phase]
			return bytes.Count(data, []byte(",trial_rows,")) >= want
		}
		return true
	}
	for !began() {
		select {
		case <-ended:
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
	return true
}

func (s insideSpec) victim(driver int) int {
	if s.Try.Victim == theDriver {
		return driver
	}
	return find(driver, s.Try.Victim)
}

// find is a process of the driver's tree by its part, 0 if there is none.
func find(driver int, part string) int {
	for _, pid := range childrenOf(driver) {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		argv := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		if partOf(argv) == part {
			return pid
		}
		if below := find(pid, part); below > 0 {
			return below
		}
	}
	return 0
}

func partOf(argv []string) string {
	name := filepath.Base(argv[0])
	has := func(arg string) bool { return slices.Contains(argv, arg) }
	switch {
	case has("serve"):
		return theHelper
	case has("pidns"):
		return theReaper
	case name == "netperf" && has("-H"), name == "iperf3" && has("-c"): // else it says its version
		return theClient
	case name == "netserver", name == "iperf3" && has("-s"):
		return theServer
	}
	return ""
}

// start starts the driver in the try's directory.
func (s insideSpec) start(args ...string) (*exec.Cmd, *bytes.Buffer) {
	var out bytes.Buffer
	cmd := exec.Command(s.Driver, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = s.Dir, &out, &out, time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return cmd, &out
}

// driver runs the driver to its end.
func (s insideSpec) driver(limit time.Duration, args ...string) (code int, out string, ended bool) {
	cmd, said := s.start(args...)
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), said.String(), timer.Stop()
}

// checkEnd looks at how the driver ended that met the fault.
func (s insideSpec) checkEnd(result *tried, o outcomeOfFault) {
	wrong := func(format string, args ...any) { result.Wrong = append(result.Wrong, fmt.Sprintf(format, args...)) }
	documented := []int{exitOK, exitFailedCells, exitRig, exitInterrupted}
	if o.refuses {
		documented = append(documented, exitError, exitUsage)
	}
	switch {
	case !o.ended:
		wrong("the driver does not end: %s", o.out)
	case o.code == -1 && !o.killed, o.code >= 0 && !slices.Contains(documented, o.code):
		wrong("exit code %d: %s", o.code, o.out)
	case strings.Contains(o.out, "panic:") || strings.Contains(o.out, "goroutine "):
		wrong("a panic: %s", o.out)
	}
}

// checkLeft looks for what is left outside the run's directory.
func (s insideSpec) checkLeft(result *tried, before map[string]string) {
	leaked := func(format string, args ...any) { result.Leaked = append(result.Leaked, fmt.Sprintf(format, args...)) }
	if left := processesLeft(); len(left) > 0 {
		leaked("processes: %v", left)
	}
	now := s.surroundings()
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if now[name] != before[name] {
			leaked("%s: %s", name, firstDifference(before[name], now[name]))
		}
	}
}

// processesLeft waits until only this process is in its PID namespace, and reaps, as its first one.
func processesLeft() (left []string) {
	for limit := time.Now().Add(leftLimit); ; time.Sleep(5 * time.Millisecond) {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
		left = nil
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			if name, err := os.ReadFile(dir + "/comm"); err == nil && pid != os.Getpid() {
				left = append(left, fmt.Sprintf("%d %s", pid, bytes.TrimSpace(name)))
			}
		}
		if len(left) == 0 || time.Now().After(limit) {
			return left
		}
	}
}

// checkFiles looks for what a whole run must not have left: temporaries, labs, control groups.
func (s insideSpec) checkFiles(result *tried) {
	for _, top := range []string{"tmp", "state", "run"} {
		_ = filepath.WalkDir(filepath.Join(s.Dir, top), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				result.Leaked = append(result.Leaked, err.Error())
				return nil
			}
			temp := strings.HasPrefix(e.Name(), ".tmp-") || strings.HasPrefix(e.Name(), "hookbed-")
			if temp || top == "state" && e.Name() == "lab.json" && !s.isOthers(path) {
				result.Leaked = append(result.Leaked, path)
			}
			return nil
		})
	}
	for mount := range s.Cgroups {
		left, _ := filepath.Glob(filepath.Join(mount, "hookbed-*"))
		if len(left) > 0 {
			result.Leaked = append(result.Leaked, fmt.Sprintf("control groups: %v", left))
		}
	}
}

// checkRows looks at the rows of the whole run: each trial of the plan once, ok, with the metrics of
// its workload and the raw files that its rows name.
func (s insideSpec) checkRows(result *tried) {
	lost := func(format string, args ...any) { result.Lost = append(result.Lost, fmt.Sprintf(format, args...)) }
	dir := filepath.Join(s.Dir, "run")
	data, err := os.ReadFile(filepath.Join(dir, "plan.json"))
	if err != nil {
		lost("%v", err)
		return
	}
	p, err := plan.Decode(data)
	if err != nil {
		lost("%v", err)
		return
	}
	f, err := os.Open(filepath.Join(dir, "rows.csv"))
	if err != nil {
		lost("%v", err)
		return
	}
	defer f.Close()
	rows, err := record.Read(f)
	if err != nil {
		lost("%v", err)
	}
	type key struct {
		trial  plan.Trial
		metric string
	}
	seen, metrics := map[key]int{}, map[plan.Trial]int{}
	for _, r := range rows {
		t := plan.Trial{Order: r.Order, Block: r.Block, Trial: r.Trial, Cell: r.Cell}
		if seen[key{t, r.Metric}]++; seen[key{t, r.Metric}] > 1 {
			result.Doubled = append(result.Doubled, fmt.Sprintf("%+v %s", t, r.Metric))
		}
		if c, ok := p.CellByID(r.Cell); ok && r.Metric != "" {
			result.number(c.Get(plan.FactorWorkload)+" "+r.Metric, r.Value)
		}
		if metrics[t]++; r.Status != record.StatusOK || r.Metric == "" {
			lost("trial %d is %s: %s", r.Order, r.Status, r.Reason)
		}
		if _, err := os.Stat(filepath.Join(dir, r.Raw)); err != nil {
			lost("raw result: %v", err)
		}
	}
	for _, t := range p.Trials {
		cell, _ := p.CellByID(t.Cell)
		words := p.Words()
		w, _ := words.Workload(cell.Get(plan.FactorWorkload))
		for _, m := range w.Headline {
			if seen[key{t, m.Name}] != 1 {
				lost("trial %d has %d rows of %s", t.Order, seen[key{t, m.Name}], m.Name)
			}
		}
		if seen[key{t, "policies_realised"}] != 1 && cell.Get(plan.FactorPolicies) != "0" && cell.Get(plan.FactorFilter) != "none" {
			lost("trial %d has no proof among its %d metrics", t.Order, metrics[t])
		}
	}
}

// number keeps what is compared with other tries.
func (r *tried) number(name string, value float64) {
	if _, metric, _ := strings.Cut(name, " "); !exactNumbers(metric) && !spreadNumbers(metric) && metric != loadMetric {
		return
	}
	if r.Numbers == nil {
		r.Numbers = map[string]float64{}
	}
	r.Numbers[name] = value
}

//go:build vm

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/batch"
)

// slurmConf is that of a Slurm of two nodes on one computer, in namespaces of its own. %[1]s is the
// test's directory.
const slurmConf = `ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=17000
AuthType=auth/munge
AuthInfo=socket=%[1]s/munge.socket
CredType=cred/munge
StateSaveLocation=%[1]s/state
SlurmdSpoolDir=%[1]s/spool-%%n
SlurmctldPidFile=%[1]s/slurmctld.pid
SlurmdPidFile=%[1]s/slurmd-%%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdTimeout=15
SlurmctldTimeout=15
KillWait=10
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=2,sched_interval=2
MailProg=/bin/true
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=4000
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1
PartitionName=high Nodes=n1,n2 PriorityTier=10
`

// slurmRig is a Slurm, and a user of it who is not root and has an empty home.
type slurmRig struct {
	*vmRig
	node map[string]*exec.Cmd // slurmd by node
	home string               // of the user, and where the jobs are
}

// ordinary is the user of the cluster: any that is not root.
const ordinary = 65534

// newSlurmRig starts munged, slurmctld and two slurmd. The process is in network and UTS namespaces
// of its own.
func newSlurmRig(t *testing.T, experiment string) *slurmRig {
	t.Helper()
	r := &slurmRig{vmRig: newVMRig(t), node: map[string]*exec.Cmd{}}
	r.home = filepath.Join(r.dir, "home")
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for at := r.dir; at != os.TempDir(); at = filepath.Dir(at) {
		check(os.Chmod(at, 0o755)) // the user comes in
	}
	check(unix.Sethostname([]byte("localhost"))) // the controller looks for its own name
	// With no address but those of the loopback, the C library resolves none.
	r.sh("ip link set lo up; ip link add s0 type veth peer name s1; ip address add 198.18.9.1/24 dev s0; ip link set s0 up; ip link set s1 up")
	for _, dir := range []string{"munge", "state", "spool-n1", "spool-n2"} {
		check(os.Mkdir(filepath.Join(r.dir, dir), 0o700))
	}
	check(os.MkdirAll(filepath.Join(r.home, "experiments"), 0o755))
	check(os.WriteFile(filepath.Join(r.dir, "slurm.conf"), fmt.Appendf(nil, slurmConf, r.dir), 0o644))
	check(os.WriteFile(filepath.Join(r.dir, "munge", "key"), bytes.Repeat([]byte("not secret"), 13), 0o400))
	check(os.WriteFile(filepath.Join(r.home, "experiments/virtual.toml"), []byte(experiment), 0o644))
	check(os.Chown(r.home, ordinary, ordinary))
	// The user may not read the test's own programs.
	r.sh("cp " + filepath.Join(binaries, "driver") + " " + filepath.Join(r.dir, "driver"))
	r.perform(0, slurmCommands(t)[0])
	munge := filepath.Join(r.dir, "munge")
	r.daemon("munged", "--force", "--foreground", "--key-file="+munge+"/key", "--socket="+r.dir+"/munge.socket",
		"--pid-file="+munge+"/pid", "--log-file="+munge+"/log", "--seed-file="+munge+"/seed")
	eventually(t, "munged listens", func() error { _, err := os.Stat(r.dir + "/munge.socket"); return err })
	r.daemon("slurmctld", "-D")
	for _, n := range []string{"n1", "n2"} {
		r.startNode(n)
	}
	r.until(t, "both nodes are idle", func() error {
		if out := r.admin("sinfo", "--noheader", "--states=idle", "--format=%D"); out != "2" {
			return fmt.Errorf("sinfo says %q", r.admin("sinfo", "--Node", "--long"))
		}
		return nil
	})
	return r
}

func (r *slurmRig) sh(script string) {
	r.t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// daemon starts a program that ends with the test.
func (r *slurmRig) daemon(argv ...string) *exec.Cmd {
	r.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = r.env()
	log, err := os.OpenFile(filepath.Join(r.dir, "daemons.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		r.t.Fatalf("%v (`make deps` installs it)", err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have been killed
		_ = cmd.Wait()
	})
	return cmd
}

func (r *slurmRig) startNode(name string) { r.node[name] = r.daemon("slurmd", "-D", "-N", name) }

// env is what programs of the cluster have; XDG_STATE_HOME is the nodes' own.
func (r *slurmRig) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "SLURM_CONF=" + r.dir + "/slurm.conf", "HOME=" + r.home, "HOOKBED_STORE=" + r.dir + "/hookbed"}
}

// admin runs a command of Slurm as root.
func (r *slurmRig) admin(argv ...string) string {
	r.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = r.env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %v: %s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

// user runs the driver as the user, and returns its output and exit code.
func (r *slurmRig) user(args ...string) (out string, code int) {
	r.t.Helper()
	return r.userWith(r.env(), args...)
}

func (r *slurmRig) userWith(env []string, args ...string) (string, int) {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(r.dir, "driver"), args...)
	cmd.Dir, cmd.Env = r.home, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must is user for what must succeed.
func (r *slurmRig) must(args ...string) string {
	r.t.Helper()
	out, code := r.user(args...)
	if code != 0 {
		r.t.Fatalf("driver %v: exit code %d\n%s", args, code, out)
	}
	return out
}

// refused is user for what must fail with an exit code and a text, and leave no job.
func (r *slurmRig) refused(env []string, want int, text string, args ...string) {
	r.t.Helper()
	out, code := r.userWith(env, args...)
	if code != want || !strings.Contains(out, text) {
		r.t.Errorf("driver %v: exit code %d, want %d, and %q in\n%s", args, code, want, text, out)
	}
	if _, err := os.Stat(filepath.Join(r.home, "refused")); err == nil {
		r.t.Errorf("driver %v left a job", args)
	}
}

// until waits, and says at the end what the daemons and the tasks said.
func (r *slurmRig) until(t *testing.T, what string, reached func() error) {
	t.Helper()
	start := time.Now()
	for {
		err := reached()
		if err == nil {
			t.Logf("%5.0f s until %s", time.Since(start).Seconds(), what)
			return
		}
		if time.Since(start) > longest {
			said, _ := exec.Command("sh", "-c", "tail -n 30 "+r.dir+"/daemons.log "+r.home+"/runs/*/log/*.log").CombinedOutput()
			t.Fatalf("%s: %v\n%s\n%s", what, err, r.admin("squeue", "--array"), said)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

func (r *slurmRig) status(job string) batch.Status {
	r.t.Helper()
	var line struct{ Status batch.Status }
	if err := json.Unmarshal([]byte(r.must("submit", "--status", job, "--json")), &line); err != nil {
		r.t.Fatal(err)
	}
	return line.Status
}

// hurry starts tasks now that were queued again: Slurm waits two minutes first.
func (r *slurmRig) hurry() {
	for line := range strings.Lines(r.admin("squeue", "--noheader", "--array", "--states=PENDING", "--format=%A %r")) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == "BeginTime" {
			r.admin("scontrol", "update", "JobId="+f[0], "StartTime=now")
		}
	}
}

// merged waits until the job's tasks are merged.
func (r *slurmRig) merged(job string) batch.Status {
	r.t.Helper()
	var s batch.Status
	r.until(r.t, "the tasks of "+job+" are merged", func() error {
		r.hurry()
		s = r.status(job)
		if i := slices.IndexFunc(s.Tasks, func(t batch.Task) bool { return t.State == batch.Failed }); i >= 0 && r.admin("squeue", "--noheader") == "" {
			r.t.Fatalf("task %d: %s\n%s", i+1, s.Tasks[i].Why, s.Tasks[i].Log)
		}
		if s.Merged == "" {
			return fmt.Errorf("%d of %d blocks, %+v", s.Done, s.Blocks, s.Tasks)
		}
		return nil
	})
	return s
}

// same holds the merged run of a job against one that was never split, file by file.
func (r *slurmRig) same(whole, merged string, blocks int) {
	r.t.Helper()
	files := []string{"rows.csv"}
	for b := range blocks {
		files = append(files, "blocks/"+strconv.Itoa(b+1)+".jsonl")
	}
	for _, f := range files {
		a, err := os.ReadFile(filepath.Join(whole, f))
		if err != nil {
			r.t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(merged, f))
		if err != nil {
			r.t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			r.t.Errorf("%s of %s and %s differ (%d and %d bytes)", f, whole, merged, len(a), len(b))
		}
	}
}

// task finds the process that runs a task.
func (r *slurmRig) task(job string, task int) (pid int, ok bool) {
	want := fmt.Sprintf("submit\x00--task\x00%d\x00%s\x00", task, filepath.Join(r.home, job))
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		argv, _ := os.ReadFile(file) // it may have ended
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && strings.HasSuffix(string(argv), want) {
			return pid, true
		}
	}
	return 0, false
}

// guest finds the QEMU of a block.
func guest(block int) (pid int, ok bool) {
	return machine(func(argv string) bool { return strings.Contains(argv, fmt.Sprintf("-block%d,", block)) })
}

// killTask kills a task with a signal once its guest runs, and waits until no guest is left of it:
// not even SIGKILL leaves one.
func (r *slurmRig) killTask(job string, task int) {
	r.t.Helper()
	var pid, qemu int
	r.until(r.t, fmt.Sprintf("the guest of task %d runs", task), func() (err error) {
		r.hurry()
		var ok, boots bool
		if pid, ok = r.task(job, task); ok {
			qemu, boots = guest(task)
		}
		if !ok || !boots {
			return errors.New("there is none")
		}
		return nil
	})
	if uid := ownerOf(r.t, qemu); uid != ordinary {
		r.t.Errorf("QEMU is of user %d", uid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
	r.until(r.t, "its guest is gone", func() error {
		if err := syscall.Kill(qemu, 0); !errors.Is(err, syscall.ESRCH) {
			return errors.Join(fmt.Errorf("process %d is there", qemu), err)
		}
		return nil
	})
}

func ownerOf(t *testing.T, pid int) int {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// slurmExperiment is one whose blocks are short.
const slurmExperiment = `schema = 1
name = "virtual"
seed = 11
[lab]
clock = "virtual"
[measure]
seeds = 2
count = { TCP_RR = 50 }
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [10]
[[arm]]
name = "nft-set"
filter = "nft-set"
`

// slurmCommands are those of docs/scale.md for a first user, in order.
func slurmCommands(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n## Slurm\n")
	_, text, _ = strings.Cut(text, "```sh\n")
	text, _, _ = strings.Cut(text, "```")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) != 5 {
		t.Fatalf("docs/scale.md has %d commands, want export, submit, status, report and an environment: %q", len(lines), lines)
	}
	return lines
}

// perform runs a command of the documents in the user's home, as a user. /shared is a directory of
// the test.
func (r *slurmRig) perform(uid uint32, line string) {
	r.t.Helper()
	cmd := exec.Command("sh", "-ec", strings.ReplaceAll(line, "/shared/", r.dir+"/"))
	cmd.Dir, cmd.Env = r.home, append(r.env(), "PATH="+r.dir+":"+os.Getenv("PATH"))
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	} else {
		cmd.Env = append(os.Environ(), "PATH="+r.dir+":"+os.Getenv("PATH"))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// TestVMSlurm: a user who is not root, with an empty home and without libvirt, does what
// docs/scale.md says on a real Slurm, where a task is killed, and gets the very bytes of one run of
// root's with libvirt.
func TestVMSlurm(t *testing.T) {
	if !apart(t, "--net", "--uts") {
		return
	}
	r := newSlurmRig(t, slurmExperiment)
	const file = "experiments/virtual.toml"
	without := []string{"PATH=/nonexistent", "HOME=" + r.home, "HOOKBED_STORE=" + r.dir + "/hookbed"}
	r.refused(without, 2, "there is no sbatch on PATH", "submit", file, "--engine", "slurm", "--out", "refused")
	r.refused(r.env(), 2, "invalid partition", "submit", file, "--engine", "slurm", "--partition", "nope", "--out", "refused")
	commands := slurmCommands(t)
	r.perform(ordinary, commands[1]+"; "+commands[2])
	r.killTask("runs/job", 1)
	r.perform(ordinary, commands[3])
	s := r.merged("runs/job")
	if n := len(s.Tasks[0].Attempts); n != 2 || s.Done != 2 || s.Tasks[0].Host != "n1" && s.Tasks[0].Host != "n2" {
		t.Errorf("%d attempts at the killed task, %d blocks, on %q", n, s.Done, s.Tasks[0].Host)
	}
	r.run("run", filepath.Join(r.home, file), "--out", "virtual", "--jobs", "2")
	r.same(filepath.Join(r.dir, "virtual"), s.Merged, 2)
	for dir, want := range map[string]bool{filepath.Join(r.dir, "virtual"): false, s.Merged: true} {
		env, err := os.ReadFile(filepath.Join(dir, "env.json"))
		if err != nil || strings.Contains(string(env), `"sealed": "qemu"`) != want {
			t.Errorf("%s: without libvirt is %v, want %v (%v)", dir, !want, want, err)
		}
	}
	r.perform(ordinary, commands[4])
}

// slurmLong has six blocks.
func slurmLong() string {
	return strings.NewReplacer("seeds = 2", "seeds = 2\nparts = 3", "[10]", "[1, 10, 100]", "TCP_RR = 50", "TCP_RR = 2000").Replace(slurmExperiment)
}

// control runs scontrol on an array task.
func (r *slurmRig) control(job batch.Job, task int, args ...string) {
	r.t.Helper()
	id := fmt.Sprintf("%s_%d", job.Submitted[0].ID, task)
	if slices.Contains(args, "update") {
		id = "JobId=" + id
	}
	if out := r.admin(append(append([]string{"scontrol"}, args[0], id), args[1:]...)...); out != "" {
		r.t.Fatal(out)
	}
}

// runs waits until the guest of a task, whose only block has its number, runs, and returns the node.
func (r *slurmRig) runs(task int) (node string) {
	r.t.Helper()
	r.until(r.t, fmt.Sprintf("the guest of task %d runs", task), func() error {
		r.hurry()
		if _, ok := guest(task); !ok {
			return errors.New("there is none")
		}
		return nil
	})
	all := r.attempts(task)
	return all[len(all)-1].Host
}

func (r *slurmRig) attempts(task int) []batch.Attempt {
	r.t.Helper()
	all, err := batch.Dir{Path: filepath.Join(r.home, "runs/job")}.Attempts(task)
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// again waits until a task has begun so many times.
func (r *slurmRig) again(task, times int) {
	r.t.Helper()
	r.until(r.t, fmt.Sprintf("task %d has begun %d times", task, times), func() error {
		r.hurry()
		if n := len(r.attempts(task)); n < times {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
}

// nodeIs waits for a state of a node.
func (r *slurmRig) nodeIs(node, state string) {
	r.t.Helper()
	r.until(r.t, node+" is "+state, func() error {
		if out := r.admin("sinfo", "--noheader", "--nodes="+node, "--format=%T"); !strings.HasPrefix(out, state) {
			return errors.New(out)
		}
		return nil
	})
}

// TestSlurm: whatever a cluster does to tasks, what is merged are the bytes of a run that was never
// split. While tasks 1 and 2 have trouble, the others are held.
func TestSlurm(t *testing.T) {
	if !apart(t, "--net", "--uts") {
		return
	}
	r := newSlurmRig(t, slurmLong())
	r.must("submit", "experiments/virtual.toml", "--engine", "slurm", "--out", "runs/job")
	_, job, err := batch.Open(filepath.Join(r.home, "runs/job"))
	if err != nil {
		t.Fatal(err)
	}
	for task := 3; task <= 6; task++ {
		r.control(job, task, "hold")
	}
	node := r.runs(2)
	r.admin("scontrol", "update", "NodeName="+node, "State=DRAIN", "Reason=test")
	r.nodeIs(node, "draining")
	r.admin("scontrol", "update", "NodeName="+node, "State=RESUME")

	r.killTask("runs/job", 1)
	r.again(1, 2)

	r.runs(2)
	r.control(job, 2, "update", "TimeLimit=1")
	r.again(2, 2)
	if first := r.attempts(2)[0]; first.Exit != exitInterrupted {
		t.Errorf("a task whose time is over ended with %d, want %d", first.Exit, exitInterrupted)
	}
	r.control(job, 2, "update", "TimeLimit=60")

	r.runs(1)
	if out := r.admin("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 5"); !strings.Contains(out, "Submitted") {
		t.Fatal(out)
	}
	r.again(1, 3)

	node = r.runs(1)
	if err := r.node[node].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.nodeIs(node, "down")
	r.startNode(node)
	r.again(1, 4)

	for task := 3; task <= 6; task++ {
		r.control(job, task, "release")
	}
	s := r.merged("runs/job")
	for _, task := range s.Tasks {
		var ends []string
		for _, a := range task.Attempts {
			ends = append(ends, fmt.Sprintf("%s: %d", a.Host, a.Exit))
		}
		t.Logf("task %d: %s", task.Task, strings.Join(ends, ", "))
	}
	r.run("run", filepath.Join(r.home, "experiments/virtual.toml"), "--out", "virtual", "--jobs", "2")
	r.same(filepath.Join(r.dir, "virtual"), s.Merged, 6)
}

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
	// The home is a disk of its own, which a test can fill.
	check(os.Mkdir(r.home, 0o755))
	check(unix.Mount("tmpfs", r.home, "tmpfs", 0, "size=512m,mode=755"))
	t.Cleanup(func() { _ = unix.Unmount(r.home, unix.MNT_DETACH) })
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

// startNode starts slurmd with mounts of its own.
func (r *slurmRig) startNode(name string) {
	r.node[name] = r.daemon("unshare", "--mount", "--propagation", "slave", "slurmd", "-D", "-N", name)
}

// onNode runs a script of root with the mounts of a node.
func (r *slurmRig) onNode(name, script string) {
	r.t.Helper()
	r.sh(fmt.Sprintf("nsenter --mount=/proc/%d/ns/mnt sh -ec '%s'", r.node[name].Process.Pid, script))
}

// env is what programs of the cluster have; XDG_STATE_HOME is the nodes' own.
func (r *slurmRig) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "SLURM_CONF=" + r.dir + "/slurm.conf", "HOME=" + r.home, "HOOKBED_STORE=" + r.dir + "/hookbed", "SLURM_TIME_FORMAT=%s"}
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

// hurry starts tasks soon that were queued again: Slurm waits two minutes first. Within the second in
// which a task has ended, however, slurmd takes the new one for the old, and refuses it.
func (r *slurmRig) hurry() {
	const soon, far = "now+5", 20 * time.Second
	for line := range strings.Lines(r.admin("squeue", "--noheader", "--array", "--states=PENDING", "--format=%A|%r|%S")) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 3 || f[1] != "BeginTime" {
			continue
		}
		if at, err := strconv.ParseInt(f[2], 10, 64); err == nil && time.Until(time.Unix(at, 0)) > far {
			r.admin("scontrol", "update", "JobId="+f[0], "StartTime="+soon)
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
	r.awaitGuest(task)
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

// drain takes a node out of use for tasks that have not begun, or puts it back.
func (r *slurmRig) drain(node string, out bool) {
	r.t.Helper()
	args := []string{"scontrol", "update", "NodeName=" + node, "State=RESUME"}
	if out {
		args = append(args[:3], "State=DRAIN", "Reason=test")
	}
	if said := r.admin(args...); said != "" {
		r.t.Fatal(said)
	}
}

// ended waits until Slurm has nothing left of a job that cannot be merged, and returns how far it is.
func (r *slurmRig) ended(job string) batch.Status {
	r.t.Helper()
	r.until(r.t, "the tasks of "+job+" have ended", func() error {
		r.hurry()
		if out := r.admin("squeue", "--noheader"); out != "" {
			return errors.New(out)
		}
		return nil
	})
	said, err := os.ReadFile(filepath.Join(r.home, job, "log/merge.log"))
	if s := r.status(job); err == nil && s.Merged == "" {
		r.t.Logf("the merge of %s: %s", job, said)
		return s
	}
	r.t.Fatalf("%s was merged (%v): %s", job, err, said)
	return batch.Status{}
}

// failed holds a task's end: its attempts by exit code, and what `submit --status` says of it.
func (r *slurmRig) failed(job string, s batch.Status, task int, codes []int, words ...string) {
	r.t.Helper()
	var ends []int
	got := s.Tasks[task-1]
	for _, a := range got.Attempts {
		ends = append(ends, a.Exit)
	}
	if got.State != batch.Failed || !slices.Equal(ends, codes) {
		r.t.Errorf("task %d of %s is %s, its attempts ended with %v, want %v", task, job, got.State, ends, codes)
	}
	page := r.must("submit", "--status", job)
	for _, want := range append(words, fmt.Sprintf("submit --resume %s", filepath.Join(r.home, job))) {
		if !strings.Contains(page, want) {
			r.t.Errorf("the status of %s lacks %q:\n%s", job, want, page)
		}
	}
}

// mended submits the rest of a job again, and holds what is merged against the undivided run.
func (r *slurmRig) mended(job string, options ...string) {
	r.t.Helper()
	r.must(append([]string{"submit", "--resume", job}, options...)...)
	r.same(filepath.Join(r.dir, "virtual"), r.merged(job).Merged, 2)
}

// TestSlurmFaults: a disk that fills on one node, and in the home of all, a node with another QEMU, and
// a job that is cancelled. Each is said in plain words, other tasks finish, and what is
// merged when it is mended are the bytes of a run that met none of it.
func TestSlurmFaults(t *testing.T) {
	if !apart(t, "--net", "--uts") {
		return
	}
	r := newSlurmRig(t, slurmExperiment)
	r.run("run", filepath.Join(r.home, "experiments/virtual.toml"), "--out", "virtual", "--jobs", "2")
	r.fullNode()
	r.fullHome()
	r.otherQEMU()
	r.cancelled()
}

// fullNode fills the disk of node n2 that has the state of task 2 while its guest runs.
func (r *slurmRig) fullNode() {
	r.t.Helper()
	const job = "runs/disk"
	state := statePath("/tmp", batch.Dir{Path: filepath.Join(r.home, job)}, ordinary, 2)
	r.sh(fmt.Sprintf("mkdir -m 700 %[1]s; chown %[2]d:%[2]d %[1]s", state, ordinary))
	r.t.Cleanup(func() { _ = os.RemoveAll(state) })
	r.onNode("n2", fmt.Sprintf("mount -t tmpfs -o size=64m,mode=700,uid=%[2]d,gid=%[2]d none %[1]s", state, ordinary))
	r.must("submit", "experiments/virtual.toml", "--engine", "slurm", "--out", job, "--retries", "1", "--", "--nodelist=n2")
	r.awaitGuest(2)
	r.onNode("n2", "cat /dev/zero > "+state+"/filler || test -s "+state+"/filler")
	s := r.ended(job)
	if s.Tasks[0].State != batch.Done {
		r.t.Errorf("the task with room is %+v", s.Tasks[0])
	}
	r.failed(job, s, 2, []int{4, 4}, "the end of the log of task 2", state, "no space left on device", "make room", "1 of 2 blocks done")
	r.mended(job, "--", "--exclude=n2")
}

// fullHome fills the home while both guests run.
func (r *slurmRig) fullHome() {
	r.t.Helper()
	const job = "runs/home"
	filler := filepath.Join(r.home, "filler")
	r.must("submit", "experiments/virtual.toml", "--engine", "slurm", "--out", job, "--retries", "1")
	r.awaitGuest(1)
	r.awaitGuest(2)
	r.sh("cat /dev/zero > " + filler + " || test -s " + filler)
	r.refused(r.env(), 4, "no space left on device", "submit", "experiments/virtual.toml", "--engine", "slurm", "--out", "refused")
	s := r.ended(job)
	for task := range s.Tasks {
		r.failed(job, s, task+1, []int{4, 4}, filepath.Join(r.home, job), "no space left on device")
	}
	if err := os.Remove(filler); err != nil {
		r.t.Fatal(err)
	}
	r.mended(job)
}

// otherQEMU has task 2 begin on n2, where a program of QEMU's name says another version, after task 1
// on n1.
func (r *slurmRig) otherQEMU() {
	r.t.Helper()
	const job, other = "runs/qemu", "99.1.0"
	real, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		r.t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = --version ] && echo QEMU emulator version %s && exit\nexec %s/real \"$@\"\n", other, r.dir)
	if err := os.WriteFile(filepath.Join(r.dir, "other"), []byte(script), 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.sh("cp " + real + " " + r.dir + "/real")
	r.onNode("n2", "mount --bind "+r.dir+"/other "+real)
	r.drain("n2", true)
	r.must("submit", "experiments/virtual.toml", "--engine", "slurm", "--out", job)
	r.awaitGuest(1)
	r.drain("n1", true)
	r.drain("n2", false)
	r.until(r.t, "task 2 has ended", func() error {
		all, err := batch.Dir{Path: filepath.Join(r.home, job)}.Attempts(2)
		if err == nil && (len(all) == 0 || all[0].Ended.IsZero()) {
			err = fmt.Errorf("%+v", all)
		}
		return err
	})
	r.drain("n1", false)
	r.failed(job, r.ended(job), 2, []int{exitError}, "n2 has QEMU "+other+", and n1, where the first task ran, has ", "-- --exclude=n2")
	r.mended(job, "--", "--exclude=n2")
	r.onNode("n2", "umount "+real)
}

// cancelled cancels a job while its guests run: no task begins again by itself, and no guest is left.
func (r *slurmRig) cancelled() {
	r.t.Helper()
	const job = "runs/cancelled"
	r.must("submit", "experiments/virtual.toml", "--engine", "slurm", "--out", job)
	r.awaitGuest(1)
	r.must("submit", "--cancel", job)
	r.until(r.t, "nothing is left of "+job, func() error {
		r.hurry()
		_, first := guest(1)
		_, second := guest(2)
		if out := r.admin("squeue", "--noheader"); out != "" || first || second {
			return fmt.Errorf("guests: %v, %v; jobs: %s", first, second, out)
		}
		return nil
	})
	if n := len(r.status(job).Tasks[0].Attempts); n != 1 {
		r.t.Errorf("a task that was cancelled began %d times", n)
	}
	r.mended(job)
}

// awaitGuest waits until the guest of a block runs.
func (r *slurmRig) awaitGuest(block int) {
	r.t.Helper()
	r.until(r.t, fmt.Sprintf("the guest of block %d runs", block), func() error {
		r.hurry()
		if _, ok := guest(block); !ok {
			return errors.New("there is none")
		}
		return nil
	})
}

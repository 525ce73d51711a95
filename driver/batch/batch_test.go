package batch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/yaml"

	"hookbed/analysis/durable"
	"hookbed/driver/plan"
)

func testJob() Job {
	return Job{Name: "x", Engine: Slurm, Tasks: 3, Blocks: 7, Guests: 2, MemoryMiB: 3584, BlockSeconds: 60, LimitSeconds: 90_061, Retries: 4,
		Partition: "short", Image: `registry/qemu:"1"`, Claim: "shared", Store: "/shared/images"}
}

// made is the directory of a job.
func made(t *testing.T, j Job) Dir {
	t.Helper()
	driver := filepath.Join(t.TempDir(), "driver")
	if err := os.WriteFile(driver, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := Make(filepath.Join(t.TempDir(), "job"), j, &plan.Plan{}, driver, map[string]string{"job.sh": "x"})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestSlurmScripts(t *testing.T) {
	scripts, err := SlurmScripts(Dir{Path: "/home/o'neil/x y"}, testJob())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"#SBATCH --array=1-3\n", "--requeue\n", "--signal=B:TERM@120\n", "--time=1-01:01:01\n", "--cpus-per-task=2\n", "--mem=3584M\n",
		"--partition=short\n", `--output="/home/o'neil/x y/log/%a.log"`, `dir='/home/o'\''neil/x y'` + "\nretries=4\n", `submit --task "$task" "$dir"`} {
		if !strings.Contains(scripts["job.sh"], want) {
			t.Errorf("job.sh lacks %q:\n%s", want, scripts["job.sh"])
		}
	}
	if !strings.Contains(scripts["merge.sh"], `submit --merge "$dir"`) {
		t.Errorf("merge.sh is %s", scripts["merge.sh"])
	}
	if _, err := SlurmScripts(Dir{Path: "/home/100%a"}, testJob()); !errors.Is(err, ErrRefused) {
		t.Errorf("error %v for a directory in whose name Slurm would put a number", err)
	}
}

func TestTaskList(t *testing.T) {
	for want, tasks := range map[string][]int{"1-3": {1, 2, 3}, "2": {2}, "1,3-4,9": {1, 3, 4, 9}} {
		if got := taskList(tasks); got != want {
			t.Errorf("%v is %q, want %q", tasks, got, want)
		}
	}
}

// The API's own types take the Job, to the last field.
func TestKubernetesJob(t *testing.T) {
	d := Dir{Path: "/shared/x y"}
	var job batchv1.Job
	if err := yaml.UnmarshalStrict([]byte(KubernetesJob(d, testJob())), &job); err != nil {
		t.Fatal(err)
	}
	pod := job.Spec.Template.Spec
	if *job.Spec.Completions != 3 || *job.Spec.CompletionMode != batchv1.IndexedCompletion || *job.Spec.BackoffLimitPerIndex != 4 || len(pod.Containers) != 1 {
		t.Errorf("the Job is %+v", job.Spec)
	}
	c := pod.Containers[0]
	if !slices.Equal(c.Args[1:], []string{"/shared/x y/driver", "/shared/x y"}) || c.Image != `registry/qemu:"1"` || c.VolumeMounts[0].MountPath != "/shared" || c.Env[1].Value != "/shared/images" {
		t.Errorf("the container is %+v", c)
	}
	final := job.Spec.PodFailurePolicy.Rules[1]
	if final.Action != batchv1.PodFailurePolicyActionFailIndex || slices.Contains(final.OnExitCodes.Values, 4) || !slices.Contains(final.OnExitCodes.Values, 3) {
		t.Errorf("exit codes that are final: %+v", final)
	}
}

func TestLimit(t *testing.T) {
	if got := Limit(5*time.Minute, 7, 3, 2); got != 2*4*5*time.Minute+10*time.Minute {
		t.Errorf("three blocks by two guests may take %v", got)
	}
}

func TestMakeRefusesWhatIsThere(t *testing.T) {
	d := made(t, testJob())
	if _, err := Make(d.Path, testJob(), &plan.Plan{}, d.Driver(), nil); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("error %v, want ErrNotEmpty", err)
	}
	_, j, err := Open(d.Path)
	if err != nil || j.Tasks != 3 || j.Blocks != 7 {
		t.Errorf("%+v, error %v", j, err)
	}
	if _, _, err := Open(t.TempDir()); !errors.Is(err, ErrNoJob) {
		t.Errorf("error %v, want ErrNoJob", err)
	}
}

// A job that cannot be made whole leaves nothing.
func TestMakeLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "job")
	if _, err := Make(path, testJob(), &plan.Plan{}, filepath.Join(path, "no driver"), nil); err == nil {
		t.Error("a job without a driver was made")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it left %s (%v)", path, err)
	}
}

// A computer with another QEMU is refused, and named.
func TestAgree(t *testing.T) {
	d := made(t, testJob())
	for _, host := range []string{"n1", "n3"} {
		if err := d.Agree(host, "10.0.2"); err != nil {
			t.Fatal(err)
		}
	}
	err := d.Agree("n2", "8.2.1")
	if !errors.Is(err, ErrMachine) || !strings.Contains(err.Error(), "n2 has QEMU 8.2.1") || !strings.Contains(err.Error(), "n1, where the first task ran, has 10.0.2") {
		t.Errorf("error %v", err)
	}
}

// finish records an attempt at a task that executed some of its blocks.
func finish(t *testing.T, d Dir, j Job, task, blocks int, a Attempt) {
	t.Helper()
	if _, err := d.Begin(task, a); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(d.Run(task), "blocks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, b := range j.blocksOf(task)[:blocks] {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(b)+".jsonl"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Why an attempt ended is recorded also where that is a full disk, but none begins there.
func TestAttemptsOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a file system: run it as root")
	}
	d := made(t, testJob())
	if err := unix.Mount("tmpfs", d.file("status"), "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(d.file("status"), unix.MNT_DETACH) })
	n, err := d.Begin(1, Attempt{Host: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.file("status/filler"), make([]byte, 1<<20), 0o600); !durable.NoRoom(err) {
		t.Fatalf("error %v, want a full disk", err)
	}
	if err := d.End(1, n, Attempt{Host: "n1", Exit: 4, Error: "no space left"}); err != nil {
		t.Error(err)
	}
	if all, err := d.Attempts(1); err != nil || len(all) != 1 || all[0].Exit != 4 || all[0].Error != "no space left" {
		t.Errorf("attempts %+v (%v)", all, err)
	}
	if _, err := d.Begin(2, Attempt{}); !durable.NoRoom(err) {
		t.Errorf("a task begins without room: error %v", err)
	}
	if all, err := d.Attempts(2); err != nil || len(all) != 0 {
		t.Errorf("attempts %+v (%v)", all, err)
	}
}

// Without the batch system a status is what the directory shows.
func TestStatusWithoutTheBatchSystem(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	j := testJob()
	j.Submitted = []Submission{{ID: "7"}}
	d := made(t, j)
	began := time.Now().Add(-200 * time.Second)
	finish(t, d, j, 1, 3, Attempt{Host: "n1", Began: began, Ended: began.Add(100 * time.Second)})
	finish(t, d, j, 2, 1, Attempt{Host: "n2", Began: began, Ended: began.Add(50 * time.Second), Exit: 4, Error: "rig fault: no space left on device"})
	finish(t, d, j, 3, 1, Attempt{Host: "n2", Began: began})
	if err := os.WriteFile(d.Log(2), []byte("what it said\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Look(context.Background(), d, j)
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, task := range s.Tasks {
		states = append(states, task.State)
	}
	if !slices.Equal(states, []string{Done, Failed, Running}) || s.Done != 5 || s.Blocks != 7 || !strings.Contains(s.Note, "there is no squeue") {
		t.Errorf("states %v, %d of %d blocks, note %q", states, s.Done, s.Blocks, s.Note)
	}
	if why := s.Tasks[1].Why; why != "exit code 4: rig fault: no space left on device" || s.Tasks[1].Log != "what it said\n" || s.Tasks[1].Host != "n2" {
		t.Errorf("task 2: %q, log %q", why, s.Tasks[1].Log)
	}
	// 5 blocks took 100 + 50 + 200 s, and one is left.
	if s.Left < 69 || s.Left > 80 {
		t.Errorf("%.0f s left, want 70", s.Left)
	}
	if got := s.Incomplete(); !slices.Equal(got, []int{2, 3}) {
		t.Errorf("incomplete: %v", got)
	}
}

// What the batch system says decides about tasks that run or wait.
func TestStates(t *testing.T) {
	j := testJob()
	d := made(t, j)
	began := time.Now()
	finish(t, d, j, 1, 0, Attempt{Host: "n1", Began: began})                          // killed, and queued again
	finish(t, d, j, 2, 0, Attempt{Host: "n1", Began: began})                          // killed, and gone
	finish(t, d, j, 3, 1, Attempt{Host: "n1", Began: began, Ended: began, Exit: 130}) // begins again
	for task, want := range map[int]string{1: Waiting, 2: Failed, 3: Running} {
		got, err := d.look(j, task, map[int]queued{1: {"PENDING", "BeginTime"}, 3: {"RUNNING", "None"}})
		if err != nil || got.State != want {
			t.Errorf("task %d is %s, want %s (%v)", task, got.State, want, err)
		}
	}
	if got, _ := d.look(j, 2, map[int]queued{2: {"PENDING", "JobHeldUser"}}); got.State != Held {
		t.Errorf("a held task is %s", got.State)
	}
}

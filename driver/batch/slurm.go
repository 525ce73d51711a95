package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Errors of batch systems.
var (
	// ErrNoEngine is wrapped where the commands of a batch system are not installed.
	ErrNoEngine = errors.New("the batch system is not there")
	// ErrRefused is wrapped where a batch system refuses a request.
	ErrRefused = errors.New("the batch system refuses")
)

// termBefore is how long before the end of its time a task is told to end, in seconds. The driver
// ends within a few.
const termBefore = 120

// quoted is a word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// SlurmScripts are job.sh, which starts the tasks, and merge.sh, for sbatch (sbatch(1)).
func SlurmScripts(d Dir, j Job) (map[string]string, error) {
	if strings.ContainsAny(d.Path, "%\"\\\n") {
		return nil, fmt.Errorf("%w: Slurm reads %%, quotes and \\ in the name of a log file; give another directory than %s", ErrRefused, d.Path)
	}
	var job strings.Builder
	fmt.Fprintf(&job, "#!/bin/bash\n# A task of %s. The job is described in submit.json.\n", j.Name)
	directives(&job, j.Partition, "hookbed-"+j.Name, fmt.Sprintf("array=1-%d", j.Tasks), "requeue", fmt.Sprintf("signal=B:TERM@%d", termBefore),
		"time="+slurmTime(j.LimitSeconds), "nodes=1", "ntasks=1", fmt.Sprintf("cpus-per-task=%d", j.Guests), fmt.Sprintf("mem=%dM", j.MemoryMiB),
		fmt.Sprintf("output=%q", d.file("log/%a.log")), "open-mode=append")
	fmt.Fprintf(&job, "dir=%s\nretries=%d\n%s", quoted(d.Path), j.Retries, slurmTask)
	var merge strings.Builder
	fmt.Fprintf(&merge, "#!/bin/bash\n# Merges the tasks of %s when all have ended, and says what is missing.\n", j.Name)
	directives(&merge, j.Partition, "hookbed-"+j.Name+"-merge", "nodes=1", "ntasks=1", "requeue", fmt.Sprintf("output=%q", d.file("log/merge.log")), "open-mode=append")
	fmt.Fprintf(&merge, "dir=%s\nexec \"$dir/driver\" submit --merge \"$dir\"\n", quoted(d.Path))
	return map[string]string{"job.sh": job.String(), "merge.sh": merge.String()}, nil
}

func directives(out *strings.Builder, partition, name string, options ...string) {
	if partition != "" {
		options = append(options, "partition="+partition)
	}
	for _, o := range append([]string{"job-name=" + name}, options...) {
		fmt.Fprintf(out, "#SBATCH --%s\n", o)
	}
}

// slurmTask runs a task, passes Slurm's signal on to it, and queues it again where that helps: when
// it was interrupted (130), killed (137), or the testbed failed (4). 3 is final: trials without a
// number have rows that say why. What the task has done is kept, and it goes on from there. scancel
// interrupts it, too, but then it is no longer RUNNING, and must not begin again.
const slurmTask = `task=$SLURM_ARRAY_TASK_ID
"$dir/driver" submit --task "$task" "$dir" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do # the wait was interrupted by the signal
	wait "$child"
	code=$?
done
case $code in
4 | 130 | 137 | 143)
	id=${SLURM_ARRAY_JOB_ID}_$task
	if [ "${SLURM_RESTART_COUNT:-0}" -lt "$retries" ] && [ "$(squeue --noheader --format=%T --jobs="$id")" = RUNNING ]; then
		echo "task $task ended with exit code $code, and is queued again" >&2
		scontrol requeue "$id" && sleep 60 # Slurm ends this script
	fi
	;;
esac
exit "$code"
`

// slurmTime is a time limit, days-hours:minutes:seconds.
func slurmTime(seconds int) string {
	d := time.Duration(seconds) * time.Second
	return fmt.Sprintf("%d-%02d:%02d:%02d", d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60, d/time.Second%60)
}

// SubmitSlurm submits tasks, and the merge that follows when all of them have ended, however.
func SubmitSlurm(ctx context.Context, d Dir, j Job, tasks []int) (Submission, error) {
	s := Submission{At: time.Now().UTC().Truncate(time.Second), Tasks: tasks}
	args := append([]string{"--parsable", "--array=" + taskList(tasks)}, j.Options...)
	var err error
	if s.ID, err = sbatch(ctx, append(args, d.file("job.sh"))...); err != nil {
		return s, err
	}
	args = append([]string{"--parsable", "--dependency=afterany:" + s.ID}, j.Options...)
	if s.Merge, err = sbatch(ctx, append(args, d.file("merge.sh"))...); err != nil {
		_, cancel := slurm(ctx, "scancel", s.ID)
		return s, errors.Join(err, cancel)
	}
	return s, nil
}

var jobNumber = regexp.MustCompile(`^[0-9]+`)

// sbatch submits a script and returns the job's number; with --parsable sbatch prints it, and
// behind a ";" the name of the cluster.
func sbatch(ctx context.Context, args ...string) (string, error) {
	out, err := slurm(ctx, "sbatch", args...)
	if err != nil {
		return "", err
	}
	id := jobNumber.FindString(strings.TrimSpace(out))
	if id == "" {
		return "", fmt.Errorf("%w: sbatch printed %q, and no job number", ErrRefused, out)
	}
	return id, nil
}

// slurm runs one of Slurm's commands.
func slurm(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%w: there is no %s on PATH; submit from a computer of the cluster (Debian: slurm-client)", ErrNoEngine, name)
	case err != nil:
		return "", fmt.Errorf("%w: %s: %w: %s", ErrRefused, name, err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

// taskList writes tasks as Slurm's --array does, "1-6,9".
func taskList(tasks []int) string {
	var parts []string
	for i := 0; i < len(tasks); {
		end := i
		for end+1 < len(tasks) && tasks[end+1] == tasks[end]+1 {
			end++
		}
		if end > i {
			parts = append(parts, fmt.Sprintf("%d-%d", tasks[i], tasks[end]))
		} else {
			parts = append(parts, strconv.Itoa(tasks[i]))
		}
		i = end + 1
	}
	return strings.Join(parts, ",")
}

// queued is what Slurm says of a task: "PENDING", "RUNNING", ...
type queued struct{ state, reason string }

// queue returns what the batch system has of each task; it knows none that has ended.
func queue(ctx context.Context, j Job) (map[int]queued, error) {
	if j.Engine != Slurm || len(j.Submitted) == 0 {
		return nil, nil
	}
	var ids []string
	for _, s := range j.Submitted {
		ids = append(ids, s.ID)
	}
	out, err := slurm(ctx, "squeue", "--noheader", "--array", "--format=%K|%T|%r", "--jobs="+strings.Join(ids, ","))
	if err != nil {
		if strings.Contains(err.Error(), "Invalid job id") {
			return map[int]queued{}, nil // all of them ended some time ago
		}
		return nil, err
	}
	all := map[int]queued{}
	for line := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 3)
		if task, err := strconv.Atoi(f[0]); err == nil && len(f) == 3 {
			all[task] = queued{f[1], f[2]}
		}
	}
	return all, nil
}

// Cancel ends what the batch system still has of a job. What was measured stays.
func Cancel(ctx context.Context, j Job) error {
	if j.Engine != Slurm {
		return fmt.Errorf("%w: end the job with the commands of %s, as in `kubectl delete -f job.yaml`", ErrRefused, j.Engine)
	}
	for _, s := range j.Submitted {
		if _, err := slurm(ctx, "scancel", s.Merge, s.ID); err != nil && !strings.Contains(err.Error(), "Invalid job id") {
			return err
		}
	}
	return nil
}

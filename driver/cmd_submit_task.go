package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/batch"
	"hookbed/driver/campaign"
	"hookbed/driver/tail"
	"hookbed/driver/vm"
)

// runTask runs one task of a job on this computer, or goes on with it, and records how it ended.
// The exit code is that of `driver run`.
func (a *app) runTask(ctx context.Context, path string, task int) error {
	a.interruptHint = "nothing is left running; the task goes on where it was when it begins again"
	dir, job, err := openJob(path)
	if err != nil {
		return err
	}
	if task > job.Tasks {
		return fmt.Errorf("%w: --task %d: the job has %d tasks", errUsage, task, job.Tasks)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find the name of this computer: %w", err)
	}
	host = taskHost(host)
	qemu, err := vm.QEMUVersion(ctx)
	at := batch.Attempt{Host: host, QEMU: qemu, Began: time.Now().UTC().Truncate(time.Millisecond)}
	n, berr := dir.Begin(task, at)
	if berr != nil {
		return fmt.Errorf("%w: %w", campaign.ErrRig, berr)
	}
	if err == nil {
		err = dir.Agree(host, qemu)
	}
	a.say("task %d of %d on %s, attempt %d", task, job.Tasks, host, n+1)
	if err == nil {
		err = a.taskRun(ctx, dir, job, task)
	} else {
		err = fmt.Errorf("%s: %w", host, err)
	}
	at.Ended, at.Exit = time.Now().UTC().Truncate(time.Millisecond), exitCode(err)
	if err != nil {
		at.Error = oneLine(err.Error())
	}
	if eerr := dir.End(task, n, at); eerr != nil {
		err = errors.Join(err, fmt.Errorf("%w: %w", campaign.ErrRig, eerr))
	}
	return err
}

// taskHost is the name by which the batch system has this computer, which may have several.
func taskHost(hostname string) string {
	for _, name := range []string{"SLURMD_NODENAME", "HOOKBED_HOST"} {
		if node := os.Getenv(name); node != "" {
			return node
		}
	}
	return hostname
}

// taskRun is `driver run --continue` of the task's shard, in a process of its own that ends with
// this one. The state of its labs is on this computer, since others cannot see whether they live.
func (a *app) taskRun(ctx context.Context, dir batch.Dir, job batch.Job, task int) error {
	state, err := taskState(dir, task)
	if err != nil {
		return fmt.Errorf("%w: make a directory for the state of the task: %w", campaign.ErrRig, err)
	}
	defer removeEmpty(filepath.Join(state, "hookbed", "labs"), filepath.Join(state, "hookbed"), state)
	driver, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this driver: %w", err)
	}
	args := []string{"run", dir.Plan(), "--shard", fmt.Sprintf("%d/%d", task, job.Tasks), "--out", dir.Run(task), "--continue", "--jobs", strconv.Itoa(job.Guests), "--no-color"}
	if job.Store != "" {
		args = append(args, "--store", job.Store)
	}
	cmd := exec.CommandContext(ctx, driver, args...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+state)
	if !cacheable() {
		cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+state)
	}
	said := tail.NewBuffer(1 << 10)
	cmd.Stdout, cmd.Stderr = a.talk, io.MultiWriter(said, lossy{a.talk})
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // PR_SET_PDEATHSIG is about the thread that forks (prctl(2))
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // the driver has ended, too
		return ctx.Err()
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return fmt.Errorf("%s: %w", lastLine(said.String()), &passedExit{exit.ExitCode()})
	}
	return fmt.Errorf("run task %d: %w", task, err)
}

// lossy is the log of a task. Where its disk is full it loses what was said, and the task goes on: an
// error here would end the driver by SIGPIPE.
type lossy struct{ io.Writer }

func (l lossy) Write(p []byte) (int, error) {
	_, _ = l.Writer.Write(p)
	return len(p), nil
}

// taskState makes the directory of this computer for the state of a task, the same at each attempt:
// one that was killed leaves the files of its guests there, which the next one clears.
func taskState(dir batch.Dir, task int) (string, error) {
	path := statePath(os.TempDir(), dir, os.Getuid(), task)
	err := os.Mkdir(path, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return path, err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Getuid() || info.Mode().Perm() != 0o700 {
		return "", fmt.Errorf("%s is of another user: remove it, or set TMPDIR", path)
	}
	return path, nil
}

// statePath is the directory for the state of a user's task.
func statePath(temp string, dir batch.Dir, uid, task int) string {
	sum := sha256.Sum256([]byte(dir.Path))
	return filepath.Join(temp, fmt.Sprintf("hookbed-%d-%x-%d", uid, sum[:6], task))
}

// removeEmpty removes directories that are empty; others are in use.
func removeEmpty(dirs ...string) {
	for _, dir := range dirs {
		_ = os.Remove(dir)
	}
}

// cacheable says whether this user has a cache that can be written, where the guest helper is put.
func cacheable() bool {
	cache, err := os.UserCacheDir()
	if err == nil {
		err = os.MkdirAll(cache, 0o700)
	}
	return err == nil && unix.Access(cache, unix.W_OK) == nil
}

// lastLine is the last line of what a driver said, without its name: the error, if it has one.
func lastLine(said string) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "driver: ")
}

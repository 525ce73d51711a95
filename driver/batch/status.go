package batch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hookbed/driver/tail"
)

// States of a task.
const (
	Done    = "done"    // all its trials have rows
	Running = "running" // or it was killed, where the batch system cannot be requested
	Waiting = "waiting"
	Failed  = "failed" // it ended before its last block, and does not begin again by itself
	Held    = "held"   // the batch system will not start it by itself
)

// Task is how far a task is.
type Task struct {
	Task     int       `json:"task"`
	State    string    `json:"state"`
	Done     int       `json:"blocks_done"`
	Blocks   int       `json:"blocks"`
	Host     string    `json:"host,omitempty"` // of the last attempt
	Attempts []Attempt `json:"attempts"`
	Why      string    `json:"why,omitempty"`
	Log      string    `json:"log,omitempty"` // the end of its log, of one that failed
}

// Status is how far a job is.
type Status struct {
	Name   string `json:"name"`
	Dir    string `json:"dir"`
	Done   int    `json:"blocks_done"`
	Blocks int    `json:"blocks"`
	Tasks  []Task `json:"tasks"`
	// Left is how long the rest takes at the pace so far, in seconds; 0 if all is done or nothing runs.
	Left float64 `json:"seconds_left"`
	// Merged is the merged run's directory, once it is there.
	Merged string `json:"merged,omitempty"`
	// Note says why the batch system could not be requested.
	Note string `json:"note,omitempty"`
}

// logEnd is how much of a log a status shows, in bytes.
const logEnd = 1200

// Look reads how far a job is, from its directory and from the batch system.
func Look(ctx context.Context, d Dir, j Job) (Status, error) {
	s := Status{Name: j.Name, Dir: d.Path, Blocks: j.Blocks}
	tasks, err := queue(ctx, j)
	if err != nil {
		s.Note = err.Error()
	}
	for _, i := range j.all() {
		t, err := d.look(j, i, tasks)
		if err != nil {
			return s, err
		}
		s.Done += t.Done
		s.Tasks = append(s.Tasks, t)
	}
	if _, err := os.Stat(filepath.Join(d.Merged(j), "plan.json")); err == nil {
		s.Merged = d.Merged(j)
	}
	s.Left = left(s.Tasks, j.BlockSeconds/float64(max(1, j.Guests)), time.Now())
	return s, nil
}

// look reads how far one task is. queue is nil where the batch system cannot be requested.
func (d Dir) look(j Job, task int, queue map[int]queued) (Task, error) {
	t := Task{Task: task, Blocks: len(j.blocksOf(task)), State: Waiting}
	for _, b := range j.blocksOf(task) {
		if _, err := os.Stat(filepath.Join(d.Run(task), "blocks", strconv.Itoa(b)+".jsonl")); err == nil {
			t.Done++
		} else if !errors.Is(err, fs.ErrNotExist) {
			return t, err
		}
	}
	var err error
	if t.Attempts, err = d.Attempts(task); err != nil {
		return t, err
	}
	in, has := queue[task]
	if len(t.Attempts) > 0 {
		d.judge(&t, t.Attempts[len(t.Attempts)-1], queue != nil && !has)
	}
	switch {
	case t.State == Done || !has:
	case in.state == "PENDING" && slices.Contains([]string{"JobHeldUser", "JobHeldAdmin", "launch failed requeued held"}, in.reason):
		t.State, t.Why = Held, in.reason
	case in.state == "PENDING" || in.state == "REQUEUED":
		t.State, t.Why = Waiting, strings.Join(slices.DeleteFunc([]string{in.reason, t.Why}, func(s string) bool { return s == "" }), "; before: ")
	case in.state == "COMPLETING":
	default:
		t.State = Running
	}
	if t.State == Waiting && queue != nil && !has {
		t.State, t.Why = Failed, "the batch system no longer has it, and it did not begin"
	}
	if t.State == Failed {
		t.Log, _ = tail.File(d.Log(task), logEnd) // it may have written nothing
	}
	return t, nil
}

// judge gives a task the state that its last attempt shows. gone: the batch system does not have
// the task any more.
func (d Dir) judge(t *Task, last Attempt, gone bool) {
	t.Host = last.Host
	switch {
	case last.Ended.IsZero() && gone:
		t.State, t.Why = Failed, "it was killed"
	case last.Ended.IsZero():
		t.State = Running
	case t.Done == t.Blocks && (last.Exit == 0 || last.Exit == 3):
		if t.State = Done; last.Exit == 3 {
			t.Why = "some trials have no number: " + last.Error
		}
	default:
		t.State, t.Why = Failed, fmt.Sprintf("exit code %d", last.Exit)
		if last.Error != "" {
			t.Why += ": " + last.Error
		}
	}
}

// left is how long the rest takes: the task with the most to do, or all of it by as many tasks as
// run now. The pace is that of the blocks that are done, else the estimate's.
func left(tasks []Task, block float64, now time.Time) float64 {
	spent, done, running, rest, most := 0.0, 0, 0, 0, 0
	for _, t := range tasks {
		if t.State == Done || t.State == Failed {
			continue
		}
		if t.State == Running {
			running++
		}
		rest += t.Blocks - t.Done
		most = max(most, t.Blocks-t.Done)
	}
	for _, t := range tasks {
		done += t.Done
		for _, a := range t.Attempts {
			switch {
			case !a.Ended.IsZero():
				spent += a.Ended.Sub(a.Began).Seconds()
			case t.State == Running:
				spent += now.Sub(a.Began).Seconds()
			}
		}
	}
	if done > 0 {
		block = spent / float64(done)
	}
	if running == 0 {
		return 0
	}
	return block * max(float64(most), float64(rest)/float64(running))
}

// Incomplete are the tasks that have not done all their blocks, or have not ended well.
func (s Status) Incomplete() (out []int) {
	for _, t := range s.Tasks {
		if t.State != Done {
			out = append(out, t.Task)
		}
	}
	return out
}

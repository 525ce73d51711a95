// Package batch submits the shards of a plan to a batch system as tasks, and follows them. A job is
// a directory that all computers see; what a task needs, and all it leaves, is there, so that the
// batch system only starts tasks and may forget them.
//
//	submit.json   the job
//	plan.json     the plan, of which task I runs shard I
//	driver        a copy of the driver: a new build does not change a job that waits
//	job.sh        starts one task, and the merge (merge.sh), for Slurm; job.yaml for Kubernetes
//	machine.json  what the first task found, and all others must have
//	tasks/I/      the run directory of task I
//	status/I.json the attempts at task I
//	log/I.log     what they wrote
//	NAME/         the merged run, named after the experiment
package batch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"hookbed/analysis/durable"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

// schema is the version of submit.json.
const schema = 1

// Engines.
const (
	Slurm      = "slurm"
	Kubernetes = "kubernetes"
)

// Engines lists the batch systems.
func Engines() []string { return []string{Slurm, Kubernetes} }

// Job is a submitted plan.
type Job struct {
	Schema    int    `json:"schema"`
	Name      string `json:"name"` // of the experiment
	Revision  string `json:"hookbed_revision"`
	Engine    string `json:"engine"`
	Tasks     int    `json:"tasks"`
	Blocks    int    `json:"blocks"`     // of all tasks
	Guests    int    `json:"guests"`     // of a task, at once
	MemoryMiB int    `json:"memory_mib"` // of a task
	// BlockSeconds is how long a block takes by the estimate, and LimitSeconds how long a task may.
	BlockSeconds float64 `json:"block_seconds"`
	LimitSeconds int     `json:"limit_seconds"`
	Retries      int     `json:"retries"` // how often a task begins again
	Store        string  `json:"store,omitempty"`
	Partition    string  `json:"partition,omitempty"`
	// Options are further ones of the engine's command.
	Options []string `json:"options,omitempty"`
	// Image and Claim are of Kubernetes.
	Image string `json:"image,omitempty"`
	Claim string `json:"claim,omitempty"`
	// Submitted are the submissions: the first, and one for each time that tasks were submitted again.
	Submitted []Submission `json:"submitted,omitempty"`
}

// Submission is what a batch system took.
type Submission struct {
	At    time.Time `json:"at"`
	Tasks []int     `json:"tasks"`
	ID    string    `json:"id"`       // of the tasks
	Merge string    `json:"merge_id"` // of the merge
}

// Errors of jobs.
var (
	ErrNoJob    = errors.New("not the directory of a submitted job")
	ErrNotEmpty = errors.New("directory is not empty")
	// ErrMachine is wrapped when a task is on a computer that would give other numbers.
	ErrMachine = errors.New("this computer is not like the first")
)

// Dir is the directory of a job.
type Dir struct{ Path string }

func (d Dir) file(name string) string { return filepath.Join(d.Path, name) }

// Run is the run directory of a task.
func (d Dir) Run(task int) string { return filepath.Join(d.Path, "tasks", strconv.Itoa(task)) }

// Plan is the path of the plan.
func (d Dir) Plan() string { return d.file("plan.json") }

// Driver is the path of the driver's copy.
func (d Dir) Driver() string { return d.file("driver") }

// Log is the path of a task's log.
func (d Dir) Log(task int) string { return filepath.Join(d.Path, "log", strconv.Itoa(task)+".log") }

// Merged is the merged run's directory.
func (d Dir) Merged(j Job) string { return d.file(j.Name) }

// Make makes the directory of a job, with everything in it. Where it fails, nothing is left.
func Make(path string, j Job, p *plan.Plan, driver string, scripts map[string]string) (d Dir, err error) {
	d = Dir{Path: path}
	if entries, err := os.ReadDir(path); err == nil && len(entries) > 0 {
		return d, fmt.Errorf("make the job's directory: %w: %s", ErrNotEmpty, path)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make the job's directory: %w", err), os.RemoveAll(path))
		}
	}()
	for _, dir := range []string{"tasks", "status", "log"} {
		if err := os.MkdirAll(d.file(dir), 0o755); err != nil {
			return d, err
		}
	}
	encoded, err := p.Encode()
	if err != nil {
		return d, err
	}
	if err := durable.WriteFile(d.Plan(), encoded, 0o644); err != nil {
		return d, err
	}
	if err := copyProgram(driver, d.Driver()); err != nil {
		return d, err
	}
	for name, text := range scripts {
		if err := durable.WriteFile(d.file(name), []byte(text), 0o755); err != nil {
			return d, err
		}
	}
	return d, d.Save(j)
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return durable.Write(to, 0o755, func(out *os.File) error {
		_, err := io.Copy(out, in)
		return err
	})
}

// Save writes submit.json.
func (d Dir) Save(j Job) error {
	text, err := j.Encode()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(d.file(JobFile), []byte(text), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", d.file(JobFile), err)
	}
	return nil
}

// JobFile is the file of a job's directory that describes it.
const JobFile = "submit.json"

// Encode is the content of that file.
func (j Job) Encode() (string, error) {
	j.Schema = schema
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode the job: %w", err)
	}
	return string(data) + "\n", nil
}

// Open reads the job of a directory. The error for another directory wraps ErrNoJob.
func Open(path string) (Dir, Job, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Dir{}, Job{}, err
	}
	d, j := Dir{Path: path}, Job{}
	err = readJSON(d.file(JobFile), &j)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return d, j, fmt.Errorf("%w: %s has no %s", ErrNoJob, path, JobFile)
	case err != nil:
		return d, j, err
	case j.Schema != schema || j.Tasks < 1 || j.Blocks < j.Tasks:
		return d, j, fmt.Errorf("%w: %s is of schema %d with %d tasks for %d blocks, want schema %d", ErrNoJob, d.file(JobFile), j.Schema, j.Tasks, j.Blocks, schema)
	}
	return d, j, nil
}

// Shard is the part of the plan that a task runs.
func (j Job) Shard(task int) rundir.Shard { return rundir.Shard{I: task, N: j.Tasks} }

// blocksOf lists the blocks of a task.
func (j Job) blocksOf(task int) (out []int) {
	for b := 1; b <= j.Blocks; b++ {
		if j.Shard(task).Has(b) {
			out = append(out, b)
		}
	}
	return out
}

// all lists the tasks.
func (j Job) all() (out []int) {
	for i := range j.Tasks {
		out = append(out, i+1)
	}
	return out
}

// Limit is how long a task of a plan may take: several times the estimate, since computers differ,
// and the time to start. block is how long a block takes by the estimate.
func Limit(block time.Duration, blocks, tasks, guests int) time.Duration {
	const slower, start = 4, 10 * time.Minute
	most := (blocks + tasks - 1) / tasks
	turns := (most + guests - 1) / guests
	return (slower*time.Duration(turns)*block + start).Round(time.Minute)
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := durable.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

package step

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/proc"
	"hookbed/driver/guest/ruleset"

	"hookbed/driver/tail"
)

// programLimit bounds a Program that sets no limit of its own: 10 000 rules take
// bpfilter half a minute.
const programLimit = 120.0

// external is where the filters of other projects run, and those of them that stay.
type external struct {
	otherRoot                   // Hello.ExternalRoot
	roots     map[string]string // Hello.Roots
	agents    map[string]*agent // Daemons of other roots, by handle
	daemons   map[string]*proc.Process
	adopted   map[string]bool // handles of objects that AdoptBPF filed
}

// otherRoot is a root file system that is not the endpoints'.
type otherRoot struct {
	root      string
	container *proc.Container // of the present setup, nil before its first program
}

// needContainer is the container of the present setup in which a root's programs run;
// what is the name of those.
func (c *call) needContainer(p *otherRoot, what string) (*proc.Container, error) {
	if p.container != nil {
		return p.container, nil
	}
	if p.root == "" {
		return nil, fmt.Errorf("the session named no root file system of %s", what)
	}
	r, err := proc.OpenContainer(c.at.Namespace, proc.Room{Root: p.root})
	if err != nil {
		return nil, fmt.Errorf("open the container of %s in %s: %w", what, p.root, err)
	}
	p.container = r
	c.undoHere("container of "+what, func(undoing) error {
		p.container = nil
		return r.Close()
	})
	return r, nil
}

func doTool(c *call, a bundle.Tool) error {
	start := time.Now()
	_, err := c.run(c.ctx, a.Do)
	metric := a.Metric
	if metric == "" {
		metric = bundle.MetricLoad
	}
	c.value(metric, time.Since(start).Seconds())
	if a.Undo != nil {
		// Also of one that failed: it may have got half way.
		c.undoHere("tool "+a.Do.String(), func(u undoing) error {
			_, err := c.run(u.ctx, *a.Undo)
			return err
		})
	}
	return err
}

// run runs a program to its end and returns its standard output. One that fails
// is the subject's fault, or unsupported where it says so.
func (c *call) run(ctx context.Context, p bundle.Program) (string, error) {
	job, clean, err := c.prepare(p)
	if err != nil {
		return "", err
	}
	defer clean()
	out, errTail := &proc.Head{Limit: rawLimit}, tail.NewBuffer(proc.TailLimit)
	job.program.Stdout, job.program.Stderr = out, errTail
	proc, err := c.x.launcher.Start(job.at, job.program)
	if err != nil {
		return "", refusedScript(p, err)
	}
	limit := p.Timeout
	if limit == 0 {
		limit = programLimit
	}
	within := *c
	within.ctx = ctx
	ended, err := within.await(proc, limit)
	said := strings.TrimSpace(errTail.String())
	switch {
	case err != nil:
		return "", err
	case !ended:
		return "", fault.Subject("%s: not finished after %g s: %s", p, limit, said)
	case proc.Err == nil:
		return string(out.Data), nil
	case ruleset.LackedFeature(said) != "":
		return "", fault.Unsupported("kernel %s lacks %s: %s: %w: %s", fault.KernelRelease(), ruleset.LackedFeature(said), p, proc.Err, said)
	}
	return "", fault.Subject("%s: %w: %s", p, proc.Err, said)
}

// refusedScript blames a script that the kernel does not execute: it has no first
// line that names an interpreter, or one that is not there. Other programs are
// the rig's own.
func refusedScript(p bundle.Program, err error) error {
	var at *os.PathError
	if p.Script == "" || !errors.As(err, &at) {
		return err
	}
	for _, e := range []error{unix.ENOENT, unix.ENOEXEC, unix.EACCES, unix.ENOTDIR, unix.ELOOP} {
		if errors.Is(at, e) {
			return fault.Subject("%s: cannot be executed: %w: its first line names no interpreter that this machine has", p, at.Err)
		}
	}
	return err
}

// job is a program with the endpoint in which it runs.
type job struct {
	at      *proc.Endpoint
	program proc.Program
}

// prepare readies the files and the endpoint of a program. clean removes the files.
func (c *call) prepare(p bundle.Program) (j job, clean func(), err error) {
	clean = func() {}
	dir := ""
	if p.Script != "" {
		if dir, err = c.scriptDir(p); err != nil {
			return j, clean, err
		}
		clean = func() { _ = os.RemoveAll(dir) }
		j.at = &proc.Endpoint{Namespace: c.at.Namespace}
		j.program = proc.Program{Argv: append([]string{filepath.Join(dir, filepath.Base(p.Script))}, p.Argv...), Dir: dir}
	} else {
		r, err := c.needContainer(&c.x.external.otherRoot, "external programs")
		if err != nil {
			return j, clean, err
		}
		j.at = &proc.Endpoint{Namespace: c.at.Namespace, Root: c.x.external.root, Container: r}
		j.program = proc.Program{Argv: slices.Clone(p.Argv)}
	}
	if err := c.complete(p, dir, &j.program); err != nil {
		clean()
		return j, func() {}, err
	}
	return j, clean, nil
}

// complete replaces the placeholders of a program's texts, and opens its input.
func (c *call) complete(p bundle.Program, dir string, to *proc.Program) error {
	for i, arg := range to.Argv {
		text, err := c.linkText(arg)
		if err != nil {
			return err
		}
		to.Argv[i] = strings.ReplaceAll(text, "{dir}", dir)
	}
	for key, value := range p.Env {
		text, err := c.linkText(value)
		if err != nil {
			return err
		}
		to.Env = append(to.Env, key+"="+strings.ReplaceAll(text, "{dir}", dir))
	}
	if p.Stdin == "" {
		return nil
	}
	data, err := c.file(p.Stdin)
	if err != nil {
		return err
	}
	text, err := c.linkText(string(data))
	to.Stdin = strings.NewReader(text)
	return err
}

// scriptDir makes a directory with the script and its files.
func (c *call) scriptDir(p bundle.Program) (string, error) {
	dir, err := os.MkdirTemp(c.x.blobs, "script.")
	if err != nil {
		return "", fmt.Errorf("make the script's directory: %w", err)
	}
	for _, name := range append([]string{p.Script}, p.Files...) {
		data, err := c.file(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o700)
		}
		if err != nil {
			_ = os.RemoveAll(dir)
			return "", err
		}
	}
	return dir, nil
}

func doDaemon(c *call, a bundle.Daemon) error {
	if _, ok := c.x.servers[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("server handle %q is taken", a.Handle)
	}
	if a.Root != "" {
		return c.startAgent(a)
	}
	j, _, err := c.prepare(bundle.Program{Argv: a.Argv, Env: a.Env})
	if err != nil {
		return err
	}
	out := tail.NewBuffer(proc.TailLimit)
	j.program.Stdout, j.program.Stderr = out, out
	p, err := c.x.launcher.Start(j.at, j.program)
	if err != nil {
		return err
	}
	if c.x.external.daemons == nil {
		c.x.external.daemons = map[string]*proc.Process{}
	}
	c.x.external.daemons[a.Handle] = p
	c.keepServer(a.Handle, func(ctx context.Context) error {
		delete(c.x.external.daemons, a.Handle)
		return p.End(ctx)
	})
	err = proc.AwaitSocket(c.ctx, p, a.Socket, 0)
	if err == nil || c.ctx.Err() != nil {
		return err
	}
	_ = p.End(c.ctx) // so that its output is complete
	said := strings.TrimSpace(out.String())
	if strings.Contains(said, lacksFunction) {
		return fault.LacksFeature("start "+a.Argv[0], a.Argv[0], "6.6", fmt.Errorf("%w: %s", err, said))
	}
	return fault.Subject("start %s: %w: %s", a.Argv[0], err, said)
}

// lacksFunction is what bpfilter says where the kernel has not every function
// that its programs call; of 0.6 the newest are in 6.6.
const lacksFunction = "failed to find BTF type"

// Package step executes the steps of bundles on a node, and undoes them: a handler for each
// kind of step, and the session with the driver.
package step

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/mark"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/probe"
	"hookbed/driver/guest/proc"
)

// executor acts on one node and remembers how to undo it. It serves one
// request at a time.
type executor struct {
	settings
	holdings
	surroundings
	node     *proc.Endpoint
	handlers map[string]handler
	undo     undoStack
	launcher proc.Launcher
	external external
	http     otherRoot        // of the programs of HTTP
	trial    *bundle.SealedAt // the one that runs in a sealed guest; else nil
}

// settings are what a session says at its beginning, or a command line does.
type settings struct {
	root    string // EndpointRoot of Hello
	blobs   string // directory of files by SHA-256
	named   bool   // files may also lie there under their own names
	machine bool   // Machine of Hello
	quiet   bool   // of a sealed guest: nothing is looked at that virtual time has no use for
}

// holdings are what steps made, for later steps, by name or handle.
type holdings struct {
	endpoints map[string]*proc.Endpoint
	objects   map[string]*ebpf.Collection
	servers   map[string]func(context.Context) error // ends a Start or Listen
	processes map[string]int                         // PIDs of those of Start
	flows     map[string]*sourcedFlow
	sniffers  map[string]*probe.Sniffer
	snapshots map[string]counters

	recordings map[string]recording
}

// surroundings are what a test replaces.
type surroundings struct {
	mounted     string                            // directory of the engine's network namespaces
	jit         func() (map[string]string, error) // reads the machine's state of the JIT compiler
	answerLimit time.Duration                     // probe.AnswerLimit
	silentLimit time.Duration                     // probe.SilentLimit
	begin, end  func(setup, trial int)            // set the marks around a workload
}

func newExecutor() (*executor, error) {
	ns, err := netns.Current("")
	if err != nil {
		return nil, err
	}
	return &executor{
		node:     &proc.Endpoint{Namespace: ns},
		handlers: handlers(),
		holdings: holdings{
			endpoints: map[string]*proc.Endpoint{},
			objects:   map[string]*ebpf.Collection{},
			servers:   map[string]func(context.Context) error{},
			processes: map[string]int{},
			flows:     map[string]*sourcedFlow{},
			sniffers:  map[string]*probe.Sniffer{},
			snapshots: map[string]counters{},

			recordings: map[string]recording{},
		},
		surroundings: surroundings{mounted: engineNamespaces, jit: readJIT, answerLimit: probe.AnswerLimit, silentLimit: probe.SilentLimit, begin: mark.Begin, end: mark.End},
	}, nil
}

// call is one step being executed, on a thread in the step's namespace.
type call struct {
	ctx    context.Context
	x      *executor
	step   bundle.Step
	at     *proc.Endpoint
	nl     *netlink.Handle
	files  map[string]bundle.File
	result *bundle.StepResult
	raw    map[string]string
}

type handler func(*call) error

// handlers is the table of what the helper can do, by kind.
func handlers() map[string]handler {
	t := map[string]handler{}
	on(t, doNetns)
	on(t, doVeth)
	on(t, doNetkit)
	on(t, doNeedNetkit)
	on(t, doBridge)
	on(t, doVxlan)
	on(t, doFDB)
	on(t, doOverlayNetns)
	on(t, doSetLink)
	on(t, doAddr)
	on(t, doRoute)
	on(t, doLocalMark)
	on(t, doNeigh)
	on(t, doSysctl)
	on(t, doOffload)
	on(t, doRules)
	on(t, doLoadBPF)
	on(t, doFillMap)
	on(t, doAttachBPF)
	on(t, doCgroup)
	on(t, doListen)
	on(t, doStart)
	on(t, doSniff)
	on(t, doStop)
	on(t, doProbes)
	on(t, doRefusals)
	on(t, doRequests)
	on(t, doFlow)
	on(t, doRead)
	on(t, doExpect)
	on(t, doGuard)
	on(t, doExec)
	on(t, doParallel)
	on(t, doSnapshot)
	on(t, doTestRuns)
	on(t, doEmptyBPF)
	on(t, doCountRuns)
	on(t, doGenerate)
	on(t, doTool)
	on(t, doDaemon)
	on(t, doAdoptBPF)
	on(t, doCiliumReady)
	on(t, doCiliumEndpoint)
	on(t, doCiliumPolicies)
	on(t, doRecordCalls)
	on(t, doRecordDrops)
	on(t, doCountInstructions)
	on(t, doEndRecord)
	return t
}

func on[A bundle.Action](t map[string]handler, do func(*call, A) error) {
	var zero A
	t[zero.Kind()] = func(c *call) error {
		a, ok := c.step.Do.(A)
		if !ok {
			return fmt.Errorf("step of kind %q holds a %T", zero.Kind(), c.step.Do)
		}
		return do(c, a)
	}
}

// undoHere registers the undo of what was just done, to run in the step's own
// namespace.
func (c *call) undoHere(what string, act func(undoing) error) {
	c.x.undo.push(undoEntry{what: what, at: c.at.Namespace, act: act})
}

// value records a measured value of the step.
func (c *call) value(key string, v float64) {
	if c.result.Values == nil {
		c.result.Values = map[string]float64{}
	}
	c.result.Values[key] = v
}

// note appends to the step's note.
func (c *call) note(format string, args ...any) {
	if c.result.Note != "" {
		c.result.Note += "; "
	}
	c.result.Note += fmt.Sprintf(format, args...)
}

// steps executes a chunk and stops at the first step that fails. Results and
// raw files of the steps before, and of the failed one, return either way.
func (x *executor) steps(ctx context.Context, s bundle.Steps) bundle.Reply {
	reply := bundle.Reply{Raw: map[string]string{}}
	for i, step := range s.Steps {
		res, err := x.execute(ctx, step, s.Files, reply.Raw)
		reply.Results = append(reply.Results, res)
		if err != nil {
			reply.Error = describe(i, step, err)
			reply.Fault, reply.Step = fault.Of(err), i+1
			return reply
		}
	}
	return reply
}

// describe words the failure of a step for the driver.
func describe(i int, step bundle.Step, err error) string {
	where := step.Do.Kind()
	if step.In != "" {
		where += " in " + step.In
	}
	return fmt.Sprintf("step %d (%s): %v", i+1, where, err)
}

func (x *executor) execute(ctx context.Context, step bundle.Step, files map[string]bundle.File, raw map[string]string) (bundle.StepResult, error) {
	res := bundle.StepResult{Kind: step.Do.Kind()}
	if err := ctx.Err(); err != nil {
		return res, fmt.Errorf("interrupted: %w", err)
	}
	do, ok := x.handlers[res.Kind]
	if !ok {
		return res, fmt.Errorf("unknown step kind %q", res.Kind)
	}
	at, err := x.endpointOf(x.where(step.Node, step.In))
	if err != nil {
		return res, err
	}
	c := &call{ctx: ctx, x: x, step: step, at: at, files: files, result: &res, raw: raw}
	start := time.Now()
	err = at.WithNetlink(func(h *netlink.Handle) error {
		c.nl = h
		return c.marked(do)
	})
	res.Seconds = time.Since(start).Seconds()
	if err != nil && ctx.Err() != nil {
		return res, fmt.Errorf("interrupted: %w", errors.Join(ctx.Err(), err))
	}
	return res, err
}

// marked executes a step, between marks if it is a trial's workload: the programs whose output is
// kept, which a warm-up's is not; or attempts that are marked. What is between the marks is what the
// helper needs to start these programs, all of their lives, and the time until the helper has seen
// their end; or all of the attempts. The other steps of the phase, and the helper's conversation with
// the first process, are outside.
func (c *call) marked(do handler) error {
	at := c.x.trial
	if at == nil || !isWorkload(c.step) {
		return do(c)
	}
	c.x.begin(at.Setup, at.Trial)
	defer c.x.end(at.Setup, at.Trial)
	return do(c)
}

// isWorkload says whether a step is what a trial measures.
func isWorkload(s bundle.Step) bool {
	do := s.Do
	if refused, ok := do.(bundle.Refusals); ok {
		return refused.Marked
	}
	if together, ok := do.(bundle.Parallel); ok && len(together.Steps) > 0 {
		do = together.Steps[0].Do
	}
	program, ok := do.(bundle.Exec)
	return ok && s.Phase == bundle.Run && program.Out != ""
}

// undoTo undoes back to a mark within bundle.UndoLimit, or bundle.TracerLimit more if something is
// still recorded. Undoing everything also ends whatever process an endpoint left behind.
func (x *executor) undoTo(n int) error {
	limit := bundle.UndoLimit
	if len(x.recordings) > 0 {
		limit += bundle.TracerLimit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := x.undo.undoTo(ctx, n)
	if n == 0 {
		x.launcher.Close()
	}
	return err
}

// Package datapathtest is the conformance suite of package datapath: one meaning
// of "enforced" that every arm passes, on a real kernel, by the real guest
// helper.
//
// The suite knows what policies mean and tests arms by packets. It does not know
// how an arm enforces them, but for the one table of what some arms do not
// promise (exceptions), and that is checked as well.
package datapathtest

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// Rig is where arms are put to the test: this computer's kernel.
type Rig struct {
	Guest    string // the guest helper's binary
	Dir      string // a directory for files of bundles
	External string // root file system of the external filters
	HTTP     string // root file system of the programs of HTTP
	// Roots are those of agents, by their names in bundle.Hello.
	Roots map[string]string
	// Silence is how long nothing may come back of a packet that is dropped. It
	// must be many times what an admitted one takes.
	Silence time.Duration
	// Report collects the results; nil for none.
	Report *Report
	// Other is an arm that is put in force instead of the tested one at the end.
	Other Arm
}

// Checks, in the order of the table's columns.
const (
	checkApply     = "apply"
	checkVerify    = "verify"
	checkTuples    = "tuples"
	checkCounters  = "counters"
	checkSize      = "size"
	checkAgain     = "again"
	checkUpdate    = "update"
	checkFragments = "fragments"
	checkErrors    = "errors"
	checkUnrelated = "unrelated"
	checkIPv6      = "ipv6"
	checkRemove    = "remove"
	checkCrash     = "crash"
	checkOther     = "other"
)

// Check is one check and the question that it answers.
type Check struct{ Name, Doc string }

// Checks lists all.
func Checks() []Check {
	return []Check{
		{checkApply, "the steps apply in fresh namespaces"},
		{checkVerify, "the arm's own proof holds"},
		{checkTuples, "each (source, port, protocol) gets the policies' verdict: client, first, middle and last policy, next to them, and nobody; right and wrong port; TCP, UDP, ping"},
		{checkCounters, "the hook's counters grow by at least what was sent, dropped and admitted"},
		{checkSize, "the kernel holds N policies for N = 3, 100, and with options at their defaults 1 and 1000"},
		{checkAgain, "applied over itself: refused, and the first stays whole; applied, removed and applied again: as the first time"},
		{checkUpdate, "one of 100 policies is added and removed under traffic: nothing forbidden gets in, no connection breaks, the new source gets in after and not before"},
		{checkFragments, "admitted in fragments as promised; forbidden in no kind of fragment"},
		{checkErrors, "path MTU discovery of an admitted connection works as promised; a closed port says so"},
		{checkUnrelated, "the server's own connections, its neighbours, the node: as promised"},
		{checkIPv6, "all of it over IPv6, neighbour discovery included"},
		{checkRemove, "removed, nothing is left: links, addresses, routes, neighbours, qdiscs, filters, rule sets, sets, sysctls, offloads, programs, maps, links, processes"},
		{checkCrash, "the helper killed in the middle of applying, and once applied: nothing is left (options at their defaults)"},
		{checkOther, "another arm afterwards in the same namespaces is as if it were the first (options at their defaults)"},
	}
}

// Status of a check.
type Status string

// Statuses.
const (
	OK          Status = "ok"
	Failed      Status = "FAIL"
	Unsupported Status = "unsupported"
	Declared    Status = "declared" // what the arm does not promise does not happen
	None        Status = "-"        // there is nothing to check
)

// Result is what came of a check.
type Result struct {
	Status Status
	Note   string
}

// noneError says that an arm has nothing that a check could ask about.
type noneError struct{ reason string }

func (e *noneError) Error() string { return e.reason }

func none(format string, args ...any) error { return &noneError{fmt.Sprintf(format, args...)} }

// declaredError says that an arm behaves as declared: it does not do what it
// does not promise.
type declaredError struct{ reason string }

func (e *declaredError) Error() string { return e.reason }

// Numbers of policies.
const (
	mainPolicies   = 3
	updatePolicies = 100
)

// Conform puts one arm to the test.
func Conform(t *testing.T, rig Rig, arm Arm) {
	t.Helper()
	b := &bench{t: t, rig: rig, arm: arm, held: map[int]map[string]float64{}}
	start := time.Now()
	defer func() {
		b.end()
		rig.Report.end(arm, time.Since(start))
	}()
	if err := b.begin(); err != nil {
		t.Fatal(err)
	}
	n := mainPolicies
	if arm.NoPolicies {
		n = 0
	}
	if !b.check(checkApply, func() error { return b.apply(arm, n) }) {
		return
	}
	b.check(checkVerify, b.verify)
	b.record(n)
	if err := b.populate(); err != nil {
		t.Fatalf("prepare traffic: %v", err)
	}
	b.check(checkTuples, b.tuples)
	b.check(checkCounters, b.counters)
	b.check(checkFragments, b.fragmented)
	b.check(checkErrors, b.errors)
	b.check(checkUnrelated, b.unrelated)
	b.check(checkIPv6, b.ipv6)
	over := b.applyOver()
	b.check(checkRemove, b.remove)
	again := b.check(checkAgain, func() error { return errors.Join(over, b.applyAgain()) })
	b.check(checkUpdate, func() error { return b.update(again) })
	b.check(checkSize, b.size)
	b.check(checkOther, b.other)
	b.check(checkCrash, b.crash)
}

// plain: all options are at their defaults. What does not depend on options is
// checked of such arms only.
func (a Arm) plain() bool { return maps.Equal(a.Options, a.defaults) }

// check runs a check as a subtest and records what came of it. It says whether
// the arm can go on.
func (b *bench) check(name string, run func() error) bool {
	b.t.Helper()
	var r Result
	b.t.Run(name, func(t *testing.T) {
		start := time.Now()
		r = resultOf(run())
		if r.Status == Failed {
			t.Error(r.Note)
		} else if r.Note != "" {
			t.Logf("%s: %s", r.Status, r.Note)
		}
		b.rig.Report.add(b.arm, name, r, time.Since(start))
	})
	return r.Status == OK
}

// version is how a message names a kernel or tool: "since Linux 6.7", "kernel
// 6.18.44 lacks ...".
var version = regexp.MustCompile(`\d+\.\d+`)

func resultOf(err error) Result {
	var n *noneError
	var d *declaredError
	switch {
	case err == nil:
		return Result{Status: OK}
	case errors.As(err, &n):
		return Result{None, n.reason}
	case errors.As(err, &d):
		return Result{Declared, d.reason}
	case errors.Is(err, datapath.ErrNotSupported), unsupported(err):
		if !version.MatchString(err.Error()) {
			return Result{Failed, "unsupported, but names no version: " + err.Error()}
		}
		return Result{Unsupported, err.Error()}
	}
	return Result{Failed, err.Error()}
}

// bench is one arm being tested: a helper with two nodes, and what is applied.
type bench struct {
	t      *testing.T
	rig    Rig
	arm    Arm
	h      *helper
	fact   map[string]string
	nodes  []*netns
	before []state                    // of the nodes, wired and otherwise untouched
	start  int                        // undo mark after the wiring
	held   map[int]map[string]float64 // counters by number of policies
	sizes  []error                    // what they do not agree with
	pace   time.Duration              // what an admitted exchange took the last time

	// What is applied.
	set            datapath.Setup
	policies       policySet
	client, server *netns
	foreign        *netns    // has the sources that no endpoint has: mostly the client
	echo           *services // of the server
	back           *services // of the client
}

// begin starts a helper, wires two nodes in it as the local provider does, and
// looks at them.
func (b *bench) begin() error {
	var err error
	if b.h, err = startHelper(b.rig); err != nil {
		return err
	}
	if b.fact, err = b.h.facts(); err != nil {
		return err
	}
	nodes := []datapath.Node{datapath.NodeAt(1), datapath.NodeAt(2)}
	if _, err := b.h.exec(nil, lab.Wiring(nodes)); err != nil {
		return fmt.Errorf("wire nodes: %w", err)
	}
	for _, n := range nodes {
		p, err := openNetns(b.h, n.Name)
		if err != nil {
			return err
		}
		b.nodes = append(b.nodes, p)
		if err := p.awaitAddresses(); err != nil {
			return err
		}
		s, err := look(p)
		if err != nil {
			return err
		}
		b.before = append(b.before, s)
	}
	b.start, err = b.h.mark()
	return err
}

// end takes the helper down whatever happened.
func (b *bench) end() {
	b.depopulate()
	for _, p := range b.nodes {
		p.close()
	}
	b.nodes = nil
	if b.h != nil {
		if err := b.h.close(); err != nil {
			b.t.Error(err)
		}
		b.h = nil
	}
}

// apply applies an arm with n policies.
func (b *bench) apply(arm Arm, n int) error {
	cell := arm.Cell(n)
	set, err := render(cell)
	if err != nil {
		return err
	}
	ps := datapath.PolicySetOf(cell)
	b.set, b.policies = set, policySet{arm: arm, installed: ps.Installed, extra: ps.Extra, deny: ps.Deny}
	if err := datapath.Check(set, b.fact); err != nil {
		return err
	}
	if _, err := b.h.exec(set.Files, set.Apply); err != nil {
		return errors.Join(err, b.undo())
	}
	return nil
}

// render is datapath.Render; a panic fails one arm, not the suite.
func render(cell plan.Cell) (set datapath.Setup, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("render: panic: %v", p)
		}
	}()
	return datapath.Render(cell)
}

// undo undoes everything but the wiring.
func (b *bench) undo() error { return b.h.undoTo(b.start) }

// verify runs the arm's own proof, and undoes what that did.
func (b *bench) verify() error {
	mark, err := b.h.mark()
	if err != nil {
		return err
	}
	_, err = b.h.exec(b.set.Files, b.set.Prove)
	return errors.Join(err, b.h.undoTo(mark))
}

// populate opens the endpoints' namespaces and has both answer.
func (b *bench) populate() error {
	var err error
	if b.client, err = openNetns(b.h, datapath.Client); err != nil {
		return err
	}
	if b.server, err = openNetns(b.h, datapath.Server); err != nil {
		return err
	}
	if b.echo, err = b.server.serve(b.serverAddr(), datapath.ServicePort, datapath.ForbiddenPort, datapath.ControlPort); err != nil {
		return err
	}
	if b.back, err = b.client.serve(b.clientAddr(), clientPort); err != nil {
		return err
	}
	b.foreign = b.client
	sources := b.sources()
	if name := datapath.Foreign(b.arm.Cell(0)); name != datapath.Client {
		if b.foreign, err = openNetns(b.h, name); err != nil {
			return err
		}
		sources = slices.DeleteFunc(sources, func(a netip.Addr) bool { return a == b.clientAddr() })
	}
	return b.foreign.adopt(endpointLink, sources)
}

// from is the namespace that has a source.
func (b *bench) from(source netip.Addr) *netns {
	if source == b.clientAddr() {
		return b.client
	}
	return b.foreign
}

// depopulate closes what populate opened, so that nothing of the test's keeps
// a namespace.
func (b *bench) depopulate() {
	for _, s := range []*services{b.echo, b.back} {
		if s != nil {
			s.close()
		}
	}
	if b.foreign != nil && b.foreign != b.client {
		b.foreign.close()
	}
	for _, p := range []*netns{b.client, b.server} {
		if p != nil {
			p.close()
		}
	}
	b.echo, b.back, b.client, b.server, b.foreign = nil, nil, nil, nil, nil
}

// reading reads the hook's counters.
func (b *bench) reading() (map[string]float64, error) {
	if b.set.Hook == nil {
		return nil, none("nothing counts packets")
	}
	reply, err := b.h.exec(nil, []bundle.Step{b.set.Hook.Read(bundle.Prove, "conformance")})
	if err != nil {
		return nil, err
	}
	return reply.Results[0].Values, nil
}

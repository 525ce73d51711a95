// Package callpath records the order in which the kernel's functions are entered for one flow of a
// cell, on the wall clock and on any kernel from 5.10, by the kernel's own function graph tracer.
// What it makes are paths without costs: the tracer takes many times as long as what it observes.
package callpath

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Idle is the PID of the tasks that run when nothing else does.
const Idle = 0

// line is one line of function_graph with CPU and process, of a function that begins.
type line struct {
	cpu, pid int
	task     string // its name's first seven characters (print_graph_proc)
	indent   int    // in columns
	name     string
}

// event is a function that begins.
type event struct {
	cpu, pid int
	task     string
	name     string
	above    []string // the functions of the thread that it is in, outermost first
}

// indent is how far the tracer indents what a function calls (TRACE_GRAPH_INDENT).
const indent = 2

// depthMost is more than the kernel follows calls (FTRACE_RETFUNC_DEPTH, 50).
const depthMost = 200

// lost stands for a function whose beginning the buffer had no room for.
const lost = "(lost)"

// readEvents reads the text of function_graph (kernel/trace/trace_functions_graph.c) with the
// options funcgraph-abstime, funcgraph-cpu and funcgraph-proc, and without funcgraph-duration. How
// deep a function is in its thread is said by its indentation, so entries that were lost do no harm
// to those after them. A line that is neither a remark nor of this form is an error.
func readEvents(r io.Reader) ([]event, error) {
	lines, err := readLines(r)
	if err != nil || len(lines) == 0 {
		return nil, err
	}
	left := slices.MinFunc(lines, func(a, b line) int { return a.indent - b.indent }).indent
	out := make([]event, 0, len(lines))
	stacks := map[int][]string{}
	for _, l := range lines {
		stack, depth := stacks[l.pid], (l.indent-left)/indent
		if depth > depthMost {
			return nil, fmt.Errorf("function_graph, %s of process %d: %d calls deep, more than %d", l.name, l.pid, depth, depthMost)
		}
		for len(stack) < depth {
			stack = append(stack, lost)
		}
		stack = stack[:depth:depth] // an event keeps it
		out = append(out, event{l.cpu, l.pid, l.task, l.name, stack})
		stacks[l.pid] = append(stack, l.name)
	}
	return out, nil
}

func readLines(r io.Reader) ([]line, error) {
	var out []line
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for n := 1; s.Scan(); n++ {
		l, ok, err := parseLine(s.Text())
		if err != nil {
			return nil, fmt.Errorf("function_graph, line %d: %w", n, err)
		}
		if ok {
			out = append(out, l)
		}
	}
	return out, s.Err()
}

// parseLine reads one line; ok is false for the ends of functions and for remarks: the head,
// switches of tasks, marks of interrupts, comments of events, lost entries.
//
//	108.252224 |   1)  netserv-287   |         tcp_sendmsg() {
func parseLine(text string) (l line, ok bool, err error) {
	rest := strings.TrimSpace(text)
	if rest == "" || strings.HasPrefix(rest, "#") || strings.HasPrefix(rest, "---") || strings.Contains(rest, "=>") || strings.Contains(rest, "<=") || strings.HasPrefix(rest, "CPU:") {
		return l, false, nil
	}
	fields := strings.SplitN(rest, "|", 3)
	if len(fields) != 3 {
		return l, false, fmt.Errorf("want `TIME | CPU) TASK-PID | FUNCTION`, got %.80q", text)
	}
	cpu, task, found := strings.Cut(fields[1], ")")
	if l.cpu, err = strconv.Atoi(strings.TrimSpace(cpu)); err != nil || !found {
		return l, false, fmt.Errorf("want a CPU before the task, got %.80q", text)
	}
	task = strings.TrimSpace(task)
	dash := strings.LastIndexByte(task, '-')
	if l.pid, err = strconv.Atoi(task[dash+1:]); err != nil || dash < 0 {
		return l, false, fmt.Errorf("want a task with its PID, got %.80q", text)
	}
	l.task = task[:dash]
	what := fields[2]
	if i := strings.LastIndexByte(what, '|'); i >= 0 { // a column of flags or of durations before it
		what = what[i+1:]
	}
	called := strings.TrimSpace(what)
	switch {
	case called == "" || strings.HasPrefix(called, "/*") || strings.HasPrefix(called, "}"):
		return l, false, nil
	case !strings.Contains(called, ";") && !strings.HasSuffix(called, "{"):
		return l, false, fmt.Errorf("want a function or its end, got %.80q", text)
	}
	l.indent, l.name = len(what)-len(strings.TrimLeft(what, " ")), functionName(called)
	return l, true, nil
}

// functionName is that of `name [module](arguments) {`. The compiler's suffixes of parts and copies
// (.isra.0, .constprop.0, .part.0) are no part of it.
func functionName(what string) string {
	name, _, _ := strings.Cut(what, "(")
	name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
	name, _, _ = strings.Cut(name, ".")
	return name
}

package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"hookbed/analysis/record"
	"hookbed/driver/campaign"
	"hookbed/driver/rundir"
)

// errNothingMeasured is the error of a run that ended without one valid number.
var errNothingMeasured = errors.New("finished, and nothing was measured")

// troubleLines is how many cells without a number the terminal shows.
const troubleLines = 10

// reasonWidth is how much of a reason one line has, in characters.
const reasonWidth = 240

// outcome is how the selected trials of a run ended: those of this call and those that the run
// directory had before.
type outcome struct {
	counts   map[string]int // trials by status
	total    int
	trouble  []trouble
	teardown []campaign.TeardownFault
}

// trouble is the trials of one cell that ended without a valid number and with one status.
type trouble struct {
	Cell   string `json:"cell"`
	Title  string `json:"title"`
	Status string `json:"status"`
	Trials int    `json:"trials"`
	Reason string `json:"reason"` // of the first
}

// outcomeOf reads the outcome from the run directory, in the order of the plan.
func outcomeOf(j job, result campaign.Result) outcome {
	o := outcome{counts: map[string]int{}, trouble: []trouble{}, teardown: result.Teardown}
	at := map[[2]string]int{}
	for _, t := range j.selected {
		status, reason, ok := j.dir.Outcome(t)
		if !ok {
			continue
		}
		o.counts[status]++
		o.total++
		if status == record.StatusOK {
			continue
		}
		key := [2]string{t.Cell, status}
		i, known := at[key]
		if !known {
			i = len(o.trouble)
			at[key] = i
			cell, _ := j.plan.CellByID(t.Cell)
			o.trouble = append(o.trouble, trouble{Cell: t.Cell, Title: cell.Title(), Status: status, Reason: reason})
		}
		o.trouble[i].Trials++
	}
	return o
}

// lost is the number of trials without a valid number although their kernel supports them.
func (o outcome) lost() int {
	return o.counts[record.StatusFailed] + o.counts[record.StatusVoid] + o.counts[record.StatusRig]
}

// err is the error of a run that ended, which decides the exit code.
func (o outcome) err(dir *rundir.Dir) error {
	ok, rig := o.counts[record.StatusOK], o.counts[record.StatusRig]
	switch {
	case rig > 0 && ok == 0 && o.lost() == rig:
		return fmt.Errorf("%w: every trial that could be measured ended so, %d of %d", campaign.ErrRig, rig, o.total)
	case ok == 0:
		return fmt.Errorf("%w: %s; reasons are in %s", errNothingMeasured, o.text(), filepath.Join(dir.Path(), "rows.csv"))
	case o.lost() > 0:
		return fmt.Errorf("%w: %d of %d trials; reasons are in %s", errFailedCells, o.lost(), o.total, filepath.Join(dir.Path(), "rows.csv"))
	case o.leftBehind() > 0:
		return fmt.Errorf("%w: every trial has its number, but %d setups could not be taken away by their own fault", errFailedCells, o.leftBehind())
	}
	return nil
}

// leftBehind is the number of setups that could not be removed, by their own fault.
func (o outcome) leftBehind() (n int) {
	for _, f := range o.teardown {
		if f.Status != record.StatusRig {
			n++
		}
	}
	return n
}

// text is the counts in one line.
func (o outcome) text() string {
	var parts []string
	for _, s := range record.Statuses() {
		if n := o.counts[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	if len(parts) == 0 {
		return "no trial has run"
	}
	return strings.Join(parts, ", ")
}

// document is the outcome for machines. "status" counts the trials of this call.
func (o outcome) document(dir *rundir.Dir, r campaign.Result, total time.Duration) map[string]any {
	left := []map[string]string{}
	for _, f := range o.teardown {
		left = append(left, map[string]string{"cell": f.Cell.ID, "title": f.Cell.Title(), "reason": f.Reason})
	}
	return map[string]any{
		"dir": dir.Path(), "status": r.Status, "seconds": r.Seconds, "total_seconds": total.Seconds(),
		"recorded": o.counts, "trouble": o.trouble, "teardown": left,
	}
}

// print is the summary at the end of a run: how many trials ended how, which
// cells have no number and why, where the time went, and what to do next.
func (o outcome) print(w io.Writer, dir *rundir.Dir, r campaign.Result, total time.Duration) {
	for _, s := range record.Statuses() {
		if n := o.counts[s]; n > 0 {
			fmt.Fprintf(w, "%-12s %d trials\n", s, n)
		}
	}
	now := 0
	for _, n := range r.Status {
		now += n
	}
	if now < o.total {
		fmt.Fprintf(w, "%d of them were recorded before\n", o.total-now)
	}
	o.printTrouble(w)
	if now > 0 {
		secondsTable(w, fmt.Sprintf("time %.1f s, of which", total.Seconds()),
			[]string{"images", "boot", "engine", "endpoints", "apply", "prove", "measure", "teardown", "guests", "record"}, r.Seconds)
	}
	o.printNext(w, dir)
}

func (o outcome) printTrouble(w io.Writer) {
	for i, t := range o.trouble {
		if i == troubleLines {
			fmt.Fprintf(w, "  and %d more cells: rows.csv has their reasons\n", len(o.trouble)-i)
			break
		}
		fmt.Fprintf(w, "  %-11s %s (%d): %s\n", t.Status, t.Title, t.Trials, oneLine(t.Reason))
	}
	for i, f := range o.teardown {
		if i == troubleLines {
			fmt.Fprintf(w, "  and %d more setups that could not be taken away\n", len(o.teardown)-i)
			break
		}
		fmt.Fprintf(w, "  not taken away: %s: %s; what came after ran in a fresh lab\n", f.Cell.Title(), oneLine(f.Reason))
	}
}

func (o outcome) printNext(w io.Writer, dir *rundir.Dir) {
	if o.counts[record.StatusOK] > 0 {
		fmt.Fprintf(w, "report with: driver report %s\n", dir.Path())
	}
	if o.lost() > 0 {
		fmt.Fprintf(w, "mend what the reasons say; these trials run again with: driver run --resume %s\n", dir.Path())
	}
	if o.counts[record.StatusUnsupported] > 0 {
		fmt.Fprintln(w, "unsupported trials never run again: what they need is not there, so choose another kernel or leave the arm out")
	}
}

// oneLine is a reason without line breaks, cut to reasonWidth.
func oneLine(reason string) string {
	text := []rune(strings.Join(strings.Fields(reason), " "))
	if len(text) > reasonWidth {
		return string(text[:reasonWidth]) + "..."
	}
	return string(text)
}

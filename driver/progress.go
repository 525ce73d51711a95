package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"hookbed/driver/campaign"
	"hookbed/driver/plan"
)

// newProgress shows a moving bar on a terminal and plain lines anywhere else.
func (a *app) newProgress(total int) (campaign.Progress, func()) {
	if a.noColor || a.json || !isTerminal(a.talk) {
		p := &lineProgress{app: a, total: total, start: time.Now()}
		return p, func() {}
	}
	container := mpb.New(mpb.WithOutput(a.talk), mpb.WithWidth(40))
	p := &barProgress{phase: "start", total: int64(total)}
	p.bar = container.AddBar(int64(total),
		mpb.PrependDecorators(decor.CountersNoUnit("%d/%d trials "), decor.Percentage()),
		mpb.AppendDecorators(decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO), "done"), decor.Any(func(decor.Statistics) string { return "  " + p.phase })),
	)
	return p, func() {
		p.bar.Abort(false)
		container.Wait()
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

type barProgress struct {
	bar   *mpb.Bar
	total int64 // the most that may run
	phase string
}

func (p *barProgress) Phase(what string) { p.phase = what }

func (p *barProgress) Trial(_ plan.Trial, c plan.Cell, status string) {
	p.phase = c.Title() + " " + status
	p.bar.Increment()
}

// Passed subtracts trials that a stopping rule skipped from the total.
func (p *barProgress) Passed(trials int) {
	p.total -= int64(trials)
	p.bar.SetTotal(p.total, false)
}

type lineProgress struct {
	app      *app
	total    int
	done     int
	start    time.Time
	measured time.Time // when the first lab was up
}

func (p *lineProgress) Phase(what string) {
	p.app.say("%6.1fs  %s", time.Since(p.start).Seconds(), what)
	if p.done == 0 {
		p.measured = time.Now()
	}
}

func (p *lineProgress) Trial(t plan.Trial, c plan.Cell, status string) {
	p.done++
	p.app.say("%6.1fs  %d/%d  %-11s %s  (block %d, trial %d)  about %s left",
		time.Since(p.start).Seconds(), p.done, p.total, status, c.Title(), t.Block, t.Trial, p.left().Round(time.Second))
	if p.app.json {
		p.app.line(map[string]any{"type": "trial", "order": t.Order, "block": t.Block, "trial": t.Trial, "cell": t.Cell, "status": status})
	}
}

// Passed subtracts trials that a stopping rule skipped from the total.
func (p *lineProgress) Passed(trials int) { p.total -= trials }

// left extrapolates from the pace so far.
func (p *lineProgress) left() time.Duration {
	return time.Duration(float64(time.Since(p.measured)) / float64(p.done) * float64(p.total-p.done))
}

func secondsTable(w io.Writer, title string, parts []string, seconds map[string]float64) {
	fmt.Fprintf(w, "%s\n", title)
	for _, part := range parts {
		if s, ok := seconds[part]; ok {
			fmt.Fprintf(w, "  %-10s %8.1f s\n", part, s)
		}
	}
}

// rateProgress reports what is measured, and how long the rest takes at this pace.
func (a *app) rateProgress() func(done, total int, what string) {
	start := time.Now()
	return func(done, total int, what string) {
		left := time.Duration(float64(time.Since(start)) / float64(max(done-1, 1)) * float64(total-done+1))
		if done == 1 {
			a.say("%6.1fs  %d/%d  %s", time.Since(start).Seconds(), done, total, what)
			return
		}
		a.say("%6.1fs  %d/%d  %s  about %s left", time.Since(start).Seconds(), done, total, what, left.Round(time.Second))
	}
}

// costProgress reports what is new, in lines.
func (a *app) costProgress() func(done, total int, what string) {
	start, last := time.Now(), ""
	return func(done, total int, what string) {
		if what == last && done%10 != 0 && done != total {
			return
		}
		last = what
		if done > 0 {
			what = fmt.Sprintf("%s, round %d of %d", what, done, total)
		}
		a.say("%6.1fs  %s", time.Since(start).Seconds(), what)
	}
}

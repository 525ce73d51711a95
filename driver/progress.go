package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"hookbed/driver/campaign"
	"hookbed/driver/plan"
)

// newProgress shows a moving bar on a terminal and plain lines anywhere else. estimate is how long all
// trials take by the plan: what is left is known from the start.
func (a *app) newProgress(total int, estimate time.Duration) (campaign.Progress, func()) {
	left := newRemaining(total, estimate)
	if a.noColor || a.json || !isTerminal(a.talk) {
		return &lineProgress{app: a, left: left}, func() {}
	}
	container := mpb.New(mpb.WithOutput(a.talk), mpb.WithWidth(40))
	p := &barProgress{phase: "start", left: left}
	p.bar = container.AddBar(int64(total),
		mpb.PrependDecorators(decor.CountersNoUnit("%d/%d trials "), decor.Percentage()),
		mpb.AppendDecorators(decor.OnComplete(decor.Any(func(decor.Statistics) string { return left.now(time.Now()).Round(time.Second).String() }), "done"), decor.Any(func(decor.Statistics) string { return "  " + p.phase })),
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

// remaining is how long a run still takes: by the plan's estimate, which the pace of the trials so
// far corrects the more the more of them there are.
type remaining struct {
	mu       sync.Mutex
	total    int // the most that may run
	done     int
	perTrial float64 // nanoseconds, by the plan
	start    time.Time
	measured time.Time // when trials began to be measured; zero: they did not
}

func newRemaining(total int, estimate time.Duration) *remaining {
	return &remaining{total: total, perTrial: float64(estimate) / float64(max(total, 1)), start: time.Now()}
}

// began notes that trials are measured from now on, if they are not yet.
func (r *remaining) began(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == 0 {
		r.measured = now
	}
}

// ended counts a trial.
func (r *remaining) ended() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
}

// passed subtracts trials that a stopping rule skipped, and returns how many may run in all.
func (r *remaining) passed(trials int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total -= trials
	return r.total
}

// counts are the trials that ended, and all that may run.
func (r *remaining) counts() (done, total int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done, r.total
}

// trust is how many trials must have ended for their pace to weigh as much as the plan.
const trust = 5

// now is the time left. It is never negative.
func (r *remaining) now(at time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := float64(r.total - r.done)
	if r.done == 0 {
		return max(0, time.Duration(r.perTrial*left)-at.Sub(r.start))
	}
	pace := float64(at.Sub(r.measured)) / float64(r.done)
	weight := float64(r.done) / float64(r.done+trust)
	return max(0, time.Duration(left*(weight*pace+(1-weight)*r.perTrial)))
}

type barProgress struct {
	bar   *mpb.Bar
	left  *remaining
	phase string
}

func (p *barProgress) Phase(what string) {
	p.phase = what
	p.left.began(time.Now())
}

func (p *barProgress) Trial(_ plan.Trial, c plan.Cell, status string) {
	p.phase = c.Title() + " " + status
	p.left.ended()
	p.bar.Increment()
}

// Passed subtracts trials that a stopping rule skipped from the total.
func (p *barProgress) Passed(trials int) {
	p.bar.SetTotal(int64(p.left.passed(trials)), false)
}

type lineProgress struct {
	app  *app
	left *remaining
}

func (p *lineProgress) Phase(what string) {
	now := time.Now()
	p.app.say("%6.1fs  %s  about %s left", now.Sub(p.left.start).Seconds(), what, p.left.now(now).Round(time.Second))
	p.left.began(now)
}

func (p *lineProgress) Trial(t plan.Trial, c plan.Cell, status string) {
	p.left.ended()
	now := time.Now()
	done, total := p.left.counts()
	p.app.say("%6.1fs  %d/%d  %-11s %s  (block %d, trial %d)  about %s left",
		now.Sub(p.left.start).Seconds(), done, total, status, c.Title(), t.Block, t.Trial, p.left.now(now).Round(time.Second))
	if p.app.json {
		p.app.line(map[string]any{"type": "trial", "order": t.Order, "block": t.Block, "trial": t.Trial, "cell": t.Cell, "status": status})
	}
}

// Passed subtracts trials that a stopping rule skipped from the total.
func (p *lineProgress) Passed(trials int) { p.left.passed(trials) }

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

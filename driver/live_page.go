package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"hookbed/analysis/durable"
	"hookbed/analysis/report"
	"hookbed/driver/campaign"
	"hookbed/driver/live"
	"hookbed/driver/plan"
)

// liveProgress shows a run's progress on a page, too.
type liveProgress struct {
	campaign.Progress
	page *live.Server
	left *remaining
}

// withPage has a run's progress shown on a page, if --serve says so. stop makes the page's last report.
func (a *app) withPage(p campaign.Progress, dir string, total int, estimate time.Duration, f runFlags) (campaign.Progress, func(), error) {
	if f.serve == "" {
		return p, func() {}, nil
	}
	l, err := live.Listen(f.serve, f.serveOpen)
	if err != nil {
		return nil, nil, err
	}
	work, remove, err := durable.Scratch("live")
	if err != nil {
		_ = l.Close() // nothing was served
		return nil, nil, fmt.Errorf("serve the live page: %w", err)
	}
	render := func() ([]byte, error) {
		if _, err := report.Make([]string{dir}, work, report.Options{}); err != nil {
			return nil, err
		}
		return os.ReadFile(filepath.Join(work, reportPage))
	}
	page := live.Serve(l, f.serveOpen, render, func(err error) { a.logger().Debug("live page", "err", err) })
	a.say("live page: http://%s/", shownAddress(l.Addr()))
	stop := func() {
		if err := page.Close(); err != nil {
			a.logger().Debug("live page", "err", err)
		}
		_ = remove() // what stays, the next call removes
	}
	return &liveProgress{Progress: p, page: page, left: newRemaining(total, estimate)}, stop, nil
}

// shownAddress is where a browser on this computer finds a listener.
func shownAddress(at net.Addr) string {
	tcp, ok := at.(*net.TCPAddr)
	if ok && tcp.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", fmt.Sprint(tcp.Port))
	}
	return at.String()
}

func (p *liveProgress) state(phase string) live.State {
	done, total := p.left.counts()
	return live.State{Phase: phase, Done: done, Total: total, Left: p.left.now(time.Now()).Seconds()}
}

func (p *liveProgress) Phase(what string) {
	p.Progress.Phase(what)
	p.page.Phase(p.state(what))
	p.left.began(time.Now())
}

func (p *liveProgress) Trial(t plan.Trial, c plan.Cell, status string) {
	p.Progress.Trial(t, c, status)
	p.left.ended()
	p.page.Trial(p.state(c.Title() + " " + status))
}

// Passed subtracts trials that a stopping rule skipped.
func (p *liveProgress) Passed(trials int) {
	if q, ok := p.Progress.(interface{ Passed(int) }); ok {
		q.Passed(trials)
	}
	p.left.passed(trials)
}

// Package live serves the report of a run that is under way: a page with how far the run is and, in
// a frame, the report of the trials so far, and events by which that page keeps up. It serves
// nothing else, and no file of the run.
package live

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// page is what a browser shows; its script is in it.
//
//go:embed page.html
var page []byte

// Names of events, as the page's script has them.
const (
	eventProgress = "progress"
	eventReport   = "report"
	eventEnd      = "end"
)

const (
	aliveEvery = 15 * time.Second // a comment, so that proxies and browsers keep the connection
	closeLimit = 2 * time.Second  // for the last events to be sent
	lastLimit  = time.Minute      // for open pages to take the last report
	waiting    = 16               // events that a slow reader may be behind; more are dropped
	leastPause = 2 * time.Second  // between two reports
	share      = 20               // a report is made when this many times its cost has passed
)

// State is how far a run is.
type State struct {
	Phase string  `json:"phase"`
	Done  int     `json:"done"` // trials
	Total int     `json:"total"`
	Left  float64 `json:"left_seconds"`
}

// event is one message of the stream.
type event struct {
	name string
	data any
}

// Server serves one run. Its methods may be called at once.
type Server struct {
	render func() ([]byte, error)
	fault  func(error)
	open   bool
	http   *http.Server

	mu       sync.Mutex
	readers  map[chan event]bool
	state    State
	report   []byte
	version  int       // of the report: how many there were
	rendered time.Time // the last
	cost     time.Duration
	pages    int           // that are open
	fetched  int           // how often this version was
	wanted   int           // how often the last version must be, once the run has ended
	taken    chan struct{} // closed when it was
	ended    chan struct{}
}

// Listen listens on an address, HOST:PORT. It must be a loopback address, unless open.
func Listen(address string, open bool) (net.Listener, error) {
	if err := Check(address, open); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve the live page: %w", err)
	}
	return l, nil
}

// Check says whether an address may be listened on.
func Check(address string, open bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is no address, want HOST:PORT as in 127.0.0.1:8080", address)
	}
	if !open && !loopback(host) {
		return fmt.Errorf("%q is not of this computer alone, and everyone who reaches it sees the report; write 127.0.0.1:PORT, or add --serve-open", address)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Serve serves a run on a listener until Close. render makes the report of the trials so far; what
// it fails with goes to fault, and the page keeps the report that it has.
func Serve(l net.Listener, open bool, render func() ([]byte, error), fault func(error)) *Server {
	s := &Server{render: render, fault: fault, open: open, readers: map[chan event]bool{}, taken: make(chan struct{}), ended: make(chan struct{})}
	s.http = &http.Server{Handler: s.guarded(), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 1 << 14}
	go func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fault(fmt.Errorf("serve the live page: %w", err))
		}
	}()
	return s
}

// Phase shows what the run does.
func (s *Server) Phase(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	s.send(event{eventProgress, state})
}

// Trial shows that a trial has ended, and makes the report anew if that was long enough ago. The
// caller waits for it: no trial is measured meanwhile, which it would disturb.
func (s *Server) Trial(state State) {
	s.Phase(state)
	s.mu.Lock()
	due := time.Since(s.rendered) >= max(leastPause, share*s.cost)
	s.mu.Unlock()
	if due {
		s.update()
	}
}

// update makes the report anew, and reports whether it could.
func (s *Server) update() bool {
	start := time.Now()
	report, err := s.render()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rendered, s.cost = time.Now(), time.Since(start)
	if err != nil {
		s.fault(fmt.Errorf("make the live report: %w", err))
		return false
	}
	s.report, s.fetched = report, 0
	s.version++
	s.send(event{eventReport, s.version})
	return true
}

// send gives an event to all readers; one who is too far behind misses it. s.mu is held.
func (s *Server) send(e event) {
	for r := range s.readers {
		select {
		case r <- e:
		default:
		}
	}
}

// Close makes the last report, sends all pages the end of the run, and stops serving when they have
// that report: it is what they go on to show.
func (s *Server) Close() error {
	made := s.update()
	s.mu.Lock()
	if made {
		s.wanted = s.pages
	}
	if s.fetched >= s.wanted {
		close(s.taken)
	}
	s.mu.Unlock()
	close(s.ended)
	select {
	case <-s.taken:
	case <-time.After(lastLimit):
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("close the live page: %w", err), s.http.Close())
	}
	return nil
}

// guarded refuses what the page does not request. The name in Host must be one of this computer: else
// a page of another site could read the report under a name that it points here (DNS rebinding).
func (s *Server) guarded() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", s.servePage)
	mux.HandleFunc("/report.html", s.serveReport)
	mux.HandleFunc("/events", s.serveEvents)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
			return
		case !s.open && !loopback(strings.Trim(host, "[]")):
			http.Error(w, "not by this name", http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Frame-Options", "SAMEORIGIN")
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; frame-src 'self'; style-src 'unsafe-inline'; script-src "+scriptDigest(page))
	_, _ = w.Write(page) // a browser that has gone needs no page
}

// scriptDigest names the page's own script, so that no other runs.
func scriptDigest(page []byte) string {
	_, script, _ := strings.Cut(string(page), "<script>")
	script, _, _ = strings.Cut(script, "</script>")
	sum := sha256.Sum256([]byte(script))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func (s *Server) serveReport(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	report, version := s.report, s.version
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if report == nil {
		report = []byte("<!doctype html><meta charset=utf-8><title>no trial yet</title><p>No trial has ended yet.\n")
	}
	_, _ = w.Write(report) // a browser that has gone needs no report
	s.mu.Lock()
	defer s.mu.Unlock()
	if version != s.version {
		return
	}
	if s.fetched++; s.fetched == s.wanted {
		close(s.taken)
	}
}

// serveEvents streams events (the HTML standard's server-sent events), first those that say how far
// the run is now.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	flush := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	mine := make(chan event, waiting)
	pages := 0
	if r.URL.Query().Has("page") { // not another program that reads the events
		pages = 1
	}
	s.mu.Lock()
	s.readers[mine] = true
	s.pages += pages
	mine <- event{eventProgress, s.state}
	if s.version > 0 {
		mine <- event{eventReport, s.version}
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.readers, mine)
		s.pages -= pages
		s.mu.Unlock()
	}()
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		var text string
		select {
		case <-r.Context().Done():
			return
		case <-alive.C:
			text = ": alive\n\n"
		case e := <-mine:
			text = e.text()
		case <-s.ended:
			_, _ = fmt.Fprint(w, s.last(mine)) // to one who may have gone
			_ = flush.Flush()
			return
		}
		if _, err := fmt.Fprint(w, text); err != nil {
			return
		}
		if err := flush.Flush(); err != nil {
			return
		}
	}
}

// last is what a reader has not had yet, and the end.
func (s *Server) last(mine chan event) string {
	text := ""
	for {
		select {
		case e := <-mine:
			text += e.text()
		default:
			return text + event{eventEnd, "the run has ended"}.text()
		}
	}
}

func (e event) text() string {
	data, err := json.Marshal(e.data)
	if err != nil {
		data = []byte("null")
	}
	return fmt.Sprintf("event: %s\ndata: %s\n\n", e.name, data)
}

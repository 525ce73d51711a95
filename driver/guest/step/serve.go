package step

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
)

// session is one conversation with a driver.
type session struct {
	x       *executor
	log     *slog.Logger
	private bool // in a mount namespace of its own
	quiet   bool // clears up only when a mark is set
	open    bool // Hello was said
	beats   bool // it says that it lives while it works
	every   time.Duration
}

// ServeOptions are what a helper's command line requests.
type ServeOptions struct {
	Private bool // it has namespaces of its own (--node-netns)
	Quiet   bool // it collects garbage when a mark is set, and at no other time
}

// Serve answers requests until the input ends or ctx does, and then undoes
// everything. A request in progress is interrupted by either.
func Serve(ctx context.Context, in io.Reader, out io.Writer, log *slog.Logger, how ServeOptions) (err error) {
	x, err := newExecutor()
	if err != nil {
		return err
	}
	x.quiet = how.Quiet
	s := &session{x: x, log: log, private: how.Private, quiet: how.Quiet, every: bundle.BeatEvery}
	if how.Quiet {
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(proc.QuietLimit))
	}
	defer func() {
		if uerr := x.undoTo(0); uerr != nil {
			log.Error("undo", "error", uerr)
			err = errors.Join(err, uerr)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for line := range readLines(ctx, cancel, in) {
		rest := s.beat(out)
		reply := s.answer(ctx, line)
		rest()
		if err := bundle.WriteReply(out, reply); err != nil {
			log.Warn("driver is gone", "error", err)
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil
}

// beat says from time to time that the helper lives, until rest is called.
func (s *session) beat(out io.Writer) (rest func()) {
	if !s.beats {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(s.every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if _, err := out.Write([]byte("\n")); err != nil {
				return // the reply meets the same error
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped // a line is never within another
	}
}

// readLines passes on the lines of the input, and cancels as soon as it ends,
// even while a request is being executed. The channel closes when ctx ends.
func readLines(ctx context.Context, cancel context.CancelFunc, in io.Reader) <-chan []byte {
	raw, lines := make(chan []byte, 64), make(chan []byte)
	go func() {
		defer cancel()
		r := bufio.NewReader(in)
		for {
			line, err := r.ReadBytes('\n')
			if err != nil {
				return
			}
			raw <- line
		}
	}()
	go func() {
		defer close(lines)
		for {
			select {
			case <-ctx.Done():
				return
			case line := <-raw:
				select {
				case lines <- line:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return lines
}

// answer executes one request line.
func (s *session) answer(ctx context.Context, line []byte) bundle.Reply {
	req, err := decodeRequest(line)
	if err != nil {
		return failed(err)
	}
	reply := s.do(ctx, req)
	reply.Seq = req.Seq
	return reply
}

func (s *session) do(ctx context.Context, req bundle.Request) bundle.Reply {
	if !s.open && req.Hello == nil {
		return failed(errors.New("the session must begin with hello"))
	}
	switch {
	case req.Hello != nil:
		return s.hello(*req.Hello)
	case req.Bind != nil:
		return failed(s.x.bind(*req.Bind))
	case req.Exec != nil:
		return s.x.steps(ctx, *req.Exec)
	case req.Mark:
		if s.quiet {
			debug.FreeOSMemory()
		}
		s.x.trial = req.Trial
		return bundle.Reply{Mark: s.x.undo.mark()}
	case req.UndoTo != nil:
		return failed(s.x.undoTo(*req.UndoTo))
	case req.Clock:
		return readClock()
	default:
		facts, err := s.x.facts(ctx)
		reply := failed(err)
		reply.Facts = facts
		return reply
	}
}

// failed is the reply to a request that ended with err, which may be nil.
func failed(err error) bundle.Reply {
	if err == nil {
		return bundle.Reply{}
	}
	return bundle.Reply{Error: err.Error(), Fault: fault.Of(err)}
}

// decodeRequest reads a line strictly: no unknown field, exactly one call.
func decodeRequest(line []byte) (bundle.Request, error) {
	var req bundle.Request
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return req, fmt.Errorf("decode request: %w", err)
	}
	n := 0
	for _, set := range []bool{req.Hello != nil, req.Bind != nil, req.Exec != nil, req.Mark, req.UndoTo != nil, req.Facts, req.Clock} {
		if set {
			n++
		}
	}
	if n != 1 {
		return req, fmt.Errorf("decode request: %d calls in one request, want 1", n)
	}
	return req, nil
}

func (s *session) hello(h bundle.Hello) bundle.Reply {
	if s.open {
		return failed(errors.New("the session is open already"))
	}
	if h.Schema != bundle.Schema {
		return failed(fault.Unsupported("step language version %d is not spoken here, only %d", h.Schema, bundle.Schema))
	}
	if s.private {
		if err := netns.MountRoot(h.EndpointRoot); err != nil {
			return failed(err)
		}
	}
	s.x.root, s.x.blobs, s.open = h.EndpointRoot, h.Blobs, true
	s.x.external.root, s.x.external.roots, s.x.machine = h.ExternalRoot, h.Roots, h.Machine
	s.x.http.root = h.HTTPRoot
	s.beats = h.Beats
	s.log.Info("session", "node", h.Node, "pid", os.Getpid())
	return bundle.Reply{PID: os.Getpid()}
}

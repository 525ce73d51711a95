package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/host"
	"hookbed/driver/tail"
)

// Fault is a failed request to a guest helper, with the party that it blames.
type Fault struct {
	Kind string // bundle.FaultSubject, FaultRig, FaultUnsupported or FaultVoid
	Err  error
}

func (f *Fault) Error() string { return f.Err.Error() }
func (f *Fault) Unwrap() error { return f.Err }

// ErrStillRuns is wrapped by the error of a teardown after which something still runs; its text
// names it.
var ErrStillRuns = host.ErrStillRuns

func rigFault(err error) error {
	var f *Fault
	if err == nil || errors.As(err, &f) {
		return err
	}
	return &Fault{Kind: bundle.FaultRig, Err: err}
}

// session is a conversation with one guest helper. Closing it makes the helper
// undo everything and exit.
type session struct {
	where  string // for messages: "node1"
	in     *io.PipeWriter
	out    *bufio.Reader
	ended  chan struct{}
	err    error // why the helper ended; read after ended is closed
	stderr *tail.Buffer
	mu     sync.Mutex // one request at a time
	seq    int        // number of the last one
	left   bool       // a call was abandoned: the helper undoes everything and ends
	pushed map[string]bool
	push   pushFunc
	end    context.CancelCauseFunc // ends the helper by signals
	// attended: an agent ends the helper and puts its machine right. Others are killed when they
	// hang: what they made ends with them, or with their machine.
	attended bool
	grace    time.Duration // for a helper to end whose input has ended
	beats    bool          // the helper says that it lives while it works
	silence  time.Duration // for which it may say nothing then
	records  bool          // calls may be recorded: undoing takes bundle.TracerLimit longer
	// started is when the session began. The driver's readings of its clock count from it.
	started time.Time
}

// pushFunc delivers files to where a helper looks for blobs.
type pushFunc func(context.Context, []bundle.File) error

// openSession starts the helper on h and greets it. push delivers a file to
// where the helper looks for blobs.
func openSession(ctx context.Context, where string, h host.Host, argv []string, hello bundle.Hello, push pushFunc) (*session, error) {
	s := startSession(ctx, where, h, argv, push)
	if err := s.greet(ctx, hello); err != nil {
		return nil, err
	}
	return s, nil
}

// greet opens the conversation. On an error the helper is ended.
func (s *session) greet(ctx context.Context, hello bundle.Hello) error {
	if err := s.hello(ctx, hello); err != nil {
		_ = s.close(ctx)
		return fmt.Errorf("start guest helper on %s: %w", s.where, err)
	}
	return nil
}

// hello opens the conversation. From then on the helper says that it lives.
func (s *session) hello(ctx context.Context, hello bundle.Hello) error {
	hello.Beats = true
	_, err := s.call(ctx, bundle.Request{Hello: &hello})
	s.beats = err == nil
	return err
}

// startSession starts a helper, and does not greet it.
func startSession(ctx context.Context, where string, h host.Host, argv []string, push pushFunc) *session {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s := sessionOf(where, inW, outR)
	s.push = push
	// The helper outlives any one call's context and ends when its input does.
	ctx, s.end = context.WithCancelCause(context.WithoutCancel(ctx))
	go func() {
		s.err = h.Run(ctx, host.Cmd{Argv: argv, Stdin: inR, Stdout: outW, Stderr: s.stderr})
		close(s.ended)
		reason := s.err
		if reason == nil {
			reason = io.EOF
		}
		_ = outW.CloseWithError(reason)
		_ = inR.CloseWithError(reason)
	}()
	return s
}

// sessionOf is a session over two pipes.
func sessionOf(where string, in *io.PipeWriter, out *io.PipeReader) *session {
	return &session{where: where, in: in, out: bufio.NewReaderSize(out, 1<<20), ended: make(chan struct{}), pushed: map[string]bool{}, started: time.Now(),
		stderr: tail.NewBuffer(4 << 10), grace: bundle.EndLimit, silence: bundle.SilenceLimit, end: func(error) {}}
}

// keepalive sends an empty line from time to time, until the helper ends. It goes
// between the lines of requests: a pipe takes each write as a whole.
func (s *session) keepalive(every time.Duration) {
	for {
		select {
		case <-s.ended:
			return
		case <-time.After(every):
		}
		if _, err := s.in.Write([]byte("\n")); err != nil {
			return
		}
	}
}

// call sends one request and waits for its reply, the helper's end, ctx, or the request's limit. A
// call that is abandoned leaves the session unusable but for close.
func (s *session) call(ctx context.Context, req bundle.Request) (bundle.Reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	req.Seq = s.seq
	line, err := json.Marshal(req)
	if err != nil {
		return bundle.Reply{}, err
	}
	limit := req.Limit()
	if req.UndoTo != nil {
		limit += s.tracing()
	}
	reply, err := s.exchanged(ctx, append(line, '\n'), limit)
	if reply.Seq != req.Seq && (err == nil || reply.Seq != 0) {
		s.abandon()
		return bundle.Reply{}, rigFault(fmt.Errorf("guest helper on %s answered request %d, and this is request %d: what it says cannot be used", s.where, reply.Seq, req.Seq))
	}
	return reply, err
}

// tracing is how much longer the helper may take to undo everything.
func (s *session) tracing() time.Duration {
	if s.records {
		return bundle.TracerLimit
	}
	return 0
}

// errHangs is the cause of the end of a helper that did not answer.
var errHangs = errors.New("it hangs")

// answer is a line of the helper's, or why there is none.
type answer struct {
	line []byte
	err  error
}

// converse sends a line that is no request, and waits for the reply to it.
func (s *session) converse(ctx context.Context, line []byte, limit time.Duration) (bundle.Reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exchanged(ctx, line, limit)
}

// exchanged sends a line and waits for the reply to it, for a limit at most, and no longer than the
// helper shows that it lives.
func (s *session) exchanged(ctx context.Context, line []byte, limit time.Duration) (bundle.Reply, error) {
	var reply bundle.Reply
	if s.left {
		return reply, rigFault(fmt.Errorf("guest helper on %s did not answer an earlier request", s.where))
	}
	a, err := s.await(ctx, line, limit)
	if err != nil {
		return reply, err
	}
	if err := json.Unmarshal(a, &reply); err != nil {
		return reply, rigFault(fmt.Errorf("guest helper on %s answered %.80q: %w", s.where, a, err))
	}
	return reply, replyFault(s.where, reply)
}

// await sends a line and returns the answer.
func (s *session) await(ctx context.Context, line []byte, limit time.Duration) ([]byte, error) {
	done, alive := make(chan answer, 1), make(chan struct{}, 1)
	go func() { done <- s.exchange(line, alive) }()
	late, silent := time.NewTimer(limit), time.NewTimer(s.silence)
	defer late.Stop()
	defer silent.Stop()
	if !s.beats {
		silent.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			s.abandon()
			return nil, ctx.Err()
		case <-late.C:
			return nil, s.hangs("has not answered for %s, which is more than its steps can take", limit)
		case <-silent.C:
			return nil, s.hangs("has said nothing for %s, also not that it lives", s.silence)
		case <-alive:
			silent.Reset(s.silence)
		case a := <-done:
			if a.err != nil {
				return nil, s.lost(a.err)
			}
			return a.line, nil
		}
	}
}

// hangs ends a helper that hangs, and returns how that shows.
func (s *session) hangs(how string, limit time.Duration) error {
	s.abandon()
	if !s.attended {
		s.end(errHangs)
	}
	return rigFault(fmt.Errorf("guest helper on %s "+how+": it hangs, and is ended", s.where, limit))
}

// abandon ends the helper's input: it undoes what it did.
func (s *session) abandon() {
	s.left = true
	_ = s.in.Close()
}

// exchange sends a line and reads one. Empty ones before it say that the helper lives.
func (s *session) exchange(line []byte, alive chan<- struct{}) answer {
	if _, err := s.in.Write(line); err != nil {
		return answer{err: err}
	}
	for {
		line, err := readLine(s.out, maxReply)
		if err != nil || !bytes.Equal(line, []byte("\n")) {
			return answer{line, err}
		}
		select {
		case alive <- struct{}{}:
		default:
		}
	}
}

// maxReply is the longest reply that is read, in bytes. The longest ones have recordings of the
// kernel's functions, of some MiB.
const maxReply = 256 << 20

// readLine reads up to the end of a line, which is part of the result, and most bytes at most.
func readLine(r *bufio.Reader, most int) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > most {
			return nil, fmt.Errorf("its answer is longer than %d bytes: %.80q", most, line)
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

func (s *session) lost(err error) error {
	select {
	case <-s.ended:
		if s.err != nil {
			err = s.err
		}
	default:
	}
	if msg := bytes.TrimSpace(s.stderr.Bytes()); len(msg) > 0 {
		err = fmt.Errorf("%w: %s", err, tail.Visible(string(msg)))
	}
	return rigFault(fmt.Errorf("guest helper on %s is gone: %w", s.where, err))
}

// replyFault is the fault that a helper reports; nil if there is none. Of what it says, as much is
// kept as a row can have. A kind of fault that there is not is the rig's.
func replyFault(where string, r bundle.Reply) error {
	if r.Error == "" {
		return nil
	}
	kind := r.Fault
	if !slices.Contains([]string{bundle.FaultSubject, bundle.FaultUnsupported, bundle.FaultVoid}, kind) {
		kind = bundle.FaultRig
	}
	return &Fault{Kind: kind, Err: fmt.Errorf("%s: %s", where, shortened(r.Error))}
}

// longestError is how much of an error that a helper reports is kept, in bytes.
const longestError = 16 << 10

func shortened(said string) string {
	if len(said) <= longestError {
		return tail.Visible(said)
	}
	return fmt.Sprintf("%s... (%d bytes)", tail.Visible(strings.ToValidUTF8(said[:longestError], "")), len(said))
}

// answers returns an error if results are not those of the steps.
func answers(results []bundle.StepResult, steps []bundle.Step) error {
	if len(results) != len(steps) {
		return fmt.Errorf("it has results of %d steps, and was given %d", len(results), len(steps))
	}
	for i, r := range results {
		if want := steps[i].Do.Kind(); r.Kind != want {
			return fmt.Errorf("result %d is of a step of kind %.40q, and the step is of kind %q", i+1, r.Kind, want)
		}
	}
	return nil
}

// Exec delivers the chunk's files and executes its steps.
func (s *session) Exec(ctx context.Context, name string, files map[string]bundle.File, steps []bundle.Step) (bundle.Reply, error) {
	if err := s.deliver(ctx, files); err != nil {
		return bundle.Reply{}, rigFault(fmt.Errorf("push files to %s: %w", s.where, err))
	}
	records := s.records
	for _, step := range steps {
		switch step.Do.(type) {
		case bundle.RecordCalls:
			records, s.records = true, true
		case bundle.EndRecord:
			records = false
		}
	}
	reply, err := s.call(ctx, bundle.Request{Exec: &bundle.Steps{Name: name, Files: files, Steps: steps}})
	if err != nil {
		return reply, err
	}
	if err := answers(reply.Results, steps); err != nil {
		s.abandon()
		return bundle.Reply{}, rigFault(fmt.Errorf("guest helper on %s: %w", s.where, err))
	}
	s.records = records
	return reply, nil
}

// deliver pushes the files that the helper does not have yet, all at once.
func (s *session) deliver(ctx context.Context, files map[string]bundle.File) error {
	var missing []bundle.File
	listed := map[string]bool{}
	for _, f := range files {
		if !s.pushed[f.SHA256] && !listed[f.SHA256] {
			missing = append(missing, f)
			listed[f.SHA256] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := s.push(ctx, missing); err != nil {
		return err
	}
	for _, f := range missing {
		s.pushed[f.SHA256] = true
	}
	return nil
}

// Mark is a position to undo to.
func (s *session) Mark(ctx context.Context) (int, error) {
	r, err := s.call(ctx, bundle.Request{Mark: true})
	return r.Mark, err
}

// UndoTo undoes what was done since a position.
func (s *session) UndoTo(ctx context.Context, mark int) error {
	_, err := s.call(ctx, bundle.Request{UndoTo: &mark})
	return err
}

// killLimit is how long a helper that gets signals may take to end: host.Run kills it after 5 s.
const killLimit = 30 * time.Second

// close ends the helper's input and waits until it has undone everything. One that does not end is
// killed. The error wraps ErrStillRuns if it lives on.
func (s *session) close(ctx context.Context) error {
	_ = s.in.Close()
	go func() { _, _ = io.Copy(io.Discard, s.out) }()
	grace := time.NewTimer(s.grace + s.tracing())
	defer grace.Stop()
	select {
	case <-s.ended:
		return s.err
	case <-ctx.Done():
	case <-grace.C:
	}
	s.end(errHangs)
	select {
	case <-s.ended:
		if s.attended {
			return fmt.Errorf("%w: the agent on %s, which has not put its machine right yet and goes on with that", ErrStillRuns, s.where)
		}
		if errors.Is(s.err, ErrStillRuns) {
			return s.err
		}
		return fmt.Errorf("guest helper on %s did not undo everything in time, and was killed", s.where)
	case <-time.After(killLimit):
		return fmt.Errorf("%w: guest helper on %s was killed, and does not end", ErrStillRuns, s.where)
	}
}

package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"hookbed/driver/tail"
)

const (
	// maxCommands is the number of commands that run at the same time on one
	// connection; sshd allows 10 sessions (MaxSessions), of which SFTP takes one and
	// the ending of commands another.
	maxCommands = 8
	// endGrace is the time between SIGTERM and SIGKILL.
	endGrace = 5 * time.Second
	// endLimit is the limit of all that ends a command.
	endLimit = 15 * time.Second
	// sessionLimit is for how long a session that the server refuses is tried again.
	sessionLimit = 20 * time.Second
	// drainGrace is the wait for the output of a command that has ended.
	drainGrace = 2 * time.Second
)

// errClosed is the cause of a link that was closed on purpose.
var errClosed = errors.New("connection closed")

// SSH is a machine reached by SSH and SFTP over one connection, whose login
// shell is a POSIX shell. Safe for concurrent use.
type SSH struct {
	addr   string
	conn   *activeConn
	client *ssh.Client
	slots  chan struct{} // one per running command

	once  sync.Once
	cause error         // why the link ended; read after lost is closed
	lost  chan struct{} // closed when the link has ended

	sftpMu sync.Mutex
	sftp   *sftp.Client // opened by the first transfer
}

var _ Host = (*SSH)(nil)

func newSSH(cfg SSHConfig, conn *activeConn, client *ssh.Client) *SSH {
	s := &SSH{
		addr: cfg.Addr, conn: conn, client: client,
		slots: make(chan struct{}, maxCommands), lost: make(chan struct{}),
	}
	go func() { s.cut(client.Wait()) }()
	go s.keepalive(cfg.Keepalive, cfg.Silence)
	return s
}

// cut ends the link for the given reason; only the first one counts.
func (s *SSH) cut(cause error) {
	s.once.Do(func() {
		s.cause = cause
		if cause == nil {
			s.cause = io.EOF
		}
		_ = s.conn.Close() // the link has ended in any case
		close(s.lost)
	})
}

// Close ends the connection and with it every command and forward on it.
func (s *SSH) Close() error {
	s.cut(errClosed)
	_ = s.client.Wait() // its error is the one just caused
	return nil
}

// keepalive checks the link until it ends.
func (s *SSH) keepalive(every, limit time.Duration) {
	for {
		select {
		case <-s.lost:
			return
		case <-time.After(every):
		}
		s.await(s.ping(), limit)
	}
}

// await waits for the answer to a check. On a busy machine it comes after the answers to
// all that was sent before, of which each shows that the link is there.
func (s *SSH) await(answer <-chan error, limit time.Duration) {
	for asked := time.Now(); ; {
		silent := time.Since(later(asked, s.conn.active()))
		if silent >= limit {
			s.cut(fmt.Errorf("no answer to a keepalive for %s", limit))
			return
		}
		select {
		case <-s.lost:
			return
		case err := <-answer:
			if err != nil {
				s.cut(err)
			}
			return
		case <-time.After(limit - silent):
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// activeConn remembers when bytes last came from the other end.
type activeConn struct {
	net.Conn
	last atomic.Int64 // Unix time, ns; 0 before the first byte
}

func (c *activeConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.last.Store(time.Now().UnixNano())
	}
	return n, err
}

func (c *activeConn) active() time.Time { return time.Unix(0, c.last.Load()) }

// ping sends a request and returns nil once the machine answers. No server
// implements the request, and every server answers it (RFC 4254, section 4).
func (s *SSH) ping() <-chan error {
	answer := make(chan error, 1)
	go func() {
		_, _, err := s.client.SendRequest("keepalive@openssh.com", true, nil)
		answer <- err
	}()
	return answer
}

// explain adds to the error of a failed request whether the link is lost. Requests
// may fail a moment before the end of the connection is known, so it pings first.
func (s *SSH) explain(err error) error {
	select {
	case <-s.lost:
	case dead := <-s.ping():
		if dead == nil {
			return fmt.Errorf("%s: %w", s.addr, err)
		}
		s.cut(dead)
	}
	<-s.lost
	return fmt.Errorf("%s: %w: %w", s.addr, ErrUnreachable, s.cause)
}

// Run runs a command through the login shell, with its arguments quoted.
func (s *SSH) Run(ctx context.Context, cmd Cmd) error {
	if err := checkArgv(cmd.Argv); err != nil {
		return err
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-s.lost:
		return s.explain(s.cause)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.run(ctx, cmd)
}

// run is Run without the limit on commands at once.
func (s *SSH) run(ctx context.Context, cmd Cmd) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	line, err := s.commandLine(cmd.Argv)
	if err != nil {
		return err
	}
	session, err := s.newSession()
	if err != nil {
		return err
	}
	defer func() { _ = session.Close() }() // EOF if the command has ended
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	kept := tail.NewBuffer(tailSize)
	filter := newPIDFilter(tee(kept, cmd.Stderr))
	session.Stdout = &guardedWriter{cmd.Stdout, stop}
	session.Stderr = &guardedWriter{filter, stop}
	if err := feed(session, cmd.Stdin); err != nil {
		return s.explain(err)
	}
	if err := session.Start(line); err != nil {
		return s.explain(fmt.Errorf("start %s: %w", cmd.Argv[0], err))
	}
	var waitErr error // written before done is closed
	done := make(chan struct{})
	go func() {
		defer close(done)
		waitErr = session.Wait()
	}()
	select {
	case <-done:
		_ = filter.flush() // the output of a shell that did not become the command
		return s.outcome(ctx, cmd, kept, waitErr)
	case <-ctx.Done():
	}
	s.end(session, filter.found, done)
	select {
	case <-s.lost:
		return s.explain(s.cause)
	default:
		return fmt.Errorf("run %s on %s: %w", cmd.Argv[0], s.addr, context.Cause(ctx))
	}
}

// newSession opens a session. sshd counts a session until it has reaped its
// process, shortly after it has reported its end, so a session that is refused as
// one too many is tried again.
func (s *SSH) newSession() (*ssh.Session, error) {
	limit := time.Now().Add(sessionLimit)
	for {
		session, err := s.client.NewSession()
		var refused *ssh.OpenChannelError
		switch {
		case err == nil:
			return session, nil
		case !errors.As(err, &refused) || time.Now().After(limit):
			return nil, s.explain(fmt.Errorf("open a session: %w", err))
		}
		time.Sleep(retryPause)
	}
}

// commandLine is the login shell's command line: the shell prints its process ID and
// then becomes the command, so that the command's group can be signaled. (sshd
// refuses the signal request of RFC 4254 for logins of root.)
func (s *SSH) commandLine(argv []string) (string, error) {
	line := `echo "` + pidMarker + `$$" >&2; exec ` + shellQuote(argv)
	if len(line) > maxCommandLine {
		return "", fmt.Errorf("run %s on %s: its arguments take %d B, at most %d go over ssh", argv[0], s.addr, len(line), maxCommandLine)
	}
	return line, nil
}

// outcome turns what Wait said into Run's error.
func (s *SSH) outcome(ctx context.Context, cmd Cmd, kept *tail.Buffer, err error) error {
	var exit *ssh.ExitError
	var missing *ssh.ExitMissingError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		out := &ExitError{Argv: cmd.Argv, Status: exit.ExitStatus(), Signal: exit.Signal(), Stderr: kept.String()}
		if out.Signal != "" {
			out.Status = -1
		}
		return out
	case errors.As(err, &missing):
		// sshd always reports how a command ended, unless the link is lost.
		return fmt.Errorf("run %s: %w: %w", cmd.Argv[0], ErrUnreachable, s.explain(err))
	case context.Cause(ctx) != nil: // a failed write to Stdout or Stderr
		return fmt.Errorf("run %s on %s: %w", cmd.Argv[0], s.addr, context.Cause(ctx))
	}
	return fmt.Errorf("run %s: %w", cmd.Argv[0], s.explain(err))
}

// endScript ends the process group $1: SIGTERM, endGrace, SIGKILL. It works in dash,
// whose `kill -TERM` does not accept `--`.
const endScript = `kill -s TERM -- "-$1" || exit 0
i=0
while [ $i -lt 100 ] && kill -s 0 -- "-$1" 2>/dev/null; do sleep 0.05; i=$((i+1)); done
kill -s KILL -- "-$1" 2>/dev/null
exit 0`

// end ends the command of a session in bounded time.
func (s *SSH) end(session *ssh.Session, found <-chan int, done <-chan struct{}) {
	limit := time.After(endLimit)
	select {
	case pid := <-found:
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.signalGroup(pid)
		}()
		select {
		case <-ended:
		case <-limit:
		}
	case <-done:
		return
	case <-limit:
	}
	_ = session.Close() // EOF if the command has ended
	select {            // so that nothing is written to Stdout and Stderr after Run
	case <-done:
	case <-time.After(drainGrace):
	}
}

// signalGroup runs endScript. It fails only if the link is lost, which the caller
// notices itself.
func (s *SSH) signalGroup(pid int) {
	session, err := s.newSession()
	if err != nil {
		return
	}
	defer func() { _ = session.Close() }()
	_ = session.Run(shellQuote([]string{"sh", "-c", endScript, "sh", strconv.Itoa(pid)}))
}

// feed copies r to the session's standard input. A reader that blocks does not delay
// the end of the command.
func feed(session *ssh.Session, r io.Reader) error {
	if r == nil {
		return nil
	}
	w, err := session.StdinPipe()
	if err != nil {
		return fmt.Errorf("open standard input: %w", err)
	}
	go func() {
		_, _ = io.Copy(w, r) // a command may leave input unread
		_ = w.Close()
	}()
	return nil
}

// guardedWriter ends a run when its writer fails: the command's output is no longer
// read, so the command would hang. A nil writer discards.
type guardedWriter struct {
	w    io.Writer
	stop context.CancelCauseFunc
}

func (g *guardedWriter) Write(p []byte) (int, error) {
	if g.w == nil {
		return len(p), nil
	}
	n, err := g.w.Write(p)
	if err != nil {
		g.stop(fmt.Errorf("pass on its output: %w", err))
	}
	return n, err
}

// Forward dials from the machine, through the SSH connection. The returned
// connection has CloseWrite, and does not support deadlines.
func (s *SSH) Forward(ctx context.Context, network, addr string) (net.Conn, error) {
	if network != "unix" && network != "tcp" {
		return nil, fmt.Errorf("forward to %s: unknown network %q, want unix or tcp", addr, network)
	}
	conn, err := s.client.DialContext(ctx, network, addr)
	var refused *ssh.OpenChannelError
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("forward to %s on %s: %w", addr, s.addr, context.Cause(ctx))
	case errors.As(err, &refused):
		return nil, fmt.Errorf("forward to %s on %s: %w", addr, s.addr, err)
	}
	return nil, fmt.Errorf("forward to %s: %w", addr, s.explain(err))
}

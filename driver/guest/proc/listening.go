package proc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	listenLimit = time.Minute          // for a server to listen; one that ends is not waited for
	listenPoll  = 5 * time.Millisecond // between looks
	tcpListen   = "0A"                 // TCP_LISTEN in /proc/net/tcp
	unixListen  = 0x10000              // __SO_ACCEPTCON in the flags of /proc/net/unix
)

// AwaitPort waits until a TCP port is listened on in the thread's namespace. It is an
// error if the process ends first. limit 0 is a minute.
func AwaitPort(ctx context.Context, p *Process, port int, limit time.Duration) error {
	return p.awaitListening(ctx, fmt.Sprintf("port %d", port), limit, func() (bool, error) { return Listening(port) })
}

// AwaitSocket waits until a process listens on a Unix socket, by the path it
// was bound to, in the thread's network namespace. limit 0 is a
// minute.
func AwaitSocket(ctx context.Context, p *Process, path string, limit time.Duration) error {
	return p.awaitListening(ctx, path, limit, func() (bool, error) {
		data, err := os.ReadFile("/proc/thread-self/net/unix")
		return err == nil && hasUnixListener(string(data), path), err
	})
}

// awaitListening waits until listens says so, at most for limit.
func (p *Process) awaitListening(ctx context.Context, on string, limit time.Duration, listens func() (bool, error)) error {
	limit = cmp.Or(limit, listenLimit)
	deadline := time.After(limit)
	for {
		if ok, err := listens(); err != nil || ok {
			return err
		}
		select {
		case <-time.After(listenPoll):
		case <-p.Done:
			return fmt.Errorf("ended before it listened on %s (%v)", on, p.Err) //nolint:errorlint // nil where it ended with status 0
		case <-deadline:
			return fmt.Errorf("does not listen on %s after %v", on, limit)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Listening reports whether any TCP socket of the thread's namespace listens
// on a port.
func Listening(port int) (bool, error) {
	for _, name := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile("/proc/thread-self/net/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return false, fmt.Errorf("read sockets: %w", err)
		}
		if hasListener(string(data), port) {
			return true, nil
		}
	}
	return false, nil
}

// hasListener looks for a listening socket in the text of /proc/net/tcp.
func hasListener(table string, port int) bool {
	for _, line := range strings.Split(table, "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != tcpListen {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); err == nil && int(n) == port {
			return true
		}
	}
	return false
}

// hasUnixListener looks for a listening socket in the text of /proc/net/unix:
// Num RefCount Protocol Flags Type St Inode Path.
func hasUnixListener(table, path string) bool {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) != 8 || f[7] != path {
			continue
		}
		if flags, err := strconv.ParseUint(f[3], 16, 32); err == nil && flags&unixListen != 0 {
			return true
		}
	}
	return false
}

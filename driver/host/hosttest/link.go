package hosttest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"hookbed/driver/host"
)

func forwardContract() []contract {
	return []contract{
		{"a unix socket is reached", forwardUnix},
		{"a TCP port is reached", forwardTCP},
		{"many are reached at once", forwardMany},
		{"a refusal is not a lost link", forwardRefused},
		{"an unknown network is refused", forwardUnknown},
	}
}

func closeContract() []contract {
	return []contract{
		{"using a closed host is ErrUnreachable", closeThenUse},
		{"closing twice is fine", closeTwice},
		{"a running command learns of it", closeInMidRun},
	}
}

// serveUpper answers every connection with its input in upper case, once the
// input has ended.
func serveUpper(t *testing.T, network, addr string) net.Addr {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				data, _ := io.ReadAll(conn)
				_, _ = io.WriteString(conn, strings.ToUpper(string(data)))
			}()
		}
	}()
	return l.Addr()
}

// socketPath is a path short enough for a unix socket (107 bytes).
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// ask sends text through a forward, closes that half and expects it in upper case.
func ask(t *testing.T, h host.Host, network, addr, text string) {
	conn, err := h.Forward(t.Context(), network, addr)
	if err != nil {
		t.Errorf("forward to %s: %v", addr, err)
		return
	}
	defer conn.Close()
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		t.Errorf("%T has no CloseWrite", conn)
		return
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Error(err)
	}
	if err := half.CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != strings.ToUpper(text) {
		t.Errorf("got %d B (%v), want the %d B sent in upper case", len(got), err, len(text))
	}
}

func forwardUnix(t *testing.T, h host.Host) {
	path := socketPath(t)
	serveUpper(t, "unix", path)
	ask(t, h, "unix", path, "hello")
	ask(t, h, "unix", path, strings.Repeat("a megabyte or so ", 60_000))
}

func forwardTCP(t *testing.T, h host.Host) {
	addr := serveUpper(t, "tcp", "127.0.0.1:0").String()
	ask(t, h, "tcp", addr, "hello")
}

func forwardMany(t *testing.T, h host.Host) {
	path := socketPath(t)
	serveUpper(t, "unix", path)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { ask(t, h, "unix", path, strings.Repeat("x", 10_000)) })
	}
	all.Wait()
}

func forwardRefused(t *testing.T, h host.Host) {
	path := filepath.Join(t.TempDir(), "nobody")
	_, err := h.Forward(t.Context(), "unix", path)
	if err == nil || errors.Is(err, host.ErrUnreachable) || !strings.Contains(err.Error(), path) {
		t.Errorf("got error %v, want one about %s", err, path)
	}
}

func forwardUnknown(t *testing.T, h host.Host) {
	if _, err := h.Forward(t.Context(), "udp", "127.0.0.1:9"); err == nil || !strings.Contains(err.Error(), "udp") {
		t.Errorf("got error %v, want one about udp", err)
	}
}

func closeThenUse(t *testing.T, h host.Host) {
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	wantUnreachable(t, h)
}

// wantUnreachable checks that every method reports the lost link.
func wantUnreachable(t *testing.T, h host.Host) {
	t.Helper()
	ctx := t.Context()
	_, pullErr := h.Pull(ctx, "/etc/passwd")
	_, forwardErr := h.Forward(ctx, "unix", "/nowhere")
	for name, err := range map[string]error{
		"Run":     h.Run(ctx, host.Cmd{Argv: []string{"true"}}),
		"Push":    h.Push(ctx, []byte("x"), filepath.Join(t.TempDir(), "file"), 0o644),
		"Pull":    pullErr,
		"Forward": forwardErr,
	} {
		if !errors.Is(err, host.ErrUnreachable) {
			t.Errorf("%s on a lost host: got error %v, want ErrUnreachable", name, err)
		}
	}
}

func closeTwice(t *testing.T, h host.Host) {
	if err := errors.Join(h.Close(), h.Close()); err != nil {
		t.Error(err)
	}
}

func closeInMidRun(t *testing.T, h host.Host) {
	in, say := io.Pipe()
	defer say.Close()
	r, result := running(context.Background(), t, h, in, "sh", "-c", "echo $$; exec cat")
	pids := readPIDs(t, r)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	wantSoon(t, result, host.ErrUnreachable)
	wantGone(t, pids) // its input has ended
}

// LostLink checks that a host whose link was cut reports it, in bounded time, to a
// command that runs and to anyone who uses it later. cut cuts the link.
func LostLink(t *testing.T, h host.Host, cut func()) {
	t.Helper()
	r, result := running(context.Background(), t, h, nil, "sh", "-c", "echo $$; exec sleep 1000")
	for _, pid := range readPIDs(t, r) {
		// A command without input does not notice that its host is lost.
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	}
	cut()
	wantSoon(t, result, host.ErrUnreachable)
	wantUnreachable(t, h)
}

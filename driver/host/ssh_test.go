package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hookbed/driver/host"
	"hookbed/driver/host/hosttest"
)

// patience ends a test that hangs: a busy machine may take long for any step.
const patience = 2 * time.Minute

// server is an sshd on loopback with its own configuration.
type server struct {
	addr       string
	hostKey    host.Key
	login      host.Key
	configPath string
	log        bytes.Buffer // read after the server has ended
	pid        int
}

// newServer writes the configuration of a server, which start starts.
func newServer(t *testing.T, extra ...string) *server {
	t.Helper()
	s := &server{addr: freeAddr(t), hostKey: newKey(t), login: newKey(t)}
	dir := t.TempDir()
	s.configPath = filepath.Join(dir, "config")
	_, port, _ := net.SplitHostPort(s.addr)
	config := append([]string{
		"ListenAddress 127.0.0.1", "Port " + port, "PidFile none", "UsePAM no", "StrictModes no",
		"PermitRootLogin yes", "PasswordAuthentication no", "LogLevel ERROR",
		"HostKey " + filepath.Join(dir, "host_key"), "AuthorizedKeysFile " + filepath.Join(dir, "authorized_keys"),
		"Subsystem sftp /usr/lib/openssh/sftp-server",
	}, extra...)
	for name, data := range map[string]string{
		"config": strings.Join(config, "\n") + "\n", "host_key": string(s.hostKey.PrivatePEM), "authorized_keys": s.login.AuthorizedKey + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// start runs the server until the test ends. It does not wait for the port.
func (s *server) start(t *testing.T) *server {
	t.Helper()
	// sshd wants this directory; the mount namespace is the tests' own.
	if _, err := os.Stat("/run/sshd"); err != nil {
		if err := errors.Join(syscall.Mount("hookbed-test", "/run", "tmpfs", 0, ""), os.Mkdir("/run/sshd", 0o755)); err != nil {
			t.Fatalf("make /run/sshd (needs root): %v", err)
		}
	}
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", s.configPath)
	cmd.Stderr = &s.log
	cmd.WaitDelay = time.Second // its sessions hold stderr too
	// No test that uses a server ends threads, which would end it too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start sshd (package openssh-server): %v", err)
	}
	s.pid = cmd.Process.Pid
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("sshd said:\n%s", s.log.String())
		}
	})
	return s
}

func (s *server) config() host.SSHConfig {
	return host.SSHConfig{Addr: s.addr, User: "root", PrivateKey: s.login.PrivatePEM, HostKey: s.hostKey.AuthorizedKey, Retry: patience}
}

func dial(t *testing.T, cfg host.SSHConfig) *host.SSH {
	t.Helper()
	h, err := host.DialSSH(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func newKey(t *testing.T) host.Key {
	t.Helper()
	key, err := host.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// freeAddr is a loopback address with a port that was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestSSHConforms(t *testing.T) {
	s := newServer(t).start(t)
	hosttest.Conform(t, func(t *testing.T) host.Host { return dial(t, s.config()) })
}

func TestSSHFullDisk(t *testing.T) {
	s := newServer(t)
	disk := smallDisk(t)
	h := dial(t, s.start(t).config())
	hosttest.FullDisk(t, h, disk)
	err := h.Push(t.Context(), make([]byte, 4<<20), filepath.Join(disk, "big"), 0o644)
	if err == nil || !strings.Contains(err.Error(), s.addr) {
		t.Errorf("error does not name %s: %v", s.addr, err)
	}
}

func TestSSHPushAll(t *testing.T) {
	h := dial(t, newServer(t).start(t).config())
	dir := t.TempDir()
	var files []host.File
	for i := range 100 {
		files = append(files, host.File{Path: filepath.Join(dir, strings.Repeat("long name ", 20)+strconv.Itoa(i)), Data: bytes.Repeat([]byte{byte(i)}, i*100), Mode: 0o600})
	}
	for range 2 {
		if err := h.PushAll(t.Context(), files...); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if data, err := os.ReadFile(f.Path); err != nil || !bytes.Equal(data, f.Data) {
				t.Fatalf("%s holds %d B (%v), want %d B", f.Path, len(data), err, len(f.Data))
			}
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(files) {
		t.Errorf("%d files are there (%v), want %d", len(entries), err, len(files))
	}
}

// TestSSHPushBelow: what was removed on the machine does not come back with a file.
func TestSSHPushBelow(t *testing.T) {
	h := dial(t, newServer(t).start(t).config())
	run := filepath.Join(t.TempDir(), "run")
	var files []host.File
	for i := range 20 {
		files = append(files, host.File{Path: filepath.Join(run, "a", "b", strconv.Itoa(i)), Data: []byte("x"), Mode: 0o600, Below: run})
	}
	if err := h.PushAll(t.Context(), files...); err == nil || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("below what is not there: %v", err)
	}
	if _, err := os.Stat(run); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it came back: %v", err)
	}
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.PushAll(t.Context(), files...); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Join(run, "a", "b")); err != nil || len(entries) != len(files) {
		t.Errorf("%d files are there (%v), want %d", len(entries), err, len(files))
	}
	files[0].Below = filepath.Join(run, "other")
	files[0].Path = filepath.Join(run, "c", "d")
	if err := h.PushAll(t.Context(), files[0]); err == nil {
		t.Error("a file elsewhere was pushed")
	}
}

func TestSSHArgumentsTooLong(t *testing.T) {
	h := dial(t, newServer(t).start(t).config())
	for _, size := range []int{130_000, 132_000} { // around 32 pages with their quotes
		err := h.Run(t.Context(), host.Cmd{Argv: []string{"true", strings.Repeat("x", size)}})
		if (err == nil) != (size < 131_000) {
			t.Errorf("an argument of %d B: got error %v", size, err)
		}
	}
}

// Another shell prints the process ID in the same way.
func TestSSHStartFilesOfShell(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rc"), []byte("echo careful >&2\necho 'hookbed-pid is not this' >&2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, "SetEnv BASH_ENV="+filepath.Join(dir, "rc")).start(t)
	h := dial(t, s.config())
	var errs bytes.Buffer
	if err := h.Run(t.Context(), host.Cmd{Argv: []string{"sh", "-c", "echo own >&2"}, Stderr: &errs}); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(errs.String(), "own\n") || strings.Contains(errs.String(), "hookbed-pid 1") {
		t.Errorf("stderr is %q", errs.String())
	}
}

func TestSSHWrongHostKey(t *testing.T) {
	s := newServer(t).start(t)
	cfg := s.config()
	cfg.HostKey = newKey(t).AuthorizedKey
	_, err := host.DialSSH(t.Context(), cfg)
	var wrong *host.HostKeyError
	if !errors.As(err, &wrong) {
		t.Fatalf("got error %v, want HostKeyError", err)
	}
	for _, key := range []string{s.hostKey.AuthorizedKey, cfg.HostKey} {
		if fp := keygenFingerprint(t, key); !strings.Contains(err.Error(), fp) {
			t.Errorf("error does not name %s: %v", fp, err)
		}
	}
	if errors.Is(err, host.ErrUnreachable) {
		t.Errorf("a wrong host key is taken for a lost link: %v", err)
	}
}

func keygenFingerprint(t *testing.T, key string) string {
	t.Helper()
	cmd := exec.Command("ssh-keygen", "-l", "-f", "-")
	cmd.Stdin = strings.NewReader(key)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[1]
}

// A machine with host keys of several types presents the pinned one, whatever its
// type; one that lacks that type is refused by fingerprint.
func TestSSHSeveralHostKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rsa")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, "HostKey "+path).start(t)
	dial(t, s.config())
	cfg := s.config()
	cfg.HostKey = string(public)
	dial(t, cfg)
	only := newServer(t).start(t)
	cfg = only.config()
	cfg.HostKey = string(public)
	var wrong *host.HostKeyError
	if _, err := host.DialSSH(t.Context(), cfg); !errors.As(err, &wrong) {
		t.Errorf("got error %v, want HostKeyError", err)
	}
}

func TestSSHWrongLogin(t *testing.T) {
	cfg := newServer(t).start(t).config()
	other := newKey(t)
	cfg.PrivateKey = other.PrivatePEM
	connected := countConnections(&cfg)
	_, err := host.DialSSH(t.Context(), cfg)
	if err == nil || errors.Is(err, host.ErrUnreachable) {
		t.Fatalf("got error %v, want a refused key", err)
	}
	for _, part := range []string{keygenFingerprint(t, other.AuthorizedKey), "refused for user root", cfg.Addr} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not say %q: %v", part, err)
		}
	}
	if n := connected.Load(); n != 1 {
		t.Errorf("%d connections, want one: the key does not get better", n)
	}
}

// countConnections counts the connections of a configuration.
func countConnections(cfg *host.SSHConfig) *atomic.Int32 {
	n := new(atomic.Int32)
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			n.Add(1)
		}
		return conn, err
	}
	return n
}

func TestSSHBadKeys(t *testing.T) {
	good := newKey(t)
	for _, cfg := range []host.SSHConfig{
		{Addr: "127.0.0.1:1", PrivateKey: []byte("not a key"), HostKey: good.AuthorizedKey},
		{Addr: "127.0.0.1:1", PrivateKey: good.PrivatePEM, HostKey: "not a key"},
		{Addr: "127.0.0.1:1", PrivateKey: good.PrivatePEM},
	} {
		if _, err := host.DialSSH(t.Context(), cfg); err == nil || errors.Is(err, host.ErrUnreachable) || !strings.Contains(err.Error(), cfg.Addr) {
			t.Errorf("got error %v, want one about a key for %s", err, cfg.Addr)
		}
	}
}

// A machine that boots refuses connections first, then ends them in the
// handshake, then answers.
func TestSSHRetriesBootingMachine(t *testing.T) {
	s := newServer(t)
	go func() {
		time.Sleep(200 * time.Millisecond)
		l, err := net.Listen("tcp", s.addr)
		if err != nil {
			t.Error(err)
			return
		}
		for range 3 {
			if conn, err := l.Accept(); err == nil {
				_ = conn.Close()
			}
		}
		_ = l.Close()
		s.start(t)
	}()
	h := dial(t, s.config())
	if err := h.Run(t.Context(), host.Cmd{Argv: []string{"true"}}); err != nil {
		t.Error(err)
	}
}

func TestSSHGivesUp(t *testing.T) {
	cfg := newServer(t).config() // never started
	for _, retry := range []time.Duration{0, 300 * time.Millisecond} {
		cfg.Retry = retry
		tries := 0
		cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			tries++
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		begin := time.Now()
		_, err := host.DialSSH(t.Context(), cfg)
		if !errors.Is(err, host.ErrUnreachable) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got error %v, want ErrUnreachable for a refused connection", err)
		}
		if took := time.Since(begin); took < retry || retry == 0 && tries != 1 {
			t.Errorf("gave up after %s and %d tries, want %s", took, tries, retry)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	cfg.Retry = time.Minute
	if _, err := host.DialSSH(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want the context's", err)
	}
}

// A server that accepts and never answers does not delay a canceled dial.
func TestSSHCancelInHandshake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := newServer(t).config()
	cfg.Addr = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	held := make(chan net.Conn, 1)
	go func() {
		conn, _ := l.Accept()
		held <- conn
		cancel()
	}()
	_, err = host.DialSSH(ctx, cfg)
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "no handshake within") {
		t.Errorf("got error %v, want the context's alone", err)
	}
	_ = (<-held).Close()
}

// cuttableConn is a connection whose outgoing bytes can be dropped, as
// on the way to a machine that has ended.
type cuttableConn struct {
	net.Conn
	vanish atomic.Bool
	wrote  atomic.Int32 // times
}

func (c *cuttableConn) Write(p []byte) (int, error) {
	c.wrote.Add(1)
	if c.vanish.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// dialCuttable connects through a Dial function of the test. silence is the time after
// which a machine that does not answer counts as lost.
func dialCuttable(t *testing.T, silence time.Duration) (*host.SSH, *cuttableConn) {
	t.Helper()
	conn := new(cuttableConn)
	cfg := newServer(t).start(t).config()
	cfg.Keepalive, cfg.Silence = 100*time.Millisecond, silence
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		conn.Conn = c
		return conn, err
	}
	return dial(t, cfg), conn
}

func TestSSHConnectionCut(t *testing.T) {
	h, conn := dialCuttable(t, patience)
	hosttest.LostLink(t, h, func() { _ = conn.Close() })
}

func TestSSHMachineVanishes(t *testing.T) {
	h, conn := dialCuttable(t, 5*time.Second)
	hosttest.LostLink(t, h, func() { conn.vanish.Store(true) })
	if err := h.Run(t.Context(), host.Cmd{Argv: []string{"true"}}); !strings.Contains(err.Error(), "keepalive") {
		t.Errorf("error does not say why: %v", err)
	}
}

func TestSSHServerKilled(t *testing.T) {
	s := newServer(t).start(t)
	h := dial(t, s.config())
	hosttest.LostLink(t, h, func() {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.pid, s.pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(string(children)) {
			pid, _ := strconv.Atoi(word)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// slowConn takes all that is written at once, and delivers it slowly, as the buffers
// before a busy machine do.
type slowConn struct {
	net.Conn
	queue chan []byte
}

func (c slowConn) Write(p []byte) (int, error) {
	c.queue <- bytes.Clone(p)
	return len(p), nil
}

func (c slowConn) deliver(bytesPerSecond int) {
	for p := range c.queue {
		time.Sleep(time.Duration(len(p)) * time.Second / time.Duration(bytesPerSecond))
		if _, err := c.Conn.Write(p); err != nil {
			return
		}
	}
}

// A check waits behind a transfer that takes longer than a machine may be silent.
func TestSSHSlowTransfer(t *testing.T) {
	const silence, size, slots = 4 * time.Second, 2 << 20, 1 << 12
	cfg := newServer(t).start(t).config()
	cfg.Keepalive, cfg.Silence = 100*time.Millisecond, silence
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		slow := slowConn{c, make(chan []byte, slots)}
		go slow.deliver(size / 9)
		return slow, err
	}
	h := dial(t, cfg)
	began := time.Now()
	err := h.Run(t.Context(), host.Cmd{Argv: []string{"wc", "-c"}, Stdin: bytes.NewReader(make([]byte, size))})
	if err != nil {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if took := time.Since(began); took < 2*silence {
		t.Errorf("the transfer took %s, want longer than two silences of %s", took, silence)
	}
}

// An idle connection remains, because the machine answers its keepalives.
func TestSSHStaysIdle(t *testing.T) {
	h, conn := dialCuttable(t, patience)
	before := conn.wrote.Load()
	for limit := time.Now().Add(patience); conn.wrote.Load() < before+5; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("no keepalives are sent")
		}
	}
	if err := h.Run(t.Context(), host.Cmd{Argv: []string{"true"}}); err != nil {
		t.Error(err)
	}
}

func TestNewKeyReadByOpenSSH(t *testing.T) {
	key := newKey(t)
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, key.PrivatePEM, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh-keygen", "-y", "-f", path).Output()
	if err != nil || strings.TrimSpace(string(out)) != key.AuthorizedKey {
		t.Errorf("ssh-keygen derives %q (%v), want %q", out, err, key.AuthorizedKey)
	}
}

// TestSSHThroughMachine reaches a machine that boots through another one, which
// reports that it cannot connect until it can.
func TestSSHThroughMachine(t *testing.T) {
	between := dial(t, newServer(t).start(t).config())
	s := newServer(t)
	cfg := s.config()
	var tries atomic.Int32
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if tries.Add(1) == 3 {
			s.start(t)
		}
		return between.Forward(ctx, network, addr)
	}
	h := dial(t, cfg)
	var out bytes.Buffer
	if err := h.Run(t.Context(), host.Cmd{Argv: []string{"echo", "there"}, Stdout: &out}); err != nil || out.String() != "there\n" {
		t.Errorf("it says %q, %v", out.String(), err)
	}
	if n := tries.Load(); n < 3 {
		t.Errorf("%d tries, want 3 or more", n)
	}
	_ = between.Close()
	if err := h.Run(t.Context(), host.Cmd{Argv: []string{"true"}}); !errors.Is(err, host.ErrUnreachable) {
		t.Errorf("without the one between: %v, want ErrUnreachable", err)
	}
}

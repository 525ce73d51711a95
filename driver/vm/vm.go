// Package vm runs the machines of a lab on libvirt: isolated networks, machines
// that can write to their memory only, and, if no libvirtd answers, a private one
// that ends with the lab. It is the only importer of go-libvirt; it does not log in
// to machines (package host does) and does not choose images.
package vm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"libvirt.org/go/libvirtxml"

	"hookbed/driver/tail"
)

// systemSocket is where the system's libvirtd listens.
const systemSocket = "/run/libvirt/libvirt-sock"

// Limits end operations that hang. A busy computer needs many times as long as an
// idle one.
const (
	dialLimit   = 30 * time.Second // to connect to a libvirtd that listens
	remoteLimit = time.Minute      // to connect to a remote libvirtd, through SSH
	createLimit = time.Minute      // for a network to be made
	daemonLimit = 2 * time.Minute  // for a private libvirtd to listen
	endLimit    = time.Minute      // for killed processes to end
)

// Config says which libvirt a lab uses, and whether the lab outlives this process.
type Config struct {
	// StateDir holds the lab's private state and its record for attach and
	// Cleanup. It is made if missing. Files of machines may be in it.
	StateDir string
	// Lab is the lab's name, for messages and the record.
	Lab string
	// Detached machines survive this process; others end with it, even by SIGKILL.
	Detached bool
	// CacheDir keeps what a private libvirtd found out about QEMU, which takes about
	// 2 s. Optional; labs may share it.
	CacheDir string
	// ImagesDir is below which machines have files that are not in StateDir: everyone may read them,
	// once they can get there. Optional: there may be none.
	ImagesDir string
	// Socket of the system's libvirtd, systemSocket if empty.
	Socket string
	// Remote is a libvirtd on another computer, used instead of this computer's; nil
	// if there is none. It outlives the Hypervisor.
	Remote *Remote
}

// Remote is a libvirtd on another computer and the way to it.
type Remote struct {
	Name  string                                                            // for messages
	Dial  func(ctx context.Context) (net.Conn, error)                       // to libvirtd
	Reach func(ctx context.Context, network, addr string) (net.Conn, error) // to guests, from that computer
	Run   func(ctx context.Context, argv ...string) ([]byte, error)         // runs a command there, returns its output
}

// Hypervisor is a connection to libvirt on which one lab has its networks and
// machines. Its methods may be called by several goroutines.
type Hypervisor struct {
	cfg    Config
	conn   net.Conn // under lv, which does not close a connection that the other side closed
	lv     *libvirt.Libvirt
	daemon *daemon // nil with the system's libvirtd

	mu     sync.Mutex
	record record
	host   *hostFacts // read once, by facts
}

// hostFacts are the facts of the host that domain XML depends on.
type hostFacts struct {
	models []string // security models that label guests
	types  []string // of x86 domains: "qemu", "kvm"
	qemu   string   // version
	as     account  // whom machines run as
}

// Connect connects to the system's libvirtd if it answers; otherwise it starts
// a private one, which needs root. The caller calls Close or Detach.
func Connect(ctx context.Context, cfg Config) (*Hypervisor, error) {
	var err error
	if cfg.StateDir, err = filepath.Abs(cfg.StateDir); err != nil {
		return nil, fmt.Errorf("find state directory: %w", err)
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	if cfg.Socket == "" {
		cfg.Socket = systemSocket
	}
	h := &Hypervisor{cfg: cfg, record: record{Lab: cfg.Lab}}
	if cfg.Remote != nil {
		h.record.Remote = cfg.Remote.Name
		if err := h.record.save(cfg.StateDir); err != nil {
			return nil, err
		}
		return opened(h, h.open(ctx, ""))
	}
	if answers(cfg.Socket) {
		h.record.Socket = cfg.Socket
		if err := h.record.save(cfg.StateDir); err != nil {
			return nil, err
		}
		return opened(h, h.open(ctx, cfg.Socket))
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("no libvirtd answers at %s, and only root can start a private one: start libvirtd, or run as root", cfg.Socket)
	}
	if h.daemon, err = startDaemon(ctx, cfg); err != nil {
		return nil, fmt.Errorf("start private libvirtd: %w", err)
	}
	h.record.Process = &h.daemon.process
	if err := h.open(ctx, h.daemon.socket()); err != nil {
		return nil, errors.Join(err, h.daemon.end(context.WithoutCancel(ctx)))
	}
	return h, nil
}

// attach connects to the libvirt of a detached lab by the record in its state
// directory. The error wraps os.ErrNotExist when there is none, and
// os.ErrProcessDone when its private libvirtd is gone.
func attach(ctx context.Context, stateDir string) (*Hypervisor, error) {
	stateDir, err := filepath.Abs(stateDir)
	if err != nil {
		return nil, fmt.Errorf("find state directory: %w", err)
	}
	r, err := loadRecord(stateDir)
	if err != nil {
		return nil, err
	}
	h := &Hypervisor{cfg: Config{StateDir: stateDir, Lab: r.Lab, Detached: true, Socket: r.Socket}, record: r}
	if r.Process == nil {
		return opened(h, h.open(ctx, r.Socket))
	}
	if h.daemon, err = attachDaemon(*r.Process, stateDir); err != nil {
		return nil, fmt.Errorf("attach to lab %q: %w", r.Lab, err)
	}
	if err := h.open(ctx, h.daemon.socket()); err != nil {
		return nil, errors.Join(err, h.daemon.release())
	}
	return h, nil
}

// opened is h if it could be opened.
func opened(h *Hypervisor, err error) (*Hypervisor, error) {
	if err != nil {
		return nil, err
	}
	return h, nil
}

// answers reports whether a process accepts connections on a unix socket.
func answers(socket string) bool {
	c, err := net.DialTimeout("unix", socket, dialLimit)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// open connects to libvirt on a socket, or to the remote libvirtd.
func (h *Hypervisor) open(ctx context.Context, socket string) error {
	dial := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "unix", socket)
	}
	if r := h.cfg.Remote; r != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, remoteLimit)
		defer cancel()
		dial, socket = r.Dial, r.Name
	}
	conn, err := dial(ctx)
	if err != nil {
		return fmt.Errorf("connect to libvirt: %w", err)
	}
	h.conn, h.lv = conn, libvirt.NewWithDialer(dialers.NewAlreadyConnected(conn))
	err = within(ctx, func() error { return h.lv.ConnectToURI(libvirt.QEMUSystem) })
	if err != nil {
		_ = conn.Close() // ends the call that still waits for an answer
		return fmt.Errorf("connect to libvirt at %s: %w", socket, err)
	}
	return nil
}

// hangUp ends the connection to libvirt; calls that are not finished fail.
func (h *Hypervisor) hangUp() {
	if h.lv.IsConnected() {
		ctx, cancel := context.WithTimeout(context.Background(), dialLimit)
		defer cancel()
		_ = within(ctx, h.lv.Disconnect) // polite; nothing depends on it
	}
	_ = h.conn.Close() // closed already, or no longer needed
}

// facts reads the host's facts once; libvirt may have to examine QEMU first, which
// takes some seconds.
func (h *Hypervisor) facts(ctx context.Context) (hostFacts, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.host != nil {
		return *h.host, nil
	}
	var f hostFacts
	err := within(ctx, func() error {
		capabilities, err := h.lv.ConnectGetCapabilities()
		if err != nil {
			return fmt.Errorf("read libvirt's capabilities: %w", err)
		}
		qemu, err := h.lv.ConnectGetVersion()
		if err != nil {
			return fmt.Errorf("read QEMU's version: %w", err)
		}
		f.qemu = versionString(qemu)
		f.models, f.types, err = readCapabilities(capabilities)
		return err
	})
	if err != nil {
		return hostFacts{}, err
	}
	if f.as, err = h.account(ctx); err != nil {
		return hostFacts{}, err
	}
	h.host = &f
	return f, nil
}

// readCapabilities reads from libvirt's capabilities the security models that label
// the processes and files of its guests, and the types of x86 guests that it runs.
func readCapabilities(capabilities string) (models, types []string, err error) {
	var caps libvirtxml.Caps
	if err := caps.Unmarshal(capabilities); err != nil {
		return nil, nil, fmt.Errorf("parse libvirt's capabilities: %w", err)
	}
	for _, m := range caps.Host.SecModel {
		models = append(models, m.Name)
	}
	for _, g := range caps.Guests {
		if g.Arch.Name != "x86_64" {
			continue
		}
		for _, d := range g.Arch.Domains {
			types = append(types, d.Type)
		}
	}
	return models, types, nil
}

// Supports returns why machines cannot have an accelerator, nil if they can by
// libvirt's capabilities: QEMU must be new enough to emulate, or the computer must
// be able to virtualize. ProbeAccel decides whether KVM really works.
func (h *Hypervisor) Supports(ctx context.Context, accel string) error {
	f, err := h.facts(ctx)
	if err != nil {
		return err
	}
	return f.supports(accel)
}

func (f hostFacts) supports(accel string) error {
	switch {
	case len(f.types) == 0:
		return errors.New("libvirt has no QEMU for x86-64 guests: install one (Debian: qemu-system-x86)")
	case accel == TCG:
		return supported(f.qemu)
	case !slices.Contains(f.types, accel):
		return fmt.Errorf("libvirt offers no %s: switch virtualisation on in the firmware, load the modules kvm_intel or kvm_amd, or write accel = %q", accel, TCG)
	case !f.as.kvm:
		return fmt.Errorf("machines run as user %s, who may not use /dev/kvm: as root there, usermod -aG kvm %s; or write accel = %q", f.as.name, f.as.name, TCG)
	}
	return nil
}

// within runs a call that takes no context, and stops waiting for it when ctx ends.
func within(ctx context.Context, call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errLost = errors.New("the connection to libvirt is lost")

// Close ends the lab's machines and networks, and its private libvirtd. It may be
// called again. It fails if the connection to a remote libvirtd is lost;
// CleanupRemote can take the lab down later.
func (h *Hypervisor) Close(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.daemon != nil {
		// Killing its first process ends everything in the namespaces, so no
		// disconnect is needed.
		if err := h.daemon.end(ctx); err != nil {
			return fmt.Errorf("end private libvirtd: %w", err)
		}
		_ = h.conn.Close() // it is dead already
		return removeRecord(h.cfg.StateDir)
	}
	switch {
	case h.lv.IsConnected():
		if err := h.sweep(ctx); err != nil {
			return err
		}
	case h.cfg.Remote != nil: // it still runs, and keeps the networks
		return fmt.Errorf("take down the lab on %s: %w", h.cfg.Remote.Name, errLost)
	}
	h.hangUp()
	return removeRecord(h.cfg.StateDir)
}

// Detach disconnects from a detached lab, which continues until Cleanup.
func (h *Hypervisor) Detach() error {
	if !h.cfg.Detached {
		return errors.New("detach from libvirt: this lab's machines end with the driver")
	}
	h.hangUp()
	if h.daemon != nil {
		return h.daemon.release()
	}
	return nil
}

// Version is the software that runs the machines.
type Version struct {
	Libvirt string `json:"libvirt,omitempty"` // "9.0.0"; "" without libvirt
	QEMU    string `json:"qemu"`              // "10.0.2"
	Private bool   `json:"private_libvirtd"`
}

// Versions reads the versions of libvirt and QEMU.
func (h *Hypervisor) Versions(ctx context.Context) (Version, error) {
	f, err := h.facts(ctx)
	if err != nil {
		return Version{}, err
	}
	v := Version{QEMU: f.qemu, Private: h.daemon != nil}
	err = within(ctx, func() error {
		lib, err := h.lv.ConnectGetLibVersion()
		v.Libvirt = versionString(lib)
		return err
	})
	if err != nil {
		return Version{}, fmt.Errorf("read libvirt's version: %w", err)
	}
	return v, nil
}

// versionString undoes libvirt's encoding: major * 1000000 + minor * 1000 + release.
func versionString(v uint64) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1_000%1_000, v%1_000)
}

// root is the path, in this process, of the "/" of libvirtd and its QEMUs.
func (h *Hypervisor) root() string {
	if h.daemon != nil {
		return h.daemon.process.path("root")
	}
	return "/"
}

// remember writes the name and UUID of a machine or network into the record before
// it is made, so that Cleanup has a list of what may exist. A private libvirtd needs
// no such list.
func (h *Hypervisor) remember(names *[]string, name, uuid string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := slices.Contains(*names, name)
	if known && h.record.UUIDs[name] == uuid {
		return nil
	}
	if !known {
		*names = append(*names, name)
	}
	if h.record.UUIDs == nil {
		h.record.UUIDs = map[string]string{}
	}
	h.record.UUIDs[name] = uuid
	if h.daemon != nil {
		return nil
	}
	return h.record.save(h.cfg.StateDir)
}

// errOthers is the error for a name that another lab uses: Close and Cleanup end all
// that the record names, so the record must not name machines of another lab.
var errOthers = errors.New("another lab has one of this name: take that lab down, or give this one another name")

// checkUnused fails if a name is in use that this lab did not make. lookup looks the
// name up. A private libvirtd has no other lab.
func (h *Hypervisor) checkUnused(ctx context.Context, names *[]string, name string, lookup func() error) error {
	h.mu.Lock()
	own := slices.Contains(*names, name)
	h.mu.Unlock()
	if own || h.daemon != nil {
		return nil
	}
	err := within(ctx, lookup)
	switch {
	case err == nil:
		return errOthers
	case isNotFound(err):
		return nil
	}
	return err
}

// sameUUID reports whether a machine or network of libvirt has a recorded UUID.
// Records of older versions have none; then the name must suffice.
func sameUUID(uuid string, has libvirt.UUID) bool {
	return uuid == "" || strings.EqualFold(strings.ReplaceAll(uuid, "-", ""), hex.EncodeToString(has[:]))
}

// newUUID is a random UUID of version 4 (RFC 9562).
func newUUID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// logEnd is the end of a file, for messages; empty if it cannot be read.
func logEnd(path string) string {
	said, err := tail.File(path, 2<<10)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(said)
}

package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
)

// Flow is an open connection whose other end sends back what it gets.
type Flow struct {
	conn    *net.TCPConn
	where   string // for messages
	sent    uint64 // number of the last record sent; records are 8 bytes
	pending []byte // received, less than a record
}

// OpenFlow connects in the thread's namespace, within wait. A connection that is refused
// or not answered is the subject's fault.
func OpenFlow(ctx context.Context, p bundle.Probe, wait time.Duration) (*Flow, error) {
	t, err := dial(p)
	tries := []attempt{t}
	if err == nil {
		err = decideAll(ctx, tries, Waits{Answer: wait})
	}
	t = tries[0] // its socket may be another one
	if got := t.got; err == nil && !got.Established {
		err = fault.Subject("open flow: %s was %s", Route(p), got.How)
	}
	if err != nil {
		hangUp(t.fd)
		return nil, err
	}
	file := os.NewFile(uintptr(t.fd), "flow "+p.What)
	defer file.Close()
	conn, err := net.FileConn(file) // a copy
	if err != nil {
		return nil, fmt.Errorf("open flow: %w", err)
	}
	return &Flow{conn: conn.(*net.TCPConn), where: fmt.Sprintf("flow %s -> %s", p.From, net.JoinHostPort(p.To, fmt.Sprint(p.Port)))}, nil
}

// String names the flow in messages.
func (f *Flow) String() string { return f.where }

// LocalPort is the TCP port of its own end.
func (f *Flow) LocalPort() uint16 { return uint16(f.conn.LocalAddr().(*net.TCPAddr).Port) }

// Close resets the connection, which leaves no TIME_WAIT.
func (f *Flow) Close() error { return errors.Join(f.conn.SetLinger(0), f.conn.Close()) }

// Exchange sends the next record and reads until it is back. What comes before
// it are the answers to earlier records that were not waited for any longer.
func (f *Flow) Exchange(ctx context.Context, until time.Time) error {
	if err := f.conn.SetDeadline(until); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	f.sent++
	if _, err := f.conn.Write(binary.BigEndian.AppendUint64(nil, f.sent)); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, err := f.conn.Read(buf)
		if err != nil {
			return err
		}
		f.pending = append(f.pending, buf[:n]...)
		for len(f.pending) >= 8 {
			got := binary.BigEndian.Uint64(f.pending)
			f.pending = f.pending[8:]
			if got == f.sent {
				return nil
			}
		}
	}
}

package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

// Repeat tries a probe of TCP so many times, each from a socket of its own, and waits until all are
// decided: by an answer, or by silence. The sockets are there before the first attempt, and nothing
// lies between an attempt and the next but the calls that connect, so that to an observer of the
// calling thread an attempt is all from one call to the next. One call more, which connects nothing,
// ends the last.
func Repeat(ctx context.Context, p bundle.Probe, times int, silence time.Duration) ([]Outcome, error) {
	tries, to, err := openAll(p, times)
	defer func() {
		for _, t := range tries {
			hangUp(t.fd)
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("probe %q from %s: %w", p.What, p.From, err)
	}
	errs := make([]error, times)
	connectAll(tries, to, errs)
	sent := time.Now()
	for i := range tries {
		tries[i].sent = sent
		tries[i].connected(errs[i])
	}
	if err := decideAll(ctx, tries, Waits{Answer: silence, Silence: silence}); err != nil {
		return nil, err
	}
	out := make([]Outcome, times)
	for i, t := range tries {
		out[i] = t.got
	}
	return out, nil
}

// openAll makes the sockets of attempts.
func openAll(p bundle.Probe, times int) (tries []attempt, to unix.Sockaddr, err error) {
	if p.Proto != "" && p.Proto != bundle.TCP {
		return nil, nil, errors.New("only connections are repeated")
	}
	for range times {
		var t attempt
		t, to, err = open(p)
		tries = append(tries, t)
		if err != nil {
			return tries, nil, err
		}
	}
	return tries, to, nil
}

// connectAll connects one socket after the other, and then none. The calls are raw: the runtime, which
// would look for other work if a call took long, is not told of them. None of them waits.
func connectAll(tries []attempt, to unix.Sockaddr, errs []error) {
	at, size := rawAddress(to)
	for i := range tries {
		_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(tries[i].fd), uintptr(at), size)
		if errno != 0 {
			errs[i] = errno
		}
	}
	_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, ^uintptr(0), uintptr(at), size)
	runtime.KeepAlive(at)
}

// rawAddress is an address as the kernel has it (struct sockaddr_in, sockaddr_in6), with its size.
func rawAddress(to unix.Sockaddr) (at unsafe.Pointer, size uintptr) {
	var port [2]byte
	switch a := to.(type) {
	case *unix.SockaddrInet4:
		binary.BigEndian.PutUint16(port[:], uint16(a.Port))
		raw := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: binary.NativeEndian.Uint16(port[:]), Addr: a.Addr}
		return unsafe.Pointer(raw), unsafe.Sizeof(*raw)
	case *unix.SockaddrInet6:
		binary.BigEndian.PutUint16(port[:], uint16(a.Port))
		raw := &unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: binary.NativeEndian.Uint16(port[:]), Addr: a.Addr}
		return unsafe.Pointer(raw), unsafe.Sizeof(*raw)
	}
	return nil, 0
}

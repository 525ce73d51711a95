package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

// partGap is between the parts of a request that is sent in several: longer than Nagle's
// algorithm or offloads would hold one back to join it with the next.
const partGap = 30 * time.Millisecond

// Request makes the requests of a try on one connection from the calling thread's
// namespace, and says what came of them: the status of each answer, and, if there were
// fewer answers than requests, how the connection ended. A source that the try names must be
// an address of the namespace.
func Request(ctx context.Context, to string, port int, try bundle.RequestTry, answer, silence time.Duration) (string, error) {
	d := net.Dialer{Timeout: answer, KeepAlive: -1}
	d.SetMultipathTCP(false)
	if try.From != "" {
		ip, err := netip.ParseAddr(try.From)
		if err != nil {
			return "", fmt.Errorf("source: %w", err)
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0))
	}
	at := net.JoinHostPort(to, strconv.Itoa(port))
	conn, err := d.DialContext(ctx, "tcp", at)
	// A neighbour that a busy machine does not find in time is no answer.
	for end := time.Now().Add(answer); errors.Is(err, unix.EHOSTUNREACH) && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(partGap)
		conn, err = d.DialContext(ctx, "tcp", at)
	}
	if err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	return Converse(conn, try, answer, silence)
}

// Converse is Request on a connection that is there.
func Converse(conn net.Conn, try bundle.RequestTry, answer, silence time.Duration) (string, error) {
	var got []string
	in := bufio.NewReader(conn)
	for i, part := range try.Parts {
		if i > 0 && !try.Await {
			time.Sleep(partGap)
		}
		if _, err := conn.Write([]byte(part)); err != nil {
			end, err := endOf(err, true)
			return strings.Join(append(got, end), " "), err
		}
		if try.Await && i < len(try.Parts)-1 {
			status, err := response(conn, in, limitOf(try, len(got), answer, silence))
			if err != nil {
				end, err := endOf(err, false)
				return strings.Join(append(got, end), " "), err
			}
			got = append(got, status)
		}
	}
	for len(got) < try.Requests {
		status, err := response(conn, in, limitOf(try, len(got), answer, silence))
		if err != nil {
			end, err := endOf(err, false)
			return strings.Join(append(got, end), " "), err
		}
		got = append(got, status)
	}
	return strings.Join(got, " "), nil
}

// limitOf is how long answer number i, from 0, may take: as long as it needs if one is
// wanted, so that a busy machine's late answer is no denial.
func limitOf(try bundle.RequestTry, i int, answer, silence time.Duration) time.Duration {
	if wants := strings.Fields(try.Want); i < len(wants) && wants[i] == bundle.RequestSilent {
		return silence
	}
	return answer
}

// response reads one whole answer and returns its status.
func response(conn net.Conn, in *bufio.Reader, limit time.Duration) (string, error) {
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return "", err
	}
	return strconv.Itoa(r.StatusCode), nil
}

// endOf words how a connection ended. An error that is no such end is returned.
func endOf(err error, sending bool) (string, error) {
	var late net.Error
	switch {
	case errors.Is(err, unix.EACCES):
		return bundle.RequestUnsent, nil
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return bundle.RequestReset, nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return bundle.RequestClosed, nil
	case errors.As(err, &late) && late.Timeout() && !sending:
		return bundle.RequestSilent, nil
	}
	return "", err
}

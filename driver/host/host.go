// Package host runs commands on machines and moves files to and from them: over SSH
// and SFTP, or on this computer. It neither starts nor configures machines (packages
// vm and lab do), and it does not interpret the output of commands.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// ErrUnreachable is wrapped by every error that means the link to the machine
// is lost, as opposed to a command that ran and failed.
var ErrUnreachable = errors.New("host unreachable")

// ErrStillRuns is wrapped by an error of Run if the command was ended and still runs.
var ErrStillRuns = errors.New("something still runs")

// Cmd is a command for a host: an argument vector, never a shell string.
type Cmd struct {
	Argv   []string
	Stdin  io.Reader // nil is an empty input; one read of it may outlast Run
	Stdout io.Writer // nil discards
	Stderr io.Writer // nil discards; the tail is kept for ExitError either way
}

// Host is one machine that runs commands and holds files. Package hosttest is its
// conformance suite.
type Host interface {
	// Run runs a command until it has ended and its output is closed, or ctx ends. When
	// ctx ends, or a write to Stdout or Stderr fails, the command and its process group get
	// SIGTERM and, 5 s later, SIGKILL. A non-zero exit is *ExitError; a program that does
	// not exist is one with status 127.
	Run(ctx context.Context, cmd Cmd) error
	// Push writes a file under a temporary name, checks its SHA-256 and renames it to an
	// absolute path. A file that already has this digest is not sent again.
	Push(ctx context.Context, data []byte, path string, mode uint32) error
	// Pull reads a whole file. The error for a missing one wraps fs.ErrNotExist.
	Pull(ctx context.Context, path string) ([]byte, error)
	// Forward dials a unix socket ("unix", path) or a TCP address ("tcp", host:port) from
	// the host.
	Forward(ctx context.Context, network, addr string) (net.Conn, error)
	// Close ends the link, and the commands that still run.
	Close() error
}

// ExitError is a command that ran and ended with a non-zero status.
type ExitError struct {
	Argv   []string
	Status int    // exit status; -1 when a signal ended it; 126 and 127 as a shell gives them
	Signal string // the signal that ended it, "KILL"; empty otherwise
	Stderr string // the last 2 KiB
}

func (e *ExitError) Error() string {
	msg := fmt.Sprintf("%s: exit status %d", e.Argv[0], e.Status)
	if e.Signal != "" {
		msg = fmt.Sprintf("%s: ended by signal %s", e.Argv[0], e.Signal)
	}
	if tail := strings.TrimSpace(e.Stderr); tail != "" {
		msg += ": " + tail
	}
	return msg
}

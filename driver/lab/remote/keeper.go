package remote

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"hookbed/driver/host"
)

// keeper is a shell on a machine that made a run's directory. It ends when an agent has the directory,
// and removes it when its input ends, or nothing comes for some time: so nothing is left where the
// link is cut before an agent runs, also if no driver ever comes back.
type keeper struct {
	in    *io.PipeWriter
	out   *io.PipeReader
	ended chan struct{}
	err   error // how it ended; read after ended is closed
}

// releaseLimit is for how long a shell may remove a directory.
const releaseLimit = 30 * time.Second

// keep starts a keeper, which outlives ctx.
func keep(ctx context.Context, h host.Host, argv []string) *keeper {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	k := &keeper{in: inW, out: outR, ended: make(chan struct{})}
	go func() {
		k.err = h.Run(context.WithoutCancel(ctx), host.Cmd{Argv: argv, Stdin: inR, Stdout: outW})
		close(k.ended)
		_ = outW.CloseWithError(errors.Join(k.err, io.EOF))
		_ = inR.Close()
	}()
	return k
}

// first is what the shell prints first, up to an empty line. An error is how it ended.
func (k *keeper) first(ctx context.Context) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = k.out.CloseWithError(context.Cause(ctx)) })
	defer stop()
	var text strings.Builder
	lines := bufio.NewScanner(k.out)
	for lines.Scan() {
		if lines.Text() == "" {
			go func() { _, _ = io.Copy(io.Discard, k.out) }()
			return text.String(), nil
		}
		text.WriteString(lines.Text() + "\n")
	}
	select {
	case <-k.ended:
		if k.err != nil {
			return "", k.err
		}
	default:
	}
	return "", errors.Join(errors.New("its marker is not whole"), lines.Err())
}

// release ends the shell's input and waits for its end. The directory is gone then, or an agent's.
func (k *keeper) release(ctx context.Context) error {
	_ = k.in.Close()
	limit := time.NewTimer(releaseLimit)
	defer limit.Stop()
	select {
	case <-k.ended:
		return k.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-limit.C:
		return errors.New("the shell that keeps a run's directory does not end")
	}
}

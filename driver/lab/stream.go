package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/vm"
)

// drainLimit is how long what a guest's plugin wrote may wait to be read after the guest has ended.
const drainLimit = time.Minute

// stream is the FIFO through which the plugin of a sealed guest writes, and its reader. Without a
// plugin it does nothing.
type stream struct {
	plugin *vm.Plugin // with the FIFO as its Out; nil without one
	reader *os.File
	writer *os.File // keeps the stream from ending before the plugin has opened it
	ended  bool     // the reader has met the end
	done   chan struct{}
	err    error // of the watcher; valid once done is closed
}

// openStream makes the FIFO at path and starts the block's watcher. Where that fails while the guest
// runs, the context that is returned ends, with its error as the cause.
func openStream(ctx context.Context, b SealedBlock, path string) (context.Context, *stream, error) {
	if b.Plugin == nil {
		return ctx, &stream{}, nil
	}
	if b.Watch == nil {
		return ctx, nil, errors.New("a plugin's stream must be watched")
	}
	s := &stream{done: make(chan struct{})}
	if err := s.open(path); err != nil {
		return ctx, nil, errors.Join(fmt.Errorf("make the plugin's stream: %w", err), os.Remove(path))
	}
	plugin := *b.Plugin
	plugin.Out = path
	s.plugin = &plugin
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		defer close(s.done)
		s.err = b.Watch(s)
		// A plugin that still writes must not wait for a reader. A stream that has ended is the
		// guest's end, which has its own error.
		_ = s.reader.Close()
		if s.err != nil && !s.ended {
			cancel(s.err)
		}
	}()
	return ctx, s, nil
}

// open makes the FIFO and opens both ends: a reader that does not wait for a writer would else meet
// the end of the stream before its beginning.
func (s *stream) open(path string) error {
	_ = os.Remove(path) // left by an earlier attempt
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return err
	}
	var err error
	if s.reader, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return err
	}
	if s.writer, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
		return errors.Join(err, s.reader.Close())
	}
	return nil
}

// Read is for the watcher.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.reader.Read(p)
	s.ended = s.ended || errors.Is(err, io.EOF)
	return n, err
}

// started says that the guest runs, whose end is now that of the stream.
func (s *stream) started() {
	if s.plugin != nil {
		_ = s.writer.Close()
	}
}

// close waits until the watcher has read what is left, and removes the FIFO. The guest has ended. The
// result is the watcher's error.
func (s *stream) close() error {
	if s.plugin == nil {
		return nil
	}
	_ = s.writer.Close() // perhaps closed by started
	select {
	case <-s.done:
	case <-time.After(drainLimit):
		_ = s.reader.Close() // the guest did not end
		<-s.done
	}
	return errors.Join(s.err, os.Remove(s.plugin.Out))
}

package lab

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"hookbed/driver/vm"
)

// watched is a block whose plugin's stream is read by watch.
func watched(watch func(io.Reader) error) SealedBlock {
	return SealedBlock{Plugin: &vm.Plugin{Path: "/trace.so", Args: []string{"setup=1"}}, Watch: watch}
}

func TestStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "block1.stream")
	if err := os.WriteFile(path, []byte("left by a killed driver"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got string
	ctx, s, err := openStream(t.Context(), watched(func(r io.Reader) error {
		data, err := io.ReadAll(r)
		got = string(data)
		return err
	}), path)
	if err != nil {
		t.Fatal(err)
	}
	if s.plugin.Out != path || s.plugin.Path != "/trace.so" || len(s.plugin.Args) != 1 {
		t.Errorf("the plugin is %+v", s.plugin)
	}
	guest, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.started()
	_, werr := guest.WriteString("all of it")
	if err := errors.Join(werr, guest.Close(), s.close(), ctx.Err()); err != nil {
		t.Error(err)
	}
	if got != "all of it" {
		t.Errorf("the watcher read %q", got)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the FIFO is still there: %v", err)
	}
}

// TestStreamOfAGuestThatDoesNotStart: the watcher meets the end, and what it makes of that does not
// hide why the guest did not start.
func TestStreamOfAGuestThatDoesNotStart(t *testing.T) {
	cut := errors.New("cut off")
	ctx, s, err := openStream(t.Context(), watched(func(r io.Reader) error {
		_, err := io.ReadAll(r)
		return errors.Join(cut, err)
	}), filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.close(); !errors.Is(err, cut) || ctx.Err() != nil {
		t.Errorf("error %v, context %v; want the watcher's, and a context that goes on", err, ctx.Err())
	}
}

// TestStreamOfAWatcherThatFails: it ends the guest, and a plugin that still writes does not wait.
func TestStreamOfAWatcherThatFails(t *testing.T) {
	wrong := errors.New("this makes no sense")
	path := filepath.Join(t.TempDir(), "stream")
	ctx, s, err := openStream(t.Context(), watched(func(r io.Reader) error {
		if _, err := io.ReadFull(r, make([]byte, 4)); err != nil {
			return err
		}
		return wrong
	}), path)
	if err != nil {
		t.Fatal(err)
	}
	guest, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.started()
	for err == nil {
		_, err = guest.Write(make([]byte, 1<<16))
	}
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), wrong) {
		t.Errorf("the guest is ended by %v", context.Cause(ctx))
	}
	if err := errors.Join(guest.Close(), s.close()); !errors.Is(err, wrong) {
		t.Errorf("error %v, want the watcher's", err)
	}
}

func TestBlocksWithoutAPlugin(t *testing.T) {
	ctx, s, err := openStream(t.Context(), SealedBlock{}, "/no/such/file")
	if err != nil || ctx != t.Context() || s.plugin != nil {
		t.Errorf("stream %+v, %v", s, err)
	}
	s.started()
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if _, _, err := openStream(t.Context(), watched(nil), "/no/such/file"); err == nil {
		t.Error("a plugin without a watcher was accepted")
	}
	if _, _, err := openStream(t.Context(), watched(func(io.Reader) error { return nil }), "/no/such/file"); err == nil {
		t.Error("a FIFO in no directory was made")
	}
}

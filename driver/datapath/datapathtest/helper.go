package datapathtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"hookbed/analysis/durable"
	"hookbed/driver/bundle"
)

// callLimit bounds one request to the helper.
const callLimit = 10 * time.Minute

// helper is a conversation with the real guest helper, started as a child in
// namespaces of its own, as the local provider does it.
type helper struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	pipe   *os.File
	blobs  string
	stderr strings.Builder
	ended  chan struct{}
	err    error // of Wait; valid once ended is closed
}

// fault is a request that the helper answered with an error.
type fault struct {
	kind string // bundle.FaultSubject, FaultRig or FaultUnsupported
	step int    // 1-based index in the chunk, 0 if none
	text string
}

func (f *fault) Error() string { return f.kind + " fault: " + f.text }

// unsupported says whether an error is the helper's word that this kernel or
// its tools cannot do it.
func unsupported(err error) bool {
	var f *fault
	return errors.As(err, &f) && f.kind == bundle.FaultUnsupported
}

// startHelper starts the helper and greets it.
func startHelper(rig Rig) (*helper, error) {
	h := &helper{cmd: exec.Command(rig.Guest, "serve", "--node-netns", "--die-with-parent"), blobs: rig.Dir, ended: make(chan struct{})}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	h.cmd.Stderr = &h.stderr
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start helper: %w", err)
	}
	r, w, err := os.Pipe() // Wait would close StdoutPipe's before it is read
	if err != nil {
		return nil, fmt.Errorf("start helper: %w", err)
	}
	h.cmd.Stdout, h.pipe, h.out = w, r, bufio.NewReaderSize(r, 1<<20)
	started := make(chan error)
	go func() {
		// The helper dies with the thread that starts it.
		err := lockedStart(h.cmd)
		_ = w.Close()
		started <- err
		if err == nil {
			h.err = h.cmd.Wait()
		}
		close(h.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start helper: %w", err)
	}
	_, err = h.call(bundle.Request{Hello: &bundle.Hello{Schema: bundle.Schema, Node: "local", Blobs: rig.Dir, ExternalRoot: rig.External, HTTPRoot: rig.HTTP, Roots: rig.Roots}})
	if err != nil {
		h.kill()
		return nil, fmt.Errorf("greet helper: %w: %s", err, h.stderr.String())
	}
	return h, nil
}

// send writes a request without waiting for the reply.
func (h *helper) send(req bundle.Request) error {
	data, err := json.Marshal(req)
	if err != nil {
		return err
	}
	_, err = h.in.Write(append(data, '\n'))
	return err
}

// call sends one request and waits for its reply. An error that the helper
// reports is a *fault.
func (h *helper) call(req bundle.Request) (bundle.Reply, error) {
	var reply bundle.Reply
	if err := h.send(req); err != nil {
		return reply, fmt.Errorf("send to helper: %w", err)
	}
	if err := h.pipe.SetReadDeadline(time.Now().Add(callLimit)); err != nil {
		return reply, err
	}
	line, err := h.out.ReadBytes('\n')
	if err != nil {
		return reply, fmt.Errorf("read the helper's reply: %w", err)
	}
	if err := json.Unmarshal(line, &reply); err != nil {
		return reply, fmt.Errorf("the helper answered %.80q: %w", line, err)
	}
	if reply.Error != "" {
		return reply, &fault{reply.Fault, reply.Step, reply.Error}
	}
	return reply, nil
}

// exec delivers files and executes steps as one chunk.
func (h *helper) exec(files map[string]bundle.File, steps []bundle.Step) (bundle.Reply, error) {
	if len(steps) == 0 {
		return bundle.Reply{}, nil
	}
	req, err := h.chunk(files, steps)
	if err != nil {
		return bundle.Reply{}, err
	}
	return h.call(req)
}

func (h *helper) chunk(files map[string]bundle.File, steps []bundle.Step) (bundle.Request, error) {
	b := bundle.Bundle{Files: files}
	needed := b.FilesOf(steps)
	for _, f := range needed {
		if err := deliver(h.blobs, f); err != nil {
			return bundle.Request{}, err
		}
	}
	return bundle.Request{Exec: &bundle.Steps{Name: "conformance", Files: needed, Steps: steps}}, nil
}

// deliver puts a file where helpers look for blobs; several may at once.
func deliver(dir string, f bundle.File) error {
	path := filepath.Join(dir, f.SHA256)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := durable.WriteFile(path, f.Data, 0o600); err != nil {
		return fmt.Errorf("deliver file: %w", err)
	}
	return nil
}

// mark sets a mark on the undo stack.
func (h *helper) mark() (int, error) {
	r, err := h.call(bundle.Request{Mark: true})
	return r.Mark, err
}

// undoTo undoes back to a mark.
func (h *helper) undoTo(mark int) error {
	_, err := h.call(bundle.Request{UndoTo: &mark})
	return err
}

func (h *helper) facts() (map[string]string, error) {
	r, err := h.call(bundle.Request{Facts: true})
	return r.Facts, err
}

// pid is the helper's own, the same in every namespace.
func (h *helper) pid() int { return h.cmd.Process.Pid }

// close ends the helper's input and waits until it undid everything.
func (h *helper) close() error {
	_ = h.in.Close()
	defer h.pipe.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	select {
	case <-h.ended:
		if h.err != nil {
			return fmt.Errorf("helper: %w: %s", h.err, h.stderr.String())
		}
		return nil
	case <-ctx.Done():
		h.kill()
		return errors.New("the helper did not end")
	}
}

// kill ends the helper as a crash would: no undo.
func (h *helper) kill() {
	_ = h.cmd.Process.Kill()
	<-h.ended
	_ = h.in.Close()
	_ = h.pipe.Close()
}

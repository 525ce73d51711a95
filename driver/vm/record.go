package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"hookbed/analysis/durable"
)

// recordFile holds, in a lab's state directory, what attach and Cleanup need.
const recordFile = "hypervisor.json"

// record names the machines and networks of a lab. It is written before they exist.
type record struct {
	Lab string `json:"lab"`
	// Process is the first process of a private libvirtd's namespaces.
	Process *Process `json:"process,omitempty"`
	// Children are QEMUs that run without libvirt, by machine.
	Children map[string]Process `json:"children,omitempty"`
	// Socket, Machines and Networks are of a lab on the system's libvirtd.
	Socket   string   `json:"socket,omitempty"`
	Machines []string `json:"machines,omitempty"`
	Networks []string `json:"networks,omitempty"`
	// UUIDs of both, by name: another lab may use a name later, when this lab's machine
	// or network has ended.
	UUIDs map[string]string `json:"uuids,omitempty"`
	// Remote is the name of the computer that they are on, if it is not this one; then
	// there is no Socket.
	Remote string `json:"remote,omitempty"`
}

func (r record) save(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode hypervisor record: %w", err)
	}
	return writeFile(filepath.Join(dir, recordFile), append(data, '\n'))
}

// writeFile replaces a file at once, also for readers that come in between.
func writeFile(path string, data []byte) error {
	if err := durable.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func loadRecord(dir string) (record, error) {
	path := filepath.Join(dir, recordFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return record{}, fmt.Errorf("read hypervisor record: %w", err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// CleanupRemote ends the machines and networks that a lab left on a remote libvirtd,
// by the record in its state directory, and removes that directory. A second call
// does nothing.
func CleanupRemote(ctx context.Context, stateDir string, remote *Remote) error {
	r, err := loadRecord(stateDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return os.RemoveAll(stateDir)
	case err != nil:
		return err
	}
	h := &Hypervisor{cfg: Config{StateDir: stateDir, Lab: r.Lab, Remote: remote}, record: r}
	if err = h.open(ctx, ""); err == nil {
		err = h.Close(ctx)
	}
	if err != nil {
		return fmt.Errorf("clean up lab %q on %s: %w", r.Lab, r.Remote, err)
	}
	return os.RemoveAll(stateDir)
}

func removeRecord(dir string) error {
	err := os.Remove(filepath.Join(dir, recordFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove hypervisor record: %w", err)
	}
	return nil
}

// Cleanup ends the machines and networks that a lab left, running or not, by the
// record in its state directory, and removes that directory. A second call does
// nothing. A lab on a system libvirtd that no longer answers has no machines left.
func Cleanup(ctx context.Context, stateDir string) error {
	r, err := loadRecord(stateDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	switch {
	case r.Process != nil:
		err = r.Process.kill(ctx)
	case len(r.Children) > 0:
		for _, p := range r.Children {
			err = errors.Join(err, p.kill(ctx))
		}
	case r.Socket != "" && answers(r.Socket):
		var h *Hypervisor
		if h, err = attach(ctx, stateDir); err == nil {
			err = h.Close(ctx)
		}
	default:
		err = nil
	}
	if err != nil {
		return fmt.Errorf("clean up lab %q: %w", r.Lab, err)
	}
	if err := os.RemoveAll(stateDir); err != nil {
		return fmt.Errorf("remove state of lab %q: %w", r.Lab, err)
	}
	return nil
}

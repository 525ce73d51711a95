package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/netns"
)

// BundleOptions are the flags of `guest exec`.
type BundleOptions struct {
	File    string // file
	Blobs   string // directory with the files, by SHA-256 or by name; "" is the bundle's own
	Root    string // endpoint root, "" for none
	Binds   []bundle.Bind
	Private bool
}

// BundleReport is what `guest exec` prints.
type BundleReport struct {
	Name string `json:"name"`
	bundle.Reply
}

// RunBundle executes a whole bundle here, all phases, prints what came of it and
// undoes it.
func RunBundle(ctx context.Context, out io.Writer, o BundleOptions) (err error) {
	b, err := readBundle(o.File)
	if err != nil {
		return err
	}
	x, err := newExecutor()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.undoTo(0)) }()
	if o.Private {
		if err := netns.MountRoot(o.Root); err != nil {
			return err
		}
	}
	x.root, x.blobs, x.named = o.Root, o.Blobs, true
	for _, b := range o.Binds {
		if err := x.bind(b); err != nil {
			return err
		}
	}
	report := BundleReport{b.Name, x.steps(ctx, bundle.Steps{Name: b.Name, Files: b.Files, Steps: phased(b)})}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(report); err != nil {
		return fmt.Errorf("print results: %w", err)
	}
	if report.Error != "" {
		return fmt.Errorf("%s fault: %s", report.Fault, report.Error)
	}
	return nil
}

// readBundle reads a bundle that one node can execute alone.
func readBundle(path string) (*bundle.Bundle, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	var b bundle.Bundle
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, fmt.Errorf("read bundle %s: %w", path, err)
	}
	if b.Schema != bundle.Schema {
		return nil, fault.Unsupported("bundle %s: step language version %d is not spoken here, only %d", path, b.Schema, bundle.Schema)
	}
	for _, s := range b.Steps {
		if s.Node != b.Steps[0].Node {
			return nil, fmt.Errorf("bundle %s has steps of nodes %q and %q: only a bundle of one node runs by hand", path, b.Steps[0].Node, s.Node)
		}
	}
	return &b, nil
}

// phased puts the steps in the order of their phases.
func phased(b *bundle.Bundle) []bundle.Step {
	var out []bundle.Step
	for _, p := range []bundle.Phase{bundle.Apply, bundle.Prove, bundle.Run, bundle.Collect} {
		for _, c := range b.Chunks(p) {
			out = append(out, c.Steps...)
		}
	}
	return out
}

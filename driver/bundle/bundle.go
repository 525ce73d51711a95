// Package bundle is the language between the driver, which plans, and the
// guest helper, which acts: a trial written down as files and typed steps.
//
// A bundle is a pure value. It names nodes ("node1"), endpoints ("client") and
// links, never processes or paths of one machine; the lab supplies those as
// Bindings when it delivers a bundle. The same bundle therefore runs over SSH
// in a VM, in a child process here, or sealed into an initrd.
package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sort"
)

// Schema is the version of the step language. A helper refuses any other.
const Schema = 1

// Phase says when a step runs. Phases run in the order of the constants.
type Phase string

const (
	Apply   Phase = "apply"   // build the datapath; undone when the setup ends
	Prove   Phase = "prove"   // show that policy is enforced; undone at the end of the trial
	Run     Phase = "run"     // the measured workload
	Collect Phase = "collect" // counters and guards after the workload
)

// Bundle is one trial, or the shared setup of several: files and a totally
// ordered list of steps. Consecutive steps of one node travel together.
type Bundle struct {
	Schema int             `json:"schema"`
	Name   string          `json:"name"` // cell or setup ID, for messages
	Files  map[string]File `json:"files,omitempty"`
	Steps  []Step          `json:"steps"`
}

// File is content that steps refer to by its name in Bundle.Files.
type File struct {
	SHA256 string `json:"sha256"`
	Size   int    `json:"size"`
	Data   []byte `json:"-"` // delivered next to the bundle, once per digest
}

// NewFile wraps data with its digest.
func NewFile(data []byte) File {
	sum := sha256.Sum256(data)
	return File{SHA256: hex.EncodeToString(sum[:]), Size: len(data), Data: data}
}

// Step is one action on one node.
type Step struct {
	Node  string // role of the node whose helper executes it, "node1"
	Phase Phase
	// In is the network namespace the action happens in: an endpoint's name,
	// or "" for the node's own.
	In string
	Do Action
}

// Action is what a step does. The concrete types are in actions.go; Kind is
// the name under which one is encoded.
type Action interface{ Kind() string }

type wireStep struct {
	Node  string          `json:"node"`
	Phase Phase           `json:"phase"`
	In    string          `json:"in,omitempty"`
	Kind  string          `json:"kind"`
	Args  json.RawMessage `json:"args"`
}

// MarshalJSON encodes the action under its kind.
func (s Step) MarshalJSON() ([]byte, error) {
	args, err := json.Marshal(s.Do)
	if err != nil {
		return nil, err
	}
	return json.Marshal(wireStep{s.Node, s.Phase, s.In, s.Do.Kind(), args})
}

// UnmarshalJSON decodes a step; an unknown kind is an error that names it.
func (s *Step) UnmarshalJSON(data []byte) error {
	var w wireStep
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	do, err := decodeAction(w.Kind, w.Args)
	if err != nil {
		return err
	}
	*s = Step{w.Node, w.Phase, w.In, do}
	return nil
}

// Chunk is a run of consecutive steps on one node.
type Chunk struct {
	Node  string
	Steps []Step
}

// Chunks splits the steps of the given phases into per-node runs, in order.
func (b *Bundle) Chunks(phases ...Phase) []Chunk {
	var out []Chunk
	for _, s := range b.Steps {
		if !containsPhase(phases, s.Phase) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].Node == s.Node {
			out[n-1].Steps = append(out[n-1].Steps, s)
			continue
		}
		out = append(out, Chunk{Node: s.Node, Steps: []Step{s}})
	}
	return out
}

func containsPhase(phases []Phase, p Phase) bool {
	for _, q := range phases {
		if p == q {
			return true
		}
	}
	return false
}

// FilesOf picks the files that steps name, so that a node is sent only its own.
func (b *Bundle) FilesOf(steps []Step) map[string]File {
	out := map[string]File{}
	add := func(name string) {
		if f, ok := b.Files[name]; ok {
			out[name] = f
		}
	}
	for _, s := range steps {
		switch do := s.Do.(type) {
		case Rules:
			add(do.File)
			add(do.Undo)
		case LoadBPF:
			add(do.Object)
		case FillMap:
			add(do.File)
		case Tool:
			for _, name := range append(do.Do.FileNames(), do.Undo.FileNames()...) {
				add(name)
			}
		case Read:
			for _, name := range do.From.Script.FileNames() {
				add(name)
			}
		}
	}
	return out
}

// FileNames lists the bundle's files in order.
func (b *Bundle) FileNames() []string {
	names := make([]string, 0, len(b.Files))
	for n := range b.Files {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Digest is the SHA-256 of the bundle's JSON, files included by digest.
func (b *Bundle) Digest() (string, error) {
	data, err := json.Marshal(b)
	if err != nil {
		return "", fmt.Errorf("encode bundle %q: %w", b.Name, err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

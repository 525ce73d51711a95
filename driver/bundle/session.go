package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// A session is a conversation with one guest helper: JSON Lines, one Request a
// line on its standard input, one Reply a line on its standard output. When
// its input ends - the driver closed it, died, or the link was cut - the
// helper undoes everything it did and exits.

// Request is one call. Exactly one field is set, but for Seq and Trial.
type Request struct {
	// Seq is the request's number in its conversation, from 1, which its reply has, too. It is 0 in
	// a sealed guest.
	Seq   int    `json:"seq,omitempty"`
	Hello *Hello `json:"hello,omitempty"`
	Bind  *Bind  `json:"bind,omitempty"`
	Exec  *Steps `json:"exec,omitempty"`
	// Mark pushes a mark on the undo stack; UndoTo n undoes back to the mark
	// that returned n (0 = everything).
	Mark   bool `json:"mark,omitempty"`
	UndoTo *int `json:"undo_to,omitempty"`
	// Trial comes with Mark in a sealed guest: the trial that begins.
	Trial *SealedAt `json:"trial,omitempty"`
	Facts bool      `json:"facts,omitempty"`
	// Clock requests what the machine's clocks say now.
	Clock bool `json:"clock,omitempty"`
}

// Hello opens a session.
type Hello struct {
	Schema int    `json:"schema"`
	Node   string `json:"node"`
	// Blobs is the directory in which files lie under their SHA-256 in hex.
	Blobs string `json:"blobs"`
	// EndpointRoot is the root file system in which bare-namespace endpoints
	// run their processes (iperf3, netperf and what they need).
	EndpointRoot string `json:"endpoint_root"`
	// ExternalRoot is the root file system of external filters, those of other projects; ""
	// where no bundle has any.
	ExternalRoot string `json:"peers_root,omitempty"`
	// Roots are further root file systems, by the names that Daemons have for them.
	Roots map[string]string `json:"roots,omitempty"`
	// HTTPRoot is the root file system of the programs of HTTP: server, client and proxies;
	// "" where no bundle has any.
	HTTPRoot string `json:"http_root,omitempty"`
	// Machine: the whole machine is hookbed's, so that kernel modules it loaded
	// may be unloaded again.
	Machine bool `json:"machine,omitempty"`
	// Beats has the helper write an empty line every BeatEvery while it works on a request.
	Beats bool `json:"beats,omitempty"`
}

// Bind says where a container endpoint is.
type Bind struct {
	Endpoint string `json:"endpoint"`
	PID      int    `json:"pid"` // a process of the container; 0 unbinds
}

// Steps is a chunk of a bundle with the digests of the files it refers to.
type Steps struct {
	Name  string          `json:"name"`
	Files map[string]File `json:"files,omitempty"`
	Steps []Step          `json:"steps"`
}

// Faults of a failed request.
const (
	FaultSubject     = "subject"     // the datapath or workload did not do what it should
	FaultRig         = "rig"         // the testbed failed
	FaultUnsupported = "unsupported" // this kernel or tool cannot do it
	FaultVoid        = "void"        // a Guard failed: what was measured must not be used
)

// Reply answers one Request.
type Reply struct {
	Seq   int    `json:"seq,omitempty"` // of the request; 0 if it could not be read, and where an agent says that its helper has ended
	Error string `json:"error,omitempty"`
	Fault string `json:"fault,omitempty"` // set with Error
	Step  int    `json:"step,omitempty"`  // 1-based index in the chunk of the step that failed
	Mark  int    `json:"mark,omitempty"`
	// PID is the helper's own, in reply to Hello.
	PID     int               `json:"pid,omitempty"`
	Results []StepResult      `json:"results,omitempty"`
	Raw     map[string]string `json:"raw,omitempty"` // raw files by name, text
	Facts   map[string]string `json:"facts,omitempty"`
	Clock   *Clock            `json:"clock,omitempty"`
}

// WriteReply writes a reply as one line, in one call of Write.
func WriteReply(out io.Writer, r Reply) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("encode reply: %w", err)
	}
	_, err := out.Write(buf.Bytes())
	return err
}

// Clock is what the clocks of a machine said at one time, in nanoseconds.
type Clock struct {
	Mono int64 `json:"mono"` // CLOCK_MONOTONIC
	Real int64 `json:"real"` // CLOCK_REALTIME
}

// StepResult is what one executed step measured.
type StepResult struct {
	Kind    string             `json:"kind"`
	Seconds float64            `json:"seconds"`
	Values  map[string]float64 `json:"values,omitempty"`
	Note    string             `json:"note,omitempty"`
}

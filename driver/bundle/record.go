package bundle

// Recordings are what the kernel's own observers say of a flow: the function graph tracer and the
// events of tracefs, and the counters of the CPU. They cost far more than what they look at, so
// nothing is measured while one is on.

// RecordCalls has the function graph tracer record every kernel function that the processes of
// Servers, and what a client adds by Exec.Recorded, enter from now on, with the work in softirqs
// that is done in their context. It uses a tracing instance of its own where the kernel has
// function_graph in instances (6.11), else the top-level buffer, which must not be in use.
// EndRecord reads it. Value: instance, 1 with one of its own. Undo: ended, and every file of
// tracefs that it set is as it was.
type RecordCalls struct {
	Handle string `json:"handle"`
	// Servers are the handles of running Start steps, of the same node.
	Servers []string `json:"servers,omitempty"`
	// Idle: the idle tasks too. Packets that come from another node interrupt them.
	Idle bool `json:"idle,omitempty"`
	// BufferKiB is the buffer's size for each CPU; the newest calls are kept.
	BufferKiB int `json:"buffer_kib"`
}

// RecordDrops has the event skb:kfree_skb record, with its stack, each IP packet that is dropped on
// the node from now on, in a tracing instance of its own. The reason is there since Linux 5.17
// (include/net/dropreason-core.h). EndRecord reads it. Undo: ended, the instance is removed.
type RecordDrops struct {
	Handle string `json:"handle"`
	IPv6   bool   `json:"ipv6,omitempty"` // packets of IPv6, else of IPv4
}

// CountInstructions counts the instructions that the processes of Servers, and what a client adds
// by Exec.Recorded, execute in the kernel, by perf_event_open. A machine without a counter for them
// is no fault: the note says why nothing is counted. EndRecord has the value. Undo: ended.
type CountInstructions struct {
	Handle  string   `json:"handle"`
	Servers []string `json:"servers,omitempty"`
}

// EndRecord ends a RecordCalls, RecordDrops or CountInstructions and keeps what a recording has
// read, as text, as raw file Out. Values: of a recording, lost (entries that the buffer had no room
// for); of a count, kernel_instructions.
type EndRecord struct {
	Handle string `json:"handle"`
	Out    string `json:"out,omitempty"`
}

// Values of recordings.
const (
	ValueInstance           = "instance"
	ValueLost               = "lost"
	ValueClient             = "client_pid" // of an Exec that is recorded
	ValueKernelInstructions = "kernel_instructions"
)

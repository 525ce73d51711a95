package bundle

// Sealed is what one sealed guest executes, in order, without requests: all
// setups and trials of one boot. Each setup gets a fresh helper that holds its
// nodes as namespaces. Chunks are executed as Requests would be: the first that
// fails ends its phase, a failed Apply its setup, a failed Prove its trial.
type Sealed struct {
	Schema int           `json:"schema"`
	Setups []SealedSetup `json:"setups"`
	// Symbols: before each workload the guest reads its kernel's symbols, those of BPF programs
	// included, into memory, where an observer of the machine finds them.
	Symbols bool `json:"symbols,omitempty"`
}

// SealedSetup is a datapath with the trials that share it.
type SealedSetup struct {
	Name   string        `json:"name"`
	Apply  []Steps       `json:"apply"` // chunks, the nodes' own wiring first
	Trials []SealedTrial `json:"trials"`
}

// SealedTrial is one trial; what it did is undone when it ends.
type SealedTrial struct {
	Name  string  `json:"name"`
	Prove []Steps `json:"prove"`
	Run   []Steps `json:"run"` // workload, then Collect
}

// SealedAt is the place of a trial in a Sealed.
type SealedAt struct {
	Setup int `json:"setup"` // index in Sealed.Setups
	Trial int `json:"trial"` // index in SealedSetup.Trials
}

// Paths in a sealed guest: the block, its files by digest, and the endpoints'
// root file system.
const (
	SealedBlock = "/hookbed/block.json"
	SealedBlobs = "/hookbed/blobs"
)

// Phases of a SealedReply in addition to Apply, Prove and Run.
const (
	SealedFacts = "facts" // the first line
	SealedUndo  = "undo"  // of a trial
	SealedClose = "close" // of a setup: undoing everything
	SealedEnd   = "end"   // the last line: nothing was cut short
)

// SealedReply is one line of a sealed guest's results (JSON Lines): the reply
// to one chunk.
type SealedReply struct {
	Setup int    `json:"setup"` // index in Sealed.Setups
	Trial int    `json:"trial"` // index in SealedSetup.Trials, -1 for the setup itself
	Phase string `json:"phase"`
	Chunk int    `json:"chunk"`
	Reply Reply  `json:"reply"`
}

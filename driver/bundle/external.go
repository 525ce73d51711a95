package bundle

import "strings"

// The steps of external filters, those of other projects. They run as they come, from a root
// file system of their own (Hello.ExternalRoot), or as the user's own scripts.

// Program is something to run that is not the helper's own.
//
// In Argv, Stdin and Env the text "{index:LINK}" is replaced by the ifindex and
// "{name:LINK}" by the name of a link in the step's namespace ("peer:" names
// allowed), in Argv and Env "{dir}" by the script's working directory.
type Program struct {
	// Argv is the command, in the external root file system. It sees processes,
	// /run, /tmp and the BPF file system of that root only, which begin empty
	// with a setup's first Program and end with the setup. With Script: the
	// script's arguments.
	Argv []string `json:"argv,omitempty"`
	// Script is a file of the bundle that runs on the node itself instead, with
	// the node's tools, in the step's network namespace.
	Script string `json:"script,omitempty" bundle:"file"`
	// Files of the bundle that lie in the script's working directory.
	Files []string `json:"files,omitempty" bundle:"file"`
	// Env is added to the environment of the command or script.
	Env   map[string]string `json:"env,omitempty"`
	Stdin string            `json:"stdin,omitempty" bundle:"file"`
	// Timeout is in seconds; 0 means 120.
	Timeout float64 `json:"timeout,omitempty"`
}

// String names the program in messages.
func (p Program) String() string {
	if p.Script != "" {
		return "script " + p.Script
	}
	return strings.Join(p.Argv, " ")
}

// Tool runs a program to its end. One that fails is the subject's fault. The
// step's value Metric is the wall time in seconds. Undo: the Undo program.
type Tool struct {
	Do     Program  `json:"do"`
	Undo   *Program `json:"undo,omitempty"`
	Metric string   `json:"metric,omitempty"` // "" = MetricLoad
}

// Daemon starts a program of the external root that stays, in the step's network
// namespace, and waits until it listens on a Unix socket. Undo: terminated, then
// killed; Stop ends it too.
type Daemon struct {
	Handle string   `json:"handle"`
	Argv   []string `json:"argv"`
	// Env is added to the environment.
	Env    map[string]string `json:"env,omitempty"`
	Socket string            `json:"socket,omitempty"` // path in its root
	// Root names another root file system than that of external filters, one of
	// Hello.Roots. Its programs see their own network namespace in /sys, and cannot
	// change what is under /proc/sys/kernel, which is the whole machine's.
	Root string `json:"root,omitempty"`
	// Port is a TCP port to wait for in the place of a socket.
	Port int `json:"port,omitempty"`
	// Dirs are made below /run of such a root before the program is started.
	Dirs []string `json:"dirs,omitempty"`
	// After is a command of the same root that removes what the daemon leaves behind in
	// its network namespace. It runs when the daemon has ended.
	After []string `json:"after,omitempty"`
	// Cgroup: such a root has a cgroup of version 2 of its own as its /sys/fs/cgroup, and the
	// machine's others are not in it. What is attached there sees the endpoints that the daemon
	// makes, and no other program.
	Cgroup bool `json:"cgroup,omitempty"`
	// PIDFile is a file of such a root that the daemon removes when it ends by itself. One that
	// had to be killed leaves it, and After's command would refuse to run.
	PIDFile string `json:"pid_file,omitempty"`
	// Later: a later step waits until it listens, so that those of other nodes start meanwhile.
	Later bool `json:"later,omitempty"`
	// Timeout is how long it may take until it listens, in seconds; 0 means 60.
	Timeout float64 `json:"timeout,omitempty"`
}

// AdoptBPF finds programs and maps that a Program or Daemon loaded, and files
// them under a handle as LoadBPF does, so that FillMap and Read can use them.
// Maps and programs go by the names that the kernel has; of several of one
// name the second is NAME#2. An adopted object of that handle is replaced. The
// step's value is MetricMemory, as for LoadBPF. Undo: closed, not unloaded.
type AdoptBPF struct {
	Handle string `json:"handle"`
	// Exactly one of: the Daemon whose process holds them, and the directory of
	// the external root below which they are pinned.
	Daemon string `json:"daemon,omitempty"`
	Pins   string `json:"pins,omitempty"`
	// Maps must be among them.
	Maps []string `json:"maps,omitempty"`
	// Link must carry an XDP program in the mode of Hook; "" checks nothing.
	Link string `json:"link,omitempty"`
	Hook string `json:"hook,omitempty"`
}

// StatRange sums consecutive indices of a stats map under a key.
type StatRange struct {
	Key   string `json:"key"`
	First uint32 `json:"first"`
	Count uint32 `json:"count"`
}

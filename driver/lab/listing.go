package lab

import (
	"fmt"
	"strings"
	"time"
)

// Kinds of labs, as they are listed.
const (
	KindRunning = "running" // its driver lives
	KindUp      = "up"      // meant to outlive its driver, which has ended
	KindLeft    = "left"    // its driver died
	KindTorn    = "torn"    // its state cannot be read
)

// Listing is a lab as it is listed: its state, and what is seen of it at one time.
type Listing struct {
	State
	Kind       string  `json:"kind"`
	OwnerLives bool    `json:"owner_lives"` // true too where it cannot be seen from here
	AgeSeconds float64 `json:"age_seconds"`
}

// Listing is the lab as it is listed at the time now.
func (s State) Listing(now time.Time) Listing {
	out := Listing{State: s, OwnerLives: s.InUse(), AgeSeconds: now.Sub(s.Since).Seconds()}
	switch {
	case s.Torn:
		out.Kind = KindTorn
	case s.InUse():
		out.Kind = KindRunning
	case s.Detached:
		out.Kind = KindUp
	default:
		out.Kind = KindLeft
	}
	return out
}

// Owner says to whom the lab belongs.
func (l Listing) Owner() string {
	state := "ended"
	switch {
	case l.Driver.PID == 0:
		return "unknown"
	case l.Driver.onOtherHost():
		state = "on " + l.Driver.Host + ", perhaps alive"
	case l.Driver.Elsewhere():
		state = "of another PID namespace, perhaps alive"
	case l.OwnerLives:
		state = "alive"
	}
	owner := fmt.Sprintf("PID %d, %s", l.Driver.PID, state)
	if l.User != "" {
		owner = l.User + ", " + owner
	}
	return owner
}

// Age is how long ago the lab was begun, in whole seconds.
func (l Listing) Age() string {
	return time.Duration(l.AgeSeconds * float64(time.Second)).Round(time.Second).String()
}

// Title says in a line what the lab is.
func (l Listing) Title() string {
	what := l.Kind
	if l.Experiment != "" {
		what += ", experiment " + l.Experiment
	}
	return fmt.Sprintf("%s, owner %s, age %s", what, l.Owner(), l.Age())
}

// Machines names the lab's machines in a line; "-" is none.
func (l Listing) Machines() string {
	var out []string
	for _, n := range l.Nodes {
		if named := strings.TrimSpace(n.Name + " " + n.Addr); named != "" {
			out = append(out, named)
		}
	}
	for _, h := range l.Hypervisors {
		out = append(out, "on "+h.Title())
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ", ")
}

// Reachable says whether a user can log in to the lab's nodes: it was left running on purpose.
func (s State) Reachable() bool { return s.Detached && len(s.Nodes) > 0 }

// NodeNames are the names of the lab's nodes.
func (s State) NodeNames() []string {
	var out []string
	for _, n := range s.Nodes {
		out = append(out, n.Name)
	}
	return out
}

// SSHCommand is the command line of OpenSSH's client for a node, in the network namespace from which
// the lab's nodes can be reached. Each argument of command reaches the node as it is; without one
// the client logs in. ok is false if the lab has no such node.
func (s State) SSHCommand(node string, command []string) (argv []string, ok bool) {
	addr := ""
	for _, n := range s.Nodes {
		if n.Name == node {
			addr = n.Addr
		}
	}
	if addr == "" {
		return nil, false
	}
	if s.NetNS != "" {
		argv = append(argv, "nsenter", "--net="+s.NetNS)
	}
	argv = append(argv, "ssh", "-i", s.Key, "-o", "UserKnownHostsFile="+s.Known, "-o", "StrictHostKeyChecking=yes",
		"-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR")
	if through := s.Proxy(node); through != "" {
		argv = append(argv, "-o", "ProxyCommand="+through)
	}
	argv = append(argv, "root@"+addr)
	for _, arg := range command {
		argv = append(argv, shellQuote(arg))
	}
	return argv, true
}

func shellQuote(arg string) string { return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'" }

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/host"
	"hookbed/driver/lab/remote"
	"hookbed/driver/plan"
)

// Finding is one thing looked at on an existing machine.
type Finding struct {
	What   string // "node1 kernel"
	OK     bool
	Detail string
	Fix    string // what to do when not OK
}

// inspectLimit bounds the inspection of one machine.
const inspectLimit = 60 * time.Second

// Inspect looks at one machine of the inventory: whether it can be reached, by
// which key, as root, and what it is and has. It leaves nothing there. The facts
// have the names of a helper's facts, and are nil if the machine cannot be reached.
func Inspect(ctx context.Context, inv *plan.Inventory, m plan.Machine, guest string) ([]Finding, map[string]string) {
	ctx, cancel := context.WithTimeout(ctx, inspectLimit)
	defer cancel()
	r, err := remote.Reach(ctx, inv, m, "doctor", whoami(), 0)
	found := reachFinding(inv, m, err)
	if err != nil {
		return []Finding{found}, nil
	}
	defer r.SSH.Close()
	found.Detail = fmt.Sprintf("%s port %d as %s, host key %s", m.Host, m.Port, m.User, host.Fingerprint(r.HostKey))
	facts, err := inspect(ctx, r, m, guest)
	if err = errors.Join(err, r.Leave(context.WithoutCancel(ctx))); err != nil {
		return []Finding{found, {What: m.Name + " helper", Detail: err.Error(),
			Fix: fmt.Sprintf("see that %s is on a file system from which programs run (lab.directory), and that the machine is %s", inv.Directory, "x86-64 Linux")}}, nil
	}
	out := []Finding{found}
	for _, look := range []func(plan.Machine, map[string]string) Finding{kernelFinding, toolFinding, jitFinding, bridgeFinding, nicFinding} {
		if f := look(m, facts); f.What != "" {
			f.What = m.Name + " " + f.What
			out = append(out, f)
		}
	}
	return out, facts
}

// inspect runs the helper's program, which reports what the machine is and has.
func inspect(ctx context.Context, r *remote.Run, m plan.Machine, guest string) (map[string]string, error) {
	program, err := r.PushProgram(ctx, guest)
	if err != nil {
		return nil, err
	}
	argv := append(r.RootArgv(program, "inspect"), r.KeepFlags()...)
	if m.Data != "" {
		argv = append(argv, "--data", m.Data)
	}
	var out bytes.Buffer
	if err := r.SSH.Run(ctx, host.Cmd{Argv: argv, Stdout: &out}); err != nil {
		return nil, err
	}
	var facts map[string]string
	if err := json.Unmarshal(out.Bytes(), &facts); err != nil {
		return nil, fmt.Errorf("read what the helper says: %w", err)
	}
	return facts, nil
}

// reachFinding explains why a machine could not be reached.
func reachFinding(inv *plan.Inventory, m plan.Machine, err error) Finding {
	f := Finding{What: m.Name + " login", OK: err == nil}
	if err == nil {
		return f
	}
	f.Detail = err.Error()
	var changed *host.HostKeyError
	switch {
	case errors.Is(err, host.ErrUnknownHost):
		f.Fix = fmt.Sprintf("compare the fingerprint that `ssh-keyscan -p %d %s | ssh-keygen -lf -` prints with the machine's own, then add the line to %s", m.Port, m.Host, m.KnownHosts)
	case errors.Is(err, host.ErrRevoked):
		f.Fix = fmt.Sprintf("give the machine a new key, and write its line into %s", m.KnownHosts)
	case errors.As(err, &changed):
		f.Fix = fmt.Sprintf("find out why the machine has another key (new system, or somebody in between); only then change the line in %s", m.KnownHosts)
	case errors.Is(err, remote.ErrNotRoot):
		f.Fix = fmt.Sprintf("write user = \"root\", or let %s sudo without a password: echo '%s ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/hookbed", m.User, m.User)
	case strings.Contains(f.Detail, "is refused for user"):
		f.Fix = fmt.Sprintf("add the public half of %s to ~%s/.ssh/authorized_keys on the machine", m.Key, m.User)
	case strings.Contains(f.Detail, "read known hosts"), strings.Contains(f.Detail, "login key"), strings.Contains(f.Detail, "private key"):
		f.Fix = "see that key and known_hosts name the right files (paths are relative to the experiment), and that the key has no passphrase"
	case strings.Contains(f.Detail, remote.Foreign):
		f.Fix = "give lab.directory a folder of its own: one that is not there yet, or an empty one"
	case strings.Contains(f.Detail, "make "+inv.Directory):
		f.Fix = "give lab.directory a place that root can write to"
	default:
		f.Fix = fmt.Sprintf("see that the machine is on, and that its SSH server answers at %s port %d", m.Host, m.Port)
	}
	return f
}

// Least kernel: the tc and XDP programs use features of Linux 5.10.
const leastMajor, leastMinor = 5, 10

func kernelFinding(_ plan.Machine, facts map[string]string) Finding {
	release := facts["kernel.release"]
	f := Finding{What: "kernel", Detail: release + ", BTF " + map[string]string{"true": "present"}[facts["btf"]]}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || major < leastMajor || major == leastMajor && minor < leastMinor {
		f.Fix = fmt.Sprintf("run a kernel of at least %d.%d", leastMajor, leastMinor)
		return f
	}
	if facts["btf"] != "true" {
		f.Detail = release + ", no BTF"
		f.Fix = "run a kernel with CONFIG_DEBUG_INFO_BTF=y (/sys/kernel/btf/vmlinux)"
		return f
	}
	f.OK = true
	return f
}

// toolFinding is about the tools that load rule sets. None is needed by all arms.
func toolFinding(_ plan.Machine, facts map[string]string) Finding {
	f := Finding{What: "tools", OK: true}
	var have, lack []string
	for _, tool := range []string{"nft", "iptables-legacy", "iptables-nft", "ipset"} {
		if v := facts["tool."+tool]; v != "" {
			have = append(have, v)
		} else {
			lack = append(lack, tool)
		}
	}
	f.Detail = strings.Join(have, ", ")
	if len(lack) > 0 {
		f.OK, f.Detail = false, "missing: "+strings.Join(lack, ", ")
		f.Fix = "on the machine: apt-get install iptables nftables ipset, or leave the arms out that need them"
	}
	return f
}

func jitFinding(_ plan.Machine, facts map[string]string) Finding {
	f := Finding{What: "BPF JIT", OK: facts["bpf_jit_enable"] == "1" && facts["bpf_jit_harden"] == "0"}
	f.Detail = fmt.Sprintf("net.core.bpf_jit_enable = %q, bpf_jit_harden = %q", facts["bpf_jit_enable"], facts["bpf_jit_harden"])
	f.Fix = "on the machine: sysctl -w net.core.bpf_jit_enable=1 net.core.bpf_jit_harden=0; trials of eBPF arms would be void"
	return f
}

func bridgeFinding(_ plan.Machine, facts map[string]string) Finding {
	f := Finding{What: "br_netfilter", OK: facts["br_netfilter"] != "missing", Detail: facts["br_netfilter"]}
	f.Fix = "install the kernel's full set of modules; without br_netfilter arms on fabric \"bridge\" cannot run"
	if f.Detail == "module" {
		f.Detail = "a module, loaded for the run and unloaded then"
	}
	return f
}

func nicFinding(m plan.Machine, facts map[string]string) Finding {
	f := Finding{What: "data NIC"}
	switch {
	case m.Data == "":
		return Finding{}
	case facts["nic.present"] != "true":
		f.Detail = fmt.Sprintf("there is no %s, but %s", m.Data, facts["nic.others"])
		f.Fix = "write the name of the NIC towards the other machine as data"
	case facts["nic.in_use"] != "":
		f.Detail = fmt.Sprintf("%s cannot be borrowed: %s", m.Data, facts["nic.in_use"])
		f.Fix = "give data a NIC that nothing else uses during a run"
	default:
		f.OK, f.Detail = true, fmt.Sprintf("%s, MTU %s, %s", m.Data, facts["nic.mtu"], facts["nic.state"])
		if a := facts["nic.addresses"]; a != "" {
			f.Detail += "; its addresses are away during a run: " + a
		}
	}
	return f
}

// ReachNodes proves that the lab's second node can be reached from the first
// over the data link, and undoes what it did.
func (l *Lab) ReachNodes(ctx context.Context) (err error) {
	a, b := datapath.NodeAt(1), datapath.NodeAt(2)
	t := datapath.Topology{Nodes: []datapath.Node{a, b}}
	marks, err := l.Mark(ctx, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.UndoTo(ctx, marks)) }()
	steps := []bundle.Step{
		{Node: b.Name, Phase: bundle.Prove, Do: bundle.Listen{Handle: "reach", Port: datapath.ServicePort}},
		{Node: a.Name, Phase: bundle.Prove, Do: bundle.Probes{Link: datapath.DataLink, Timeout: 5, Tries: []bundle.Probe{
			{What: b.Name + " over the data link", From: a.Data.String(), To: b.Data.String(), Port: datapath.ServicePort, Want: bundle.Allow},
			{What: "whole frames to " + b.Name, From: a.Data.String(), To: b.Data.String(), Port: datapath.ServicePort, Proto: bundle.UDP, Size: l.wholeFrame(a.Name, b.Name), Want: bundle.Allow},
		}}},
	}
	_, err = l.Exec(ctx, &bundle.Bundle{Schema: bundle.Schema, Name: "reach", Steps: steps}, bundle.Prove)
	return err
}

// wholeFrame is the payload of a datagram that fills the smaller MTU of two nodes.
func (l *Lab) wholeFrame(nodes ...string) int {
	least := 1500
	for _, n := range nodes {
		if mtu, err := strconv.Atoi(l.Facts(n)["link."+datapath.DataLink+".mtu"]); err == nil && mtu < least {
			least = mtu
		}
	}
	return least - 28 // IPv4 and UDP headers
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"hookbed/analysis/durable"
	"hookbed/driver/host"
	"hookbed/driver/lab/remote"
	"hookbed/driver/plan"
	"hookbed/driver/vm"
)

// InspectHypervisor looks at a computer on whose libvirt nodes are to run: login,
// libvirt and what it can do, the directory, and the way of the data. cards are
// those of the data network that the experiment has. It leaves nothing there.
func InspectHypervisor(ctx context.Context, h plan.Hypervisor, accel string, cards []plan.NIC) []Finding {
	ctx, cancel := context.WithTimeout(ctx, inspectLimit)
	defer cancel()
	c := &otherComputer{at: h}
	found := c.loginFinding(c.login(ctx))
	out := []Finding{found}
	if found.OK {
		defer c.SSH.Close()
		out = append(out, c.libvirtFindings(ctx, accel)...)
		out = append(out, c.forwardFinding(ctx), c.directoryFinding(ctx), c.firewallFinding(ctx))
		if h.DataBridge != "" {
			out = append(out, c.bridgeFinding(ctx, cards))
		}
	}
	for i := range out {
		out[i].What = c.title() + " " + out[i].What
	}
	return out
}

func (c *otherComputer) loginFinding(err error) Finding {
	h := c.at
	f := reachFinding(&plan.Inventory{Directory: h.Directory}, plan.Machine{Host: h.Host, Port: h.Port, User: h.User, Key: h.Key, KnownHosts: h.KnownHosts}, err)
	f.What = "login"
	if err == nil {
		f.Detail = "host key " + host.Fingerprint(c.HostKey)
	}
	return f
}

// libvirtFindings connect to libvirt as a lab does.
func (c *otherComputer) libvirtFindings(ctx context.Context, accel string) []Finding {
	f := Finding{What: "libvirt", Fix: "on it: systemctl start libvirtd, and see that user " + c.at.User + " may use it (root, or one of group libvirt)"}
	fail := func(err error) []Finding {
		f.Detail = err.Error()
		return []Finding{f}
	}
	dir, remove, err := durable.Scratch("doctor")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = remove() }() // what stays costs only space
	hv, err := vm.Connect(ctx, vm.Config{StateDir: dir, Lab: "doctor", Remote: c.way()})
	if err != nil {
		return fail(err)
	}
	v, err := hv.Versions(ctx)
	able := hv.Supports(ctx, accel)
	if err = errors.Join(err, hv.Close(ctx)); err != nil {
		return fail(err)
	}
	f.OK, f.Detail = true, fmt.Sprintf("%s, QEMU %s", v.Libvirt, v.QEMU)
	a := Finding{What: "accelerator", OK: able == nil, Detail: accel}
	if able != nil {
		a.Detail, a.Fix = able.Error(), "on it, do what the message says, or write another accel"
	}
	return []Finding{f, a}
}

// forwardFinding tries whether guests can be reached through the SSH server, by the
// discard port (RFC 863), on which hardly any computer listens.
func (c *otherComputer) forwardFinding(ctx context.Context) Finding {
	f := Finding{What: "forwarding", OK: true, Detail: "its SSH server forwards connections to guests"}
	conn, err := c.SSH.Forward(ctx, "tcp", "127.0.0.1:9")
	if err == nil {
		_ = conn.Close()
	}
	if err != nil && (strings.Contains(err.Error(), "prohibited") || errors.Is(err, host.ErrUnreachable)) {
		f.OK, f.Detail, f.Fix = false, err.Error(), "on it, write AllowTcpForwarding yes into sshd_config (and no permitopen= before the key)"
	}
	return f
}

// leastSpace is what images of one kernel and the files of a lab take, in bytes.
const leastSpace = 1 << 30

func (c *otherComputer) directoryFinding(ctx context.Context) Finding {
	dir := c.at.Directory
	f := Finding{What: "directory", Fix: fmt.Sprintf("on it, as root: install -d -o %s %s; or give the hypervisor another directory", c.at.User, dir)}
	text, err := remote.FreeBytes(ctx, c.Computer, dir)
	if err != nil {
		f.Detail = err.Error()
		if strings.Contains(f.Detail, remote.Foreign) {
			f.Fix = "give the hypervisor's directory a folder of its own: one that is not there yet, or an empty one"
		}
		return f
	}
	free, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	f.OK, f.Detail = free >= leastSpace, fmt.Sprintf("%s, %.1f GiB free, want %d", dir, float64(free)/(1<<30), leastSpace>>30)
	if !f.OK {
		f.Fix = "free some space there, or give the hypervisor another directory"
	}
	return f
}

// firewallFinding is about rules of the hypervisor that bridged frames meet: a
// measurement would include their cost.
func (c *otherComputer) firewallFinding(ctx context.Context) Finding {
	f := Finding{What: "bridged frames", OK: true, Detail: "no firewall of the hypervisor sees them"}
	const off = "net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-arptables=0"
	const script = `cd /proc/sys/net/bridge 2>/dev/null || exit 0; for f in bridge-nf-call-iptables bridge-nf-call-arptables; do [ "$(cat $f)" = 0 ] || echo "$f=$(cat $f)"; done`
	text, err := c.Output(ctx, "sh", "-c", script)
	if err != nil {
		text = err.Error()
	}
	if text != "" {
		f.OK, f.Detail = false, "the hypervisor's firewall sees them: "+strings.Join(strings.Fields(text), " ")
		f.Fix = "on it: sysctl -w " + off + "; its rules would be measured with the guests', and Docker's drop what is forwarded"
	}
	return f
}

func (c *otherComputer) bridgeFinding(ctx context.Context, cards []plan.NIC) Finding {
	f := Finding{What: "data bridge", OK: true, Fix: "do what the message says"}
	for _, nic := range cards {
		if err := c.checkBridge(ctx, nic); err != nil {
			f.OK, f.Detail = false, err.Error()
			return f
		}
	}
	ports, err := c.Output(ctx, "ls", path.Join("/sys/class/net", c.at.DataBridge, "brif"))
	if err != nil {
		f.OK, f.Detail = false, err.Error()
		return f
	}
	f.Detail = fmt.Sprintf("%s, with the ports %q", c.at.DataBridge, strings.Fields(ports))
	return f
}

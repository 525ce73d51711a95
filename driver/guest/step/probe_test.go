package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/computer"
	"hookbed/driver/guest/guesttest"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
)

func TestProbesThatMustFail(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.must("server", bundle.Listen{Handle: "l", Port: 5001})
	before := r.state(r.x.endpoints["client"].Namespace)
	try := func(from, to string, port int, want string) bundle.Probes {
		return bundle.Probes{Link: "eth0", Timeout: heard, Tries: []bundle.Probe{{What: "forbidden source", From: from, To: to, Port: port, Want: want}}}
	}
	r.fails("client", bundle.FaultSubject, try("198.19.0.7", "198.18.1.3", 5001, bundle.Deny), "forbidden source: 198.19.0.7 -> 198.18.1.3:5001 was allowed, want deny")
	r.fails("client", bundle.FaultSubject, try("198.18.1.2", "198.18.1.3", 5002, bundle.Deny), "was let through and reset")
	r.fails("client", bundle.FaultSubject, try("198.18.1.2", "198.18.1.3", 5002, bundle.Allow), "was let through and reset", "want allow")
	r.fails("client", bundle.FaultSubject, try("198.18.1.2", "198.18.77.3", 5001, bundle.Deny), "never sent")
	r.fails("client", bundle.FaultRig, try("here", "198.18.1.3", 5001, bundle.Deny), `source "here"`)
	r.fails("client", bundle.FaultRig, try("198.18.1.2", "198.18.1.3", 5001, "maybe"), `"maybe"`)
	if after := r.state(r.x.endpoints["client"].Namespace); after != before {
		t.Errorf("probes left\n%s\nit was\n%s", after, before)
	}
}

// TestSilentAllowIsAFailure: what must be answered is given its own time, not that
// of a denial.
func TestSilentAllowIsAFailure(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.x.answerLimit = time.Second
	r.file("rules", "*filter\n:INPUT DROP [0:0]\nCOMMIT\n")
	r.must("server", bundle.Rules{Tool: "iptables-legacy", File: "rules"}, bundle.Listen{Handle: "l", Port: 5001})
	start := time.Now()
	r.fails("client", bundle.FaultSubject, bundle.Probes{Link: "eth0", Timeout: 0.1, Tries: []bundle.Probe{
		{What: "client", From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Want: bundle.Allow},
		{What: "stranger", From: "198.19.0.7", To: "198.18.1.3", Port: 5001, Want: bundle.Deny},
	}}, "client: 198.18.1.2 -> 198.18.1.3:5001 was denied (no answer), want allow")
	if d := time.Since(start); d < r.x.answerLimit {
		t.Errorf("gave up after %v, want %v", d, r.x.answerLimit)
	}
}

// TestAllowedProbesAwaitTheirNeighbour: what must be answered is tried again where
// the kernel gave up the neighbour on the way, as it does on a busy machine.
func TestAllowedProbesAwaitTheirNeighbour(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.must("server", bundle.Listen{Handle: "l", Port: 5001})
	r.x.answerLimit = guesttest.Patience
	client, server := r.x.endpoints["client"], r.x.endpoints["server"]
	ip := func(at *proc.Endpoint, argv ...string) (out []byte) {
		_ = at.Do(func() (err error) { out, err = exec.Command("ip", argv...).Output(); return err })
		return out
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for end := time.Now().Add(guesttest.Patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if strings.Contains(string(ip(client, "neigh", "show", "198.18.1.9")), "FAILED") {
				break
			}
		}
		ip(server, "address", "add", "198.18.1.9/32", "dev", "eth0")
	}()
	r.must("client", bundle.Probes{Link: "eth0", Tries: []bundle.Probe{{What: "c", From: client4, To: "198.18.1.9", Port: 5001, Want: bundle.Allow}}})
	<-done
}

// TestDeniedProbesWaitForTheirWitness: on a machine so busy that answers come long
// after a denial's silence, what is let through is not taken for denied as long as
// a probe that is sent after it is on its way.
func TestDeniedProbesWaitForTheirWitness(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.lateEchoes(5001, 5002)
	denied := bundle.Probe{What: "let through", From: client4, To: server4, Port: 5001, Proto: bundle.UDP, Want: bundle.Deny}
	witness := bundle.Probe{What: "witness", From: client4, To: server4, Port: 5002, Proto: bundle.UDP, Want: bundle.Allow}
	r.fails("client", bundle.FaultSubject, bundle.Probes{Link: "eth0", Timeout: 0.01, Tries: []bundle.Probe{witness, denied}},
		"let through: 198.18.1.2 -> udp 198.18.1.3:5001 was allowed, want deny")
}

// lateEchoes answers a datagram to each of two of the server's ports, once both are
// there and after a while: the second, then the first.
func (r *rig) lateEchoes(first, second int) {
	r.t.Helper()
	var conns []net.PacketConn
	err := r.x.endpoints["server"].Do(func() error {
		for _, port := range []int{first, second} {
			conn, err := net.ListenPacket("udp4", fmt.Sprintf("%s:%d", server4, port))
			if err != nil {
				return err
			}
			r.t.Cleanup(func() { conn.Close() })
			conns = append(conns, conn)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	go func() {
		var said [2][]byte
		var from [2]net.Addr
		for i, conn := range conns {
			buf := make([]byte, 64)
			n, addr, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			said[i], from[i] = buf[:n], addr
		}
		time.Sleep(400 * time.Millisecond)
		for _, i := range []int{1, 0} {
			_, _ = conns[i].WriteTo(said[i], from[i])
		}
	}()
}

func TestAdministrativeRefusalIsADenial(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.file("rules", "*filter\n-A INPUT -p tcp -j REJECT --reject-with icmp-admin-prohibited\nCOMMIT\n")
	r.must("server", bundle.Rules{Tool: "iptables-legacy", File: "rules"}, bundle.Listen{Handle: "l", Port: 5001})
	r.must("client", bundle.Probes{Link: "eth0", Timeout: heard, Tries: []bundle.Probe{{What: "c", From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Want: bundle.Deny}}})
	r.file("reset", "*filter\n-F INPUT\n-A INPUT -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n")
	r.must("server", bundle.Rules{Tool: "iptables-legacy", File: "reset"})
	r.fails("client", bundle.FaultSubject, bundle.Probes{Link: "eth0", Timeout: heard, Tries: []bundle.Probe{{What: "c", From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Want: bundle.Deny}}}, "reset")
}

func TestSnapshot(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.must("server", bundle.Listen{Handle: "l", Port: 5001})
	r.must("client", bundle.Probes{Link: "eth0", Tries: []bundle.Probe{{What: "c", From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Want: bundle.Allow}}})
	r.must("client", bundle.Snapshot{Out: "s.json"})
	var act bundle.Activity
	if err := json.Unmarshal([]byte(r.raw["s.json"]), &act); err != nil {
		t.Fatal(err)
	}
	if act.TCP["ActiveOpens"] != 1 || act.CPU["idle"] <= 0 || len(act.CPU) != 8 || act.Softirqs["NET_RX"] == 0 || act.UnixNano == 0 {
		t.Errorf("activity is %+v", act)
	}
	r.fails("client", bundle.FaultRig, bundle.Snapshot{}, "without a file name")
}

func TestFacts(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Veth{Link: netns.DataLink, Peer: "far", MTU: 1400})
	f, err := r.x.facts(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"kernel.release", "kernel.version", "cpu.model", "cpu.count", "cpu.pinnable", "clocksource", "bpf_jit_enable",
		"sysctl.net.ipv4.tcp_congestion_control", "sysctl.net.core.rmem_max", "tool.iptables-legacy", "tool.iptables-nft", "tool.ip"} {
		if f[key] == "" {
			t.Errorf("no fact %s", key)
		}
	}
	if f["link.data0.driver"] != "veth" || f["link.data0.mtu"] != "1400" || f["link.data0.queues"] != "1 rx, 1 tx" || !strings.Contains(f["link.data0.offloads"], "tx-tcp-segmentation") {
		t.Errorf("link facts are %q %q %q %q", f["link.data0.driver"], f["link.data0.mtu"], f["link.data0.queues"], f["link.data0.offloads"])
	}
	if usable, restricted := computer.Congestion(); f["congestion.usable"] != strings.Join(usable, " ") || f["congestion.restricted"] != strings.Join(restricted, " ") {
		t.Errorf("congestion controls are %q and %q, want %v and %v", f["congestion.usable"], f["congestion.restricted"], usable, restricted)
	}
	held := newRig(t)
	held.must("", bundle.Netns{Name: "node1"}, bundle.Veth{Link: netns.DataLink, Peer: "far", MTU: 1300})
	if f, err := held.x.facts(t.Context()); err != nil || f["link.data0.mtu"] != "1300" {
		t.Errorf("MTU of a held node's data link is %q (%v), want 1300", f["link.data0.mtu"], err)
	}
	if v, ok := f["tool.dockerd"]; ok && v == "" {
		t.Error("an unknown fact is there, and empty")
	}
}

// TestRefusals: each attempt of several must be denied, and reaches what denies it.
func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.pair()
	stranger := bundle.Probe{What: "stranger", From: "198.19.0.7", To: server4, Port: 5001, Want: bundle.Deny}
	before := r.state(r.x.endpoints["client"].Namespace)
	do := bundle.Refusals{Link: "eth0", Try: stranger, Times: 12, Timeout: 0.1}
	r.fails("client", bundle.FaultSubject, do, "stranger: attempt 1 of 12, 198.19.0.7 -> 198.18.1.3:5001, was let through and reset")
	r.must("server", bundle.Listen{Handle: "l", Port: 5001})
	r.fails("client", bundle.FaultSubject, do, "attempt 1 of 12", "was allowed, want deny")
	r.file("rules", "*filter\n-A INPUT -s 198.19.0.7 -j DROP\nCOMMIT\n")
	r.must("server", bundle.Rules{Tool: "iptables-legacy", File: "rules"})
	if got := r.must("client", do).Values["denied"]; got != 12 {
		t.Errorf("%g attempts were denied, want 12", got)
	}
	counted := ""
	_ = r.x.endpoints["server"].Do(func() error {
		out, err := exec.Command("iptables-legacy", "-nvxL", "INPUT").CombinedOutput()
		counted = string(out)
		return err
	})
	var packets int
	if _, err := fmt.Sscan(strings.Join(strings.Split(counted, "\n")[2:], " "), &packets); err != nil || packets < 12 {
		t.Errorf("the rule counted\n%s\nwant 12 packets at least: a busy machine may send some twice", counted)
	}
	if after := r.state(r.x.endpoints["client"].Namespace); after != before {
		t.Errorf("refusals left\n%s\nit was\n%s", after, before)
	}
	do.Try.Want = bundle.Allow
	r.fails("client", bundle.FaultRig, do, `wants "allow"`)
	do.Try.Want, do.Try.Proto = bundle.Deny, bundle.UDP
	r.fails("client", bundle.FaultRig, do, "only connections are repeated")
}

// TestFactsAreWholeOrNone: facts that lack a tool because it was killed would make its arms not
// supported, for good.
func TestFactsAreWholeOrNone(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if f, err := r.x.facts(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted, the facts are %v, %v", f, err)
	}
	dir := t.TempDir()
	for name, script := range map[string]string{"good": "echo v1.2", "killed": "kill -KILL $$", "none": "exit 1", "broken": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "broken"), []byte("\x7fELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"good": "v1.2", "killed": "", "none": "", "broken": "", "absent": ""} {
		got, err := r.x.versionOf(t.Context(), r.x.node, filepath.Join(dir, name))
		if got != want || (err != nil) != (name == "killed") {
			t.Errorf("the version of one that is %s is %q, %v", name, got, err)
		}
	}
}

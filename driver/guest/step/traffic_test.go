package step

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/guesttest"
)

const (
	client6, server6, stranger6 = "2001:2:0:1::2", "2001:2:0:1::3", "2001:2:0:2::7"
	client4, server4, stranger4 = "198.18.1.2", "198.18.1.3", "198.19.0.7"
)

// families are the addresses of the client, a stranger and the server by the
// tool that filters them.
func families() map[string][3]string {
	return map[string][3]string{
		"iptables-legacy":  {client4, stranger4, server4},
		"ip6tables-legacy": {client6, stranger6, server6},
	}
}

// TestProbesOfEveryProtocol filters what comes from a stranger and sees that
// every kind of probe tells the two apart, in both families, in one piece and
// in fragments.
func TestProbesOfEveryProtocol(t *testing.T) {
	for tool, who := range families() {
		t.Run(tool, func(t *testing.T) {
			r := newRig(t)
			r.pair6()
			r.must("server", bundle.Listen{Handle: "l", Port: 5001})
			r.output("server", tool, "-A", "INPUT", "-s", who[1], "-j", "DROP")
			before := r.state(r.x.endpoints["client"].Namespace)
			var tries []bundle.Probe
			for _, proto := range []string{"", bundle.TCP, bundle.UDP, bundle.ICMP} {
				for _, size := range []int{0, 1000, 4000, 60000} {
					if size > 0 && (proto == "" || proto == bundle.TCP) {
						continue
					}
					tries = append(tries,
						bundle.Probe{What: "client", From: who[0], To: who[2], Port: 5001, Want: bundle.Allow, Proto: proto, Size: size},
						bundle.Probe{What: "stranger", From: who[1], To: who[2], Port: 5001, Want: bundle.Deny, Proto: proto, Size: size})
				}
			}
			got := r.must("client", bundle.Probes{Link: "eth0", Timeout: 0.3, Tries: tries}).Values
			if n := float64(len(tries) / 2); got["allowed"] != n || got["denied"] != n {
				t.Errorf("counted %v, want %g each", got, n)
			}
			if after := r.state(r.x.endpoints["client"].Namespace); after != before {
				t.Errorf("probes left\n%s\nit was\n%s", after, before)
			}
			fragments := r.output("server", "sh", "-c", "cat /proc/net/snmp /proc/net/snmp6 | grep -A1 -E '^Ip: |Ip6ReasmOKs'")
			if !strings.Contains(fragments, "Reasm") || reassembled(t, fragments, tool) == 0 {
				t.Errorf("the server put no fragments together:\n%s", fragments)
			}
		})
	}
}

// reassembled reads how many datagrams were put together from fragments.
func reassembled(t *testing.T, text, tool string) int {
	t.Helper()
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case tool != "iptables-legacy" && f[0] == "Ip6ReasmOKs":
			return atoi(t, f[1])
		case tool == "iptables-legacy" && f[0] == "Ip:" && names == nil:
			names = f
		case tool == "iptables-legacy" && f[0] == "Ip:":
			for i, name := range names {
				if name == "ReasmOKs" {
					return atoi(t, f[i])
				}
			}
		}
	}
	t.Fatalf("no counter in\n%s", text)
	return 0
}

func TestDatagramProbesThatMustFail(t *testing.T) {
	r := newRig(t)
	r.pair6()
	r.must("server", bundle.Listen{Handle: "l", Port: 5001})
	try := func(p bundle.Probe) bundle.Probes {
		p.What, p.From = "it", client4
		if p.To == server6 {
			p.From = client6
		}
		return bundle.Probes{Link: "eth0", Timeout: heard, Tries: []bundle.Probe{p}}
	}
	for _, to := range []string{server4, server6} {
		r.fails("client", bundle.FaultSubject, try(bundle.Probe{To: to, Port: 5001, Proto: bundle.UDP, Want: bundle.Deny}), "it: ", "udp ", " was allowed, want deny")
		r.fails("client", bundle.FaultSubject, try(bundle.Probe{To: to, Port: 5002, Proto: bundle.UDP, Want: bundle.Deny}), "let through and reset")
		r.fails("client", bundle.FaultSubject, try(bundle.Probe{To: to, Proto: bundle.ICMP, Size: 3000, Want: bundle.Deny}), "icmp "+to+" (3000 bytes) was allowed")
	}
	r.fails("client", bundle.FaultRig, try(bundle.Probe{To: server4, Proto: "gre", Want: bundle.Deny}), `unknown protocol "gre"`)
	r.fails("client", bundle.FaultRig, try(bundle.Probe{To: server4, Port: 5001, Size: 3000, Want: bundle.Deny}), "only datagrams have a size")
	r.fails("client", bundle.FaultRig, try(bundle.Probe{To: server4, Proto: bundle.UDP, Size: 65001, Want: bundle.Deny}), "at most 65000")
	r.fails("client", bundle.FaultRig, bundle.Probes{Link: "eth0", Tries: []bundle.Probe{{From: client4, To: server6, Port: 5001, Want: bundle.Deny}}}, "two families")
	r.fails("client", bundle.FaultSubject, try(bundle.Probe{To: "198.18.77.3", Port: 5001, Proto: bundle.UDP, Want: bundle.Deny}), "never sent")
}

// TestDatagramsRefusedByAnAdministrator: such a message is a denial.
func TestDatagramsRefusedByAnAdministrator(t *testing.T) {
	for tool, who := range families() {
		how := map[string]string{"iptables-legacy": "icmp-admin-prohibited", "ip6tables-legacy": "icmp6-adm-prohibited"}[tool]
		r := newRig(t)
		r.pair6()
		r.must("server", bundle.Listen{Handle: "l", Port: 5001})
		r.output("server", tool, "-A", "INPUT", "-p", "udp", "-j", "REJECT", "--reject-with", how)
		r.must("client", bundle.Probes{Link: "eth0", Timeout: heard, Tries: []bundle.Probe{{What: "c", From: who[0], To: who[2], Port: 5001, Proto: bundle.UDP, Want: bundle.Deny}}})
	}
}

// connect opens a connection from the client's namespace.
func (r *rig) connect(to string) net.Conn {
	r.t.Helper()
	var conn net.Conn
	err := r.x.endpoints["client"].Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", to, guesttest.Patience)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(guesttest.Patience))
	return conn
}

// TestListenEchoes: a connection that says nothing is closed, one that does is
// answered for as long as it lives, and Stop ends both.
func TestListenEchoes(t *testing.T) {
	r := newRig(t)
	r.pair6()
	r.must("server", bundle.Listen{Handle: "l", Port: 5001})
	r.x.silentLimit = 50 * time.Millisecond
	r.must("server", bundle.Listen{Handle: "hasty", Port: 5002})
	silent, talks := r.connect("[2001:2:0:1::3]:5002"), r.connect("198.18.1.3:5001")
	say := func(text string) {
		t.Helper()
		buf := make([]byte, len(text))
		if _, err := talks.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(talks, buf); err != nil || string(buf) != text {
			t.Fatalf("got %q back (%v), want %q", buf, err, text)
		}
	}
	say("early")
	if n, err := silent.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the silent connection gives %d bytes, %v, want its end", n, err)
	}
	say("later")
	r.must("server", bundle.Stop{Handle: "l"})
	if _, err := talks.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives its listener")
	}
}

func TestStartWaitsForIPv6(t *testing.T) {
	r := newRig(t)
	r.pair6()
	r.must("server", bundle.Start{Handle: "s", Argv: []string{guesttest.Self(t), "test-server6", "5001"}, Port: 5001})
	r.must("client", bundle.Probes{Link: "eth0", Timeout: 0.1, Tries: []bundle.Probe{{What: "c", From: client6, To: server6, Port: 5001, Want: bundle.Allow}}})
}

// TestFlow: an open connection lives, is cut by a filter and lives again, and
// leaves nothing.
func TestFlow(t *testing.T) {
	for tool, who := range families() {
		t.Run(tool, func(t *testing.T) {
			r := newRig(t)
			r.pair6()
			r.must("server", bundle.Listen{Handle: "l", Port: 5001})
			client := r.x.endpoints["client"].Namespace
			before := r.state(client)
			r.x.undo.mark()
			open := bundle.Flow{Handle: "f", Op: bundle.FlowOpen, Link: "eth0", From: who[1], To: who[2], Port: 5001, Timeout: heard}
			check := bundle.Flow{Handle: "f", Op: bundle.FlowCheck, Timeout: heard}
			cut := bundle.Flow{Handle: "f", Op: bundle.FlowCheck, Timeout: heard, Want: bundle.Deny}
			if got := r.must("client", open).Values["echo_seconds"]; got <= 0 {
				t.Errorf("the first echo took %g s", got)
			}
			r.fails("client", bundle.FaultRig, open, `"f" is taken`)
			r.must("client", check)
			r.fails("client", bundle.FaultSubject, cut, "bytes came back")
			r.output("server", tool, "-A", "INPUT", "-s", who[1], "-j", "DROP")
			cut.Timeout = 0.2
			r.must("client", cut)
			cut.Want = bundle.Allow
			r.fails("client", bundle.FaultSubject, cut, "flow "+who[1], "nothing came back within 0.2 s")
			r.output("server", tool, "-F", "INPUT")
			check.Timeout = guesttest.Patience.Seconds() // TCP's own pace
			r.must("client", check)                      // after the answers to the earlier ones
			r.must("client", bundle.Flow{Handle: "f", Op: bundle.FlowClose})
			if after := r.state(client); after != before {
				t.Errorf("the flow left\n%s\nit was\n%s", after, before)
			}
			r.must("client", open) // undo closes it
			if err := r.x.undoTo(1); err != nil {
				t.Fatal(err)
			}
			if after := r.state(client); after != before {
				t.Errorf("undo left\n%s\nit was\n%s", after, before)
			}
		})
	}
}

func TestFlowFailures(t *testing.T) {
	r := newRig(t)
	r.pair()
	before := r.state(r.x.endpoints["client"].Namespace)
	open := bundle.Flow{Handle: "f", Op: bundle.FlowOpen, Link: "eth0", From: stranger4, To: server4, Port: 5001, Timeout: heard}
	r.fails("client", bundle.FaultSubject, open, "open flow: 198.19.0.7 -> 198.18.1.3:5001 was let through and reset")
	r.output("server", "iptables-legacy", "-A", "INPUT", "-j", "DROP")
	brief := open
	brief.Timeout = 0.2
	r.fails("client", bundle.FaultSubject, brief, "denied (no answer)")
	r.output("server", "iptables-legacy", "-F", "INPUT")
	if after := r.state(r.x.endpoints["client"].Namespace); after != before {
		t.Errorf("a flow that did not open left\n%s\nit was\n%s", after, before)
	}
	r.fails("client", bundle.FaultRig, bundle.Flow{Handle: "f", Op: bundle.FlowCheck}, `no flow "f" is open`)
	r.must("server", bundle.Listen{Handle: "l", Port: 5001})
	r.must("client", open)
	r.fails("client", bundle.FaultRig, bundle.Flow{Handle: "f", Op: "bend"}, `unknown operation "bend"`)
	r.fails("client", bundle.FaultRig, bundle.Flow{Handle: "f", Op: bundle.FlowCheck, Want: "maybe"}, `"maybe"`)
	r.must("server", bundle.Stop{Handle: "l"})
	// The other end is gone, which is no silence.
	r.fails("client", bundle.FaultSubject, bundle.Flow{Handle: "f", Op: bundle.FlowCheck, Timeout: heard, Want: bundle.Deny}, "is broken")
}

package callpath

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/trace"
)

// recordedText is what the tracer of a kernel said of netperf and netserver on one CPU, TCP_RR over
// the loopback device, four transactions, unchanged.
func recordedText(t *testing.T, kernel string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "function_graph-"+kernel+".txt.gz"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err := errors.Join(err, z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// clients are the PIDs of netperf in the recorded texts.
func clients() map[string]int {
	return map[string]int{"5.10": 235, "6.1": 224, "6.12": 284, "7.3": 237}
}

// sending begins a transaction.
func sending() []string { return []string{"tcp_sendmsg"} }

func pathOf(t *testing.T, kernel string) trace.Path {
	t.Helper()
	p, err := ReadPath(strings.NewReader(recordedText(t, kernel)), Cut{Client: clients()[kernel], Server: "netserver", At: sending(), Of: roleClient, OtherAt: sending()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// names are the functions below the threads of a role, in order.
func names(p trace.Path, role string) (out []string) {
	var visit func(c *trace.Call)
	visit = func(c *trace.Call) {
		for _, k := range c.Calls {
			out = append(out, k.Name)
			visit(k)
		}
	}
	for _, c := range p.Calls {
		if c.Name == role {
			visit(c)
		}
	}
	return out
}

// inOrder is the first of want that is not in names after those before it, "" if all are.
func inOrder(names, want []string) string {
	for _, w := range want {
		i := slices.Index(names, w)
		if i < 0 {
			return w
		}
		names = names[i+1:]
	}
	return ""
}

// The way of a transaction is the same on every kernel, as far as functions have kept their names
// (net/ipv4/tcp_output.c, net/core/dev.c).
func TestPathOfRecordedTransactions(t *testing.T) {
	way := []string{"__x64_sys_sendto", "tcp_sendmsg", "tcp_write_xmit", "__ip_queue_xmit", "loopback_xmit", "net_rx_action", "process_backlog",
		"ip_rcv", "tcp_v4_rcv", "__x64_sys_recvfrom", "tcp_recvmsg"}
	for kernel := range clients() {
		p := pathOf(t, kernel)
		if p.Units != 4 || p.Same < 1 || p.Paths < 1 || p.Paths > 4 {
			t.Errorf("%s: %d units, %d of them on the path, %d paths; the text has 4", kernel, p.Units, p.Same, p.Paths)
		}
		if missing := inOrder(names(p, roleClient), way); missing != "" {
			t.Errorf("%s: the client has no %s in its place", kernel, missing)
		}
		if missing := inOrder(names(p, roleServer), []string{"tcp_sendmsg", "tcp_write_xmit", "loopback_xmit", "tcp_v4_rcv"}); missing != "" {
			t.Errorf("%s: the server has no %s in its place", kernel, missing)
		}
		// Who wakes the other up depends on whether it has its socket locked.
		if !slices.Contains(append(names(p, roleClient), names(p, roleServer)...), "sock_def_readable") {
			t.Errorf("%s: nothing wakes up who waits for the data", kernel)
		}
		if p.Calls[0].Name != roleClient {
			t.Errorf("%s: the path begins in %q, want the client", kernel, p.Calls[0].Name)
		}
		for _, c := range p.Calls {
			if c.Name != roleClient && c.Name != roleServer {
				t.Errorf("%s: a thread of %q is in the path", kernel, c.Name)
			}
		}
	}
}

// A path without costs must not look like one with them.
func TestPathHasNoCosts(t *testing.T) {
	p := pathOf(t, "6.12")
	if p.Instructions != 0 || p.Least != 0 || p.Most != 0 {
		t.Errorf("the path says %d instructions (%d to %d)", p.Instructions, p.Least, p.Most)
	}
	var visit func(calls []*trace.Call)
	visit = func(calls []*trace.Call) {
		for _, c := range calls {
			if c.Self != 0 || c.Total != 0 {
				t.Fatalf("%s costs %d, %d", c.Name, c.Self, c.Total)
			}
			visit(c.Calls)
		}
	}
	visit(p.Calls)
}

// A path of which only the order is known agrees with itself, and with that of the next kernel but
// for what changed between them.
func TestRecordedPathsAgree(t *testing.T) {
	p := pathOf(t, "6.12")
	if share, d := trace.Agreement(p, p); share != 1 || len(d) != 0 {
		t.Errorf("a path agrees with itself to %v: %v", share, d)
	}
	if share, _ := trace.Agreement(p, pathOf(t, "6.1")); share < 0.7 || share == 1 {
		t.Errorf("6.12 and 6.1 agree to %v, want most and not all", share)
	}
}

const head = `# tracer: function_graph
#
#     TIME        CPU  TASK/PID                      FUNCTION CALLS
#      |          |     |    |                       |   |   |   |
`

// unitText is a transaction of client 7 and server 9.
func unitText(between string) string {
	return `  1.000001 |   1)  netperf-7   | x64_sys_call() {
  1.000002 |   1)  netperf-7   |   __x64_sys_sendto() {
  1.000003 |   1)  netperf-7   |     tcp_sendmsg() {
  1.000004 |   1)  netperf-7   |       nf_hook_slow() {
  1.000005 |   1)  netperf-7   |         nf_conntrack_in [nf_conntrack]();
` + between + `  1.000006 |   1)  netperf-7   |       } /* nf_hook_slow */
  1.000007 |   1)  netperf-7   |     }
  1.000007 |   1)  netperf-7   |   }
  1.000007 |   1)  netperf-7   | }
  1.000008 |   1)  netperf-7   | schedule() {
 ------------------------------------------
   1)  netperf-7   =>  netserv-9 
 ------------------------------------------

  1.000009 |   1)  netserv-9   |   finish_task_switch.isra.0();
  1.000010 |   1)  netserv-9   | }
 ------------------------------------------
   1)  netserv-9   =>  netperf-7 
 ------------------------------------------

  1.000011 |   1)    <idle>-0    | switch_mm_irqs_off();
  1.000012 |   1)  netperf-7   |   finish_task_switch.isra.0();
  1.000013 |   1)  netperf-7   | }
`
}

// drawn is a path, a function a line.
func drawn(calls []*trace.Call, depth int) string {
	var b strings.Builder
	for _, c := range calls {
		goes := ""
		if c.Resumed {
			goes = " goes on"
		}
		b.WriteString(strings.Repeat(" ", depth) + c.Name + goes + "\n" + drawn(c.Calls, depth+1))
	}
	return b.String()
}

// The usual path is that of most transactions: without the timer's interrupt, which moves no
// packet, and without other tasks.
func TestUsualPath(t *testing.T) {
	timer := `   1)   ==========> |
  1.0000051 |   1)  netperf-7   |         irq_enter_rcu();
  1.0000052 |   1)  netperf-7   |         __sysvec_apic_timer_interrupt() {
  1.0000053 |   1)  netperf-7   |           hrtimer_interrupt();
  1.0000054 |   1)  netperf-7   |         }
  1.0000055 |   1)  netperf-7   |         irq_exit_rcu();
   1)   <========== |
`
	more := "  1.0000051 |   1)  netperf-7   |         nf_nat_inet_fn [nf_nat](); /* a remark */\n"
	text := head + unitText("") + unitText(timer) + unitText(more) + unitText("")
	p, err := ReadPath(strings.NewReader(text), Cut{Client: 7, Server: "netserver", At: sending(), Of: roleClient})
	if err != nil {
		t.Fatal(err)
	}
	want := `client
 x64_sys_call
  __x64_sys_sendto
   tcp_sendmsg
    nf_hook_slow
     nf_conntrack_in
 schedule
server
 (lost) goes on
  finish_task_switch
client
 schedule goes on
  finish_task_switch
`
	if got := drawn(p.Calls, 0); got != want {
		t.Errorf("the path is\n%s, want\n%s", got, want)
	}
	if p.Units != 3 || p.Same != 2 || p.Paths != 2 { // the last transaction has no end
		t.Errorf("%d units, %d the same, %d paths", p.Units, p.Same, p.Paths)
	}
	if len(p.Others) != 1 || p.Others[0] != (trace.Variation{Name: "nf_nat_inet_fn", Units: 1, More: 1}) {
		t.Errorf("others: %v", p.Others)
	}
}

// An interrupt that moves packets is a part of the way.
func TestInterruptWithPacketsStays(t *testing.T) {
	card := `  1.0000051 |   1)  netperf-7   |         irq_exit_rcu() {
  1.0000052 |   1)  netperf-7   |           net_rx_action() {
  1.0000053 |   1)  netperf-7   |             virtnet_poll [virtio_net]();
  1.0000054 |   1)  netperf-7   |           }
  1.0000055 |   1)  netperf-7   |         }
`
	text := head + unitText(card) + unitText(card)
	p, err := ReadPath(strings.NewReader(text), Cut{Client: 7, Server: "netserver", At: sending(), Of: roleClient})
	if err != nil {
		t.Fatal(err)
	}
	if missing := inOrder(names(p, roleClient), []string{"nf_conntrack_in", "irq_exit_rcu", "net_rx_action", "virtnet_poll"}); missing != "" {
		t.Errorf("no %s", missing)
	}
}

// Packets that ksoftirqd takes are a part of the way, its other work is not.
func TestSoftirqThread(t *testing.T) {
	thread := `  1.0000051 |   1)  ksoftir-21   | __do_softirq() {
  1.0000052 |   1)  ksoftir-21   |   rcu_core_si();
  1.0000053 |   1)  ksoftir-21   | }
  1.0000054 |   1)  ksoftir-21   | __do_softirq() {
  1.0000055 |   1)  ksoftir-21   |   net_rx_action();
  1.0000056 |   1)  ksoftir-21   | }
`
	text := head + unitText(thread) + unitText(thread)
	p, err := ReadPath(strings.NewReader(text), Cut{Client: 7, Server: "netserver", At: sending(), Of: roleClient})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(p, roleKernel), []string{"__do_softirq", "net_rx_action"}; !slices.Equal(got, want) {
		t.Errorf("ksoftirqd has %v, want %v", got, want)
	}
}

func TestWhatIsNoTraceIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"hello\n":                         "line 1",
		head + "  1.0 | x)  a-1 | f();\n": "CPU",
		head + "  1.0 | 1)  a | f();\n":   "PID",
		head + "  1.0 | 1)  a-1 | f\n":    "function",
		head + unitText(""):               "no whole unit",
		head + "  1.0 | 1)  a-1 | f();\n  1.0 | 1)  a-1 | " + strings.Repeat(" ", 500) + "g();\n": "250 calls deep",
		"# tracer: function_graph\n# nothing\n":                                                   "no whole unit",
	} {
		_, err := ReadPath(strings.NewReader(text), Cut{Client: 7, Server: "netserver", At: sending(), Of: roleClient})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

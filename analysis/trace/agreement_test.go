package trace

import (
	"reflect"
	"strings"
	"testing"
)

// drawn is a path from a text with a function a line, indented by one space for each caller.
func drawn(t *testing.T, text string) Path {
	t.Helper()
	root := &Call{}
	open := []*Call{root}
	for line := range strings.Lines(text) {
		name := strings.TrimSpace(line)
		depth := len(line) - len(strings.TrimLeft(line, " "))
		if name == "" || depth >= len(open) {
			t.Fatalf("the line %q is deeper than the one above it calls", line)
		}
		c := &Call{}
		c.Name, c.Resumed = strings.CutSuffix(name, " goes on")
		open = open[:depth+1]
		open[depth].Calls = append(open[depth].Calls, c)
		open = append(open, c)
	}
	return Path{Calls: root.Calls}
}

func TestAgreement(t *testing.T) {
	const path = `client
 sendto
  tcp_sendmsg
   ip_output
 recvfrom
  schedule
server
 recvfrom
  tcp_recvmsg
 sendto
  tcp_sendmsg
  ip_output
`
	for name, c := range map[string]struct {
		other string
		share float64
		want  []Difference
	}{
		"the same":                     {path, 1, nil},
		"functions that only one sees": {strings.Replace(path, "   ip_output\n", "   inlined\n   ip_output\n", 1), 1, nil},
		"a suffix of the compiler's":   {strings.Replace(path, "schedule", "schedule.isra.0", 1), 1, nil},
		"another depth":                {strings.Replace(path, "   ip_output", "  ip_output", 1), 1, nil},
		"the server elsewhere in its loop": {`client
 sendto
  tcp_sendmsg
   ip_output
 recvfrom
  schedule
server
 sendto
  tcp_sendmsg
  ip_output
 recvfrom
  tcp_recvmsg
`, 1, nil},
		"one call less": {strings.Replace(path, "   ip_output\n", "", 1), 2 * 9 / 19., []Difference{{Role: "client", After: "tcp_sendmsg", A: []string{"ip_output"}}}},
		"one call more": {strings.Replace(path, "  schedule\n", "  ip_output\n  schedule\n", 1), 2 * 10 / 21., []Difference{{Role: "client", After: "recvfrom", B: []string{"ip_output"}}}},
		"another order": {strings.Replace(path, "  tcp_sendmsg\n   ip_output\n recvfrom\n", "  ip_output\n  tcp_sendmsg\n recvfrom\n", 1), 2 * 9 / 20., []Difference{
			{Role: "client", After: "sendto", A: []string{"tcp_sendmsg"}}, {Role: "client", After: "ip_output", B: []string{"tcp_sendmsg"}}}},
	} {
		share, got := Agreement(drawn(t, path), drawn(t, c.other))
		if share != c.share || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v %+v, want %v %+v", name, share, got, c.share, c.want)
		}
	}
}

// A thread that was switched to goes on in functions that began before: a trace that repeats them
// agrees with one that does not.
func TestAgreementOfResumedThreads(t *testing.T) {
	repeated := drawn(t, `client
 sendto
  wake_up
server
 recvfrom goes on
  schedule goes on
   finish_task_switch
 sendto
 recvfrom
  schedule
   pick_next
client
 sendto goes on
  wake_up goes on
   ttwu
 recvfrom
`)
	once := drawn(t, `client
 sendto
  wake_up
   ttwu
 recvfrom
server
 finish_task_switch
 sendto
 recvfrom
  schedule
   pick_next
`)
	if share, d := Agreement(repeated, once); share != 1 || len(d) != 0 {
		t.Errorf("they agree to %v: %+v", share, d)
	}
	if share, d := Agreement(repeated, repeated); share != 1 || len(d) != 0 {
		t.Errorf("a path agrees with itself to %v: %+v", share, d)
	}
}

func TestAgreementOfNothing(t *testing.T) {
	for _, other := range []string{"", "idle\n schedule\n", "client\n other\n"} {
		if share, _ := Agreement(drawn(t, "client\n sendto\n"), drawn(t, other)); share != 0 {
			t.Errorf("%q agrees to %v", other, share)
		}
	}
}

// An order of calls has no number that could be read as a cost.
func TestWriteOrder(t *testing.T) {
	var b strings.Builder
	p := drawn(t, "client\n sendto\n  tcp_sendmsg\nserver\n recvfrom\n")
	p.Units, p.Same, p.Paths = 9, 7, 2
	p.Others = []Variation{{Name: "nf_nat_inet_fn", Units: 2, More: 1.5}}
	err := WriteOrder(&b, Order{Title: "a cell", Unit: UnitTransaction, Facts: []string{"a fact"}, Path: p, Stages: func(stack []string) string {
		if stack[len(stack)-1] == "sendto" {
			return "system call sendto"
		}
		return ""
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# a cell: the order of calls of one transaction\n", "**Order only.**", "- 7 of 9 whole transactions took exactly this path", "- a fact\n",
		"- **client:** system call sendto\n", "```\nclient\n  sendto   # system call sendto\n    tcp_sendmsg\nserver\n  recvfrom\n```\n", "| `nf_nat_inet_fn` | 2 | 1.5 |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	for _, not := range []string{"instructions", "total", "self"} {
		if strings.Contains(b.String(), not) {
			t.Errorf("%q is in an order without costs:\n%s", not, b.String())
		}
	}
}

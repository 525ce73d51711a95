package reduce

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/trace"
)

// sends is a script in which the client sends for each letter: "a" is a usual unit, "b" one with a
// call more, "c" one that costs more on the usual path, "x" a request on the control connection.
func sends(letters string) string {
	var b strings.Builder
	b.WriteString("stack client\nbegin\nnetperf:main 20\n")
	for _, letter := range letters {
		site, more := "netperf:send_tcp_rr+8", ""
		cost := 6
		switch letter {
		case 'b':
			more = "tcp_more 9 call 3f28\ntcp_most 2 ret 3f28\ntcp_more+10 1 ret 3f30\n__x64_sys_sendto+8 1 call 3f30\n"
		case 'c':
			cost = 16
		case 'x':
			site = "netperf:send_request+8"
		}
		fmt.Fprintf(&b, "%s 3 call\nlibc:send 14 syscall\nentry_SYSCALL_64 12 call 3f50\ndo_syscall_64 8 call 3f40\n", site)
		fmt.Fprintf(&b, "__x64_sys_sendto 5 call 3f30\n%stcp_sendmsg %d ret 3f30\n__x64_sys_sendto+10 3 ret 3f40\n", more, cost)
		b.WriteString("do_syscall_64+10 2 ret 3f50\nentry_SYSCALL_64+20 7 sysret\nlibc:send+10 2 ret\n")
	}
	b.WriteString("end\n")
	return b.String()
}

const (
	usual  = 3 + 14 + 12 + 8 + 5 + 6 + 3 + 2 + 7 + 2 // instructions of "a"
	longer = 13
	dearer = 10
)

func result(t *testing.T, cfg Config, script string) *trace.Trace {
	t.Helper()
	r := New(cfg)
	play(t, script, r)
	tr, err := r.Result()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestUnits(t *testing.T) {
	for name, test := range map[string]struct {
		sends        string
		every, units int
		want         float64 // units
		measured     int
	}{
		"all":                            {"xaaaaaaaaaab", 0, 0, 10, 10 * usual},
		"the last three":                 {"xaaaabaaabca", 0, 3, 3, 3*usual + longer + dearer},
		"fewer than wanted":              {"aab", 0, 5, 2, 2 * usual},
		"before the client's known":      {"xxaba", 0, 0, 2, 2*usual + longer},
		"a request in between":           {"aaaaaaaaaaxaa", 0, 0, 11, 12 * usual},
		"one between the first":          {"axaa", 0, 0, 2, 3 * usual},
		"two sends a unit":               {"xaaaaaaaaaaaa", 2, 0, 5, 10 * usual},
		"two sends a unit, the last two": {"xaaaaaaaaaaaba", 2, 2, 2, 4*usual + longer},
		"none":                           {"a", 0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Cut.Every, cfg.Units = test.every, test.units
			tr := result(t, cfg, sends(test.sends))
			if tr.Units != test.want || tr.Window.Measured != uint64(test.measured) {
				t.Errorf("%g units with %d instructions, want %g with %d", tr.Units, tr.Window.Measured, test.want, test.measured)
			}
			sum := uint64(0)
			for _, n := range slices.Concat(tr.Measured.Nodes, tr.Around.Nodes) {
				sum += n.Self
			}
			if sum != tr.Window.Instructions {
				t.Errorf("the trees hold %d instructions, the window %d", sum, tr.Window.Instructions)
			}
		})
	}
}

// forkSecond makes a thread that goes on in user space, on a stack named second.
const forkSecond = `stack client
helper:main+18 4 syscall
entry_SYSCALL_64 12 call 3f50
do_syscall_64 8 call 3f40
copy_process 40 call 3f30
__schedule 30 call 3f20
__switch_to_asm 11 jump
stack second
__switch_to 14 ret 3f48
ret_from_fork_asm 4 jump
swapgs_restore_regs_and_return_to_usermode 9 iret fffffe0000002fd8
`

// second is sends, by the thread of forkSecond.
func second(letters string) string {
	return strings.Replace(strings.TrimSuffix(sends(letters), "end\n"), "stack client\nbegin\n", "stack second\n", 1)
}

// TestWarmUpIsAround: another process of the client, which sends from the same place, is the one that
// is measured.
func TestWarmUpIsAround(t *testing.T) {
	script := strings.TrimSuffix(sends("aaaaaaaaaaaabaa"), "end\n") + forkSecond + second("aacaa") + "end\n"
	for last, want := range map[int]int{0: 4*usual + dearer, 2: 2*usual + dearer} {
		cfg := testConfig()
		cfg.Units = last
		tr := result(t, cfg, script)
		if tr.Window.Measured != uint64(want) || tr.Path.Units != 4 {
			t.Errorf("last %d: %g units with %d instructions, %d compared, want %d instructions and 4 of the second process", last, tr.Units, tr.Window.Measured, tr.Path.Units, want)
		}
	}
}

// TestHelperIsNoClient, however often it makes the same system call.
func TestHelperIsNoClient(t *testing.T) {
	helper := strings.ReplaceAll(strings.TrimSuffix(sends("aaaaaaaaaaaa"), "end\n"), "netperf:main", "helper:main")
	script := strings.ReplaceAll(helper, "netperf:send_tcp_rr+8", "helper:main+8") + forkSecond + second("aaaa") + "end\n"
	if tr := result(t, testConfig(), script); tr.Units != 3 || tr.Window.Measured != 3*usual {
		t.Errorf("%g units with %d instructions, want 3 of the client with %d", tr.Units, tr.Window.Measured, 3*usual)
	}
}

// TestClientsOwnWindow: netperf reads the clock before it connects, then before and after each
// transaction, and when it has closed the connection.
func TestClientsOwnWindow(t *testing.T) {
	const read = "netperf:main+18 3 rdtsc\nclock\n"
	unit := strings.TrimPrefix(strings.TrimSuffix(sends("a"), "end\n"), "stack client\nbegin\nnetperf:main 20\n")
	script := "stack client\nbegin\n" + read + "netperf:main+8 100\n" + read + "netperf:main+8 20\n" +
		strings.Repeat(read+unit+read, 12) + "netperf:main+8 40\n" + read + "netperf:main+8 1000\nend\n"
	got := result(t, testConfig(), strings.Replace(script, "netperf:main+8 1000", "helper:main 5", 1)).Client
	const want = 20 + 12*(3+usual+3) + 40 + 3
	if got.Instructions != want || got.ClockNS != want*8 || got.IdleNS != 0 || got.Units != 12 {
		t.Errorf("the client's window is %+v, want %d instructions and 12 units", got, want)
	}
}

// TestServersOwnWindow: the server reads the clock in a function when the test begins, and in another
// each time that it sums up, of which the last counts. What it reads elsewhere, and what the client
// reads in functions of the same name, does not. Units are all that the client began, also a part.
func TestServersOwnWindow(t *testing.T) {
	cfg := testConfig()
	cfg.Cut.Every, cfg.Cut.From, cfg.Cut.To = 8, "recv_tcp_rr", "main"
	const (
		other                  = "netserver:recv_tcp_rr+20 3 rdtsc\nclock\n"
		from                   = "netserver:main+8 2 call\nnetserver:recv_tcp_rr 5 call\n" + other
		to                     = "netserver:main 7 call\n" + other
		sleeps                 = "libc:recv 14 syscall\nentry_SYSCALL_64 12 call 3f50\ndo_syscall_64 8 call 3f40\n__switch_to_asm 11 jump\n"
		wakes                  = "__switch_to 14 ret 3f40\ndo_syscall_64+10 2 ret 3f50\nentry_SYSCALL_64+20 7 sysret\n"
		switched, read, summed = 14 + 12 + 8 + 11 + 14 + 2 + 7, 3, 7 + 3
	)
	calls := strings.TrimPrefix(strings.TrimSuffix(sends(strings.Repeat("a", 20)), "end\n"), "stack client\nbegin\nnetperf:main 20\n")
	script := "stack server\nbegin\nnetserver:recv_tcp_rr+10 10\n" + other + from + other + sleeps +
		"stack client\n" + wakes + "netperf:main 20\nnetperf:main+8 3 rdtsc\nclock\n" + calls + sleeps +
		"stack server\n" + wakes + to + to + other + "end\n"
	got := result(t, cfg, script).Client
	const want = read + switched + 20 + read + 20*usual + switched + 2*summed
	if got.Instructions != want || got.ClockNS != want*8 || got.Units != 2.5 {
		t.Errorf("the server's window is %+v, want %d instructions and 2.5 units", got, want)
	}
	for _, without := range []string{from, to} {
		if got := result(t, cfg, strings.ReplaceAll(script, without, other)).Client; got != (trace.Span{}) {
			t.Errorf("without %q the server's window is %+v", without, got)
		}
	}
}

// TestPathIsTheMostFrequent: also where it is not the first, and costs do not make another path.
func TestPathIsTheMostFrequent(t *testing.T) {
	p := result(t, testConfig(), sends("bbaacaabcaaa")).Path
	want := []int{11, 8, 2, usual, usual + longer}
	if got := []int{p.Units, p.Same, p.Paths, int(p.Least), int(p.Most)}; !slices.Equal(got, want) {
		t.Errorf("units, same, paths, least and most are %d, want %d", got, want)
	}
	if p.Instructions != usual {
		t.Errorf("the path has %d instructions, want those of its first unit, %d", p.Instructions, usual)
	}
	// What tcp_more calls differs because it does.
	want2 := trace.Variation{Name: "tcp_more", Units: 3, More: 1, Cost: 12}
	if len(p.Others) != 1 || p.Others[0] != want2 {
		t.Errorf("others are %+v, want %+v", p.Others, want2)
	}
}

// TestPathOfEqualOnes: of paths that were taken as often, the one that costs what all do in the mean.
func TestPathOfEqualOnes(t *testing.T) {
	script := strings.Replace(sends("baaaaaaaa"), "tcp_more 9", "tcp_more 400", 1)
	for i := range 7 { // each its own path
		script = strings.Replace(script, "tcp_sendmsg 6 ret 3f30\n__x64_sys_sendto+10 3 ret 3f40", fmt.Sprintf("tcp_%d %d ret 3f30\n__x64_sys_sendto+10 3 ret 3f40", i, 50+i), 1)
	}
	p := result(t, testConfig(), script).Path
	if p.Paths < 8 || p.Same != 1 || p.Instructions == p.Most || p.Instructions == p.Least {
		t.Errorf("%d paths; the one of %d instructions was taken, %d times, between %d and %d", p.Paths, p.Instructions, p.Same, p.Least, p.Most)
	}
}

// TestPathAddsUp: the calls of the path hold all its instructions, and those of the others.
func TestPathAddsUp(t *testing.T) {
	p := result(t, testConfig(), sends("aaaa")).Path
	var self func(calls []*trace.Call) uint64
	self = func(calls []*trace.Call) (sum uint64) {
		for _, c := range calls {
			below := self(c.Calls)
			if c.Total != c.Self+below {
				t.Errorf("%s has %d in all, %d itself and %d below", c.Name, c.Total, c.Self, below)
			}
			sum += c.Total
		}
		return sum
	}
	if got := self(p.Calls); got != p.Instructions {
		t.Errorf("the calls hold %d instructions, the path %d", got, p.Instructions)
	}
}

// TestEqualStreamsGiveEqualTraces, also those of one reducer after another window.
func TestEqualStreamsGiveEqualTraces(t *testing.T) {
	script := sends("xaabaacbaabaaabbc")
	want := show(result(t, testConfig(), script))
	for range 10 {
		if got := show(result(t, testConfig(), script)); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	}
	before := readFile(t, "testdata/switch.script")
	if got := show(result(t, testConfig(), before+"\n"+script)); got != want {
		t.Errorf("after another window got\n%s\nwant\n%s", got, want)
	}
}

func TestInexactAccountIsAnError(t *testing.T) {
	script := strings.Replace(sends("aaaa"), "end\n", "netperf:main 3 rdtsc\nclock 16\nend\n", 1)
	r := New(testConfig())
	play(t, script, r)
	_, err := r.Result()
	const want = "blocks executed 271 instructions, the clock says 273 (2184 ns less 0 ns idle, at 8 ns each), -2; 1 of 2 readings are off"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestStreamWithoutEnd(t *testing.T) {
	r := New(testConfig())
	play(t, strings.TrimSuffix(sends("aaaa"), "end\n"), r)
	if _, err := r.Result(); err == nil || !strings.Contains(err.Error(), "ended before the window") {
		t.Errorf("error %v", err)
	}
}

// TestEnds: a program that runs at both ends is the client where it connects, and the threads that it
// makes for the data are told apart by what they do.
func TestEnds(t *testing.T) {
	script := func(calls ...string) string {
		s := "stack a\nbegin\n"
		for _, c := range calls {
			s += "iperf3:main 14 syscall\nentry_SYSCALL_64 12 call 3f50\n" + c + " 8 ret 3f50\nentry_SYSCALL_64+20 7 sysret\n"
		}
		return s + "iperf3:main+4 1\nend\n"
	}
	for want, calls := range map[string][]string{
		"client": {"tcp_v4_connect", "tcp_recvmsg"},
		"server": {"inet_accept", "tcp_sendmsg"},
		"iperf3": {"tcp_sendmsg"},
	} {
		tr := result(t, testConfig(), script(calls...))
		if got := tr.Around.Nodes[1].Name; got != want {
			t.Errorf("a thread that calls %v is %s, want %s", calls, got, want)
		}
	}
	for want, call := range map[string]string{"client": "tcp_sendmsg", "server": "tcp_recvmsg"} {
		tr := result(t, testConfig(), script(slices.Repeat([]string{call}, 9)...))
		if got := tr.Around.Nodes[1].Name; got != want {
			t.Errorf("a thread that calls %s is %s, want %s", call, got, want)
		}
	}
}

// TestShortBlocks: code that several programs have is of the one that is known to be mapped there, and
// of the thread's own before others.
func TestShortBlocks(t *testing.T) {
	one, two := []byte{0x90, 0xc3, 1, 2, 3, 4, 5, 6, 7, 8}, []byte{0x90, 0xc3, 8, 7, 6, 5, 4, 3, 2, 1}
	m := matcher{votes: map[load]int{}, files: []file{
		{Program: Program{Name: "one"}, main: 0, code: []section{{0x1000, one}}},
		{Program: Program{Name: "two"}, main: 1, code: []section{{0x1000, two}}},
	}}
	const bias = testBias
	if _, found, ok := m.match(bias+0x1000, one[:2], -1); found || ok {
		t.Errorf("found %v, decided %v, want neither: no mapping is known", found, ok)
	}
	if p, _, ok := m.match(bias+0x1000, two, -1); p.file != 1 || !ok {
		t.Errorf("file %d, decided %v, want the only one with this code", p.file, ok)
	}
	if p, _, ok := m.match(bias+0x1000, one[:2], -1); p.file != 1 || !ok {
		t.Errorf("file %d, decided %v, want the one that is mapped there", p.file, ok)
	}
	m.match(bias+0x1000, one, -1)
	if p, _, ok := m.match(bias+0x1000, two[:2], 0); p.file != 0 || !ok {
		t.Errorf("file %d, decided %v, want the thread's own program", p.file, ok)
	}
	if _, _, ok := m.match(bias+0x1000, two[:2], -1); ok {
		t.Error("decided between two programs that are both mapped there")
	}
	if _, found, _ := m.match(bias+0x1004, one[:2], -1); found {
		t.Error("code was found at another place in the page")
	}
}

func TestSymbols(t *testing.T) {
	s := parseSymbols([]byte(`ffffffff81000000 T _stext
ffffffff81000000 T startup_64
ffffffff81000010 t __pfx_ip_rcv
ffffffff81000020 t ip_rcv_alias
ffffffff81000020 T __ip_rcv
ffffffff81000020 T ip_rcv
ffffffff81000040 D some_data
ffffffff81000050 t local_b
ffffffff81000050 t local_a
ffffffffc0201000 t ipt_do_table	[ip_tables]
ffffffffc0300000 t bpf_prog_6deef7357e7b4530_hb_tc_ingress	[bpf]
ffffffffc0300100 t bpf_prog_6deef7357e7b4530	[bpf]
ffffffffc0300200 t bpf_trampoline_6442450944	[bpf]
0000000000001000 A fixed
`))
	for pc, want := range map[uint64]string{
		0xffffffff81000000: "startup_64", 0xffffffff8100001f: "startup_64", 0xffffffff81000020: "ip_rcv", 0xffffffff81000044: "ip_rcv",
		0xffffffff81000051: "local_a", 0xffffffffc0201004: "ipt_do_table", 0xffffffffc0300008: "bpf:hb_tc_ingress",
		0xffffffffc0300100: "bpf:6deef7357e7b4530", 0xffffffffc0300204: "bpf:[trampoline]", 0xffffffff90000000: "", 0xffffffff80000000: "",
	} {
		got := ""
		if i := s.at(pc); i >= 0 {
			got = s[i].name
		}
		if got != want {
			t.Errorf("%x is %q, want %q", pc, got, want)
		}
	}
}

func TestProgramsThatCannotBeRead(t *testing.T) {
	for want, list := range map[string][]Program{
		"read program x": {{Name: "x", File: strings.NewReader("no ELF")}},
		"program lib is part of app, which is not listed": {{Name: "lib", Of: "app", File: testELF(1, "f")}},
	} {
		if _, err := New(Config{Programs: list}).Result(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// TestOneFileAtTwoPaths: a loader that lies at two paths is one file, else no code would be its own.
func TestOneFileAtTwoPaths(t *testing.T) {
	files, err := readPrograms([]Program{{Name: "ld.so", File: testELF(1, "f"), Shared: true}, {Name: "app", File: testELF(2, "g")}, {Name: "ld.so", File: testELF(1, "f"), Shared: true}})
	if err != nil || len(files) != 2 {
		t.Errorf("%d files, error %v, want 2: the loader once", len(files), err)
	}
}

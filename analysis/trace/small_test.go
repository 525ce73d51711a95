package trace

// smallTrace is a trace that fits on a page: with recursion, interrupts, names that need quoting,
// and a kernel thread.
func smallTrace() Trace {
	leaf := func(name string, self uint64, inner ...*Call) *Call {
		c := &Call{Name: name, Self: self, Total: self, Calls: inner}
		for _, k := range inner {
			c.Total += k.Total
		}
		return c
	}
	on := func(name string, self uint64, inner ...*Call) *Call {
		c := leaf(name, self, inner...)
		c.Resumed = true
		return c
	}
	t := Trace{Cell: "c0ffee", Seed: 7, Unit: UnitTransaction, Units: 2,
		Factors: map[string]string{"arm": "a|b <i>", "policies": "10", "scenario": "localhost", "workload": "TCP_RR"}}
	t.Measured.Nodes = []Node{
		{Parent: -1}, {0, "client", 10, 0}, {1, "netperf:send", 100, 2}, {1, "entry_SYSCALL_64", 20, 2}, {3, "tcp_sendmsg", 300, 2}, {4, "ip_rcv", 40, 2},
		{5, "nf_hook_slow", 16, 2}, {6, "ipt_do_table", 500, 2}, {4, "again", 8, 2}, {8, "again", 4, 2}, {4, "_raw_spin_lock", 6, 4},
		{0, "server", 4, 0}, {11, "tcp_recvmsg", 150, 2}, {12, "memcpy", 64, 2}, {12, "asm_sysvec_apic_timer_interrupt", 30, 1},
		{0, "kernel", 2, 0}, {15, "kthread", 12, 1}, {1, "operator;<\"&'>", 3, 1},
	}
	t.Around.Nodes = []Node{{Parent: -1, Self: 1}, {0, "client", 50, 0}, {1, "netperf:main", 949, 1}}
	t.Window = Window{ClockNS: 18_452, IdleNS: 300, NSPerInstruction: 8, Measured: 1269, Instructions: 2269, Clocks: 12, Blocks: 99, Faults: 1, Misrooted: 14, Unnamed: 3,
		Roots: []Root{{RoleKernel, "kthread", 12}, {RoleServer, "do_wait", 2}}}
	t.Path = Path{Units: 3, Same: 2, Paths: 2, Least: 600, Most: 640, Others: []Variation{{"asm_sysvec_apic_timer_interrupt", 1, 1, 30}},
		Calls: []*Call{
			leaf("client", 5, leaf("netperf:send", 50), leaf("entry_SYSCALL_64", 10, leaf("__x64_sys_sendto", 0, leaf("tcp_sendmsg", 150,
				leaf("ip_rcv", 20, leaf("nf_hook_slow", 8, leaf("ipt_do_table", 250))), leaf("again", 4, leaf("again", 2)), leaf("_raw_spin_lock", 3))))),
			leaf("server", 2, on("tcp_recvmsg", 75, leaf("memcpy", 8), leaf("memcpy", 8), leaf("memcpy", 8), leaf("memcpy", 8))),
		}}
	t.Client = Span{ClockNS: 16_300, IdleNS: 300, Instructions: 2000, Units: 3}
	for _, c := range t.Path.Calls {
		t.Path.Instructions += c.Total
	}
	return t
}

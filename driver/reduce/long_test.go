package reduce

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hookbed/driver/watch"
)

// event is a call of Ran.
type event struct {
	b     *watch.Block
	n     int
	stack []watch.StackAccess
}

// recorder passes on what defines blocks, and keeps what is executed.
type recorder struct {
	watch.Handler
	ran []event
}

func (r *recorder) Ran(b *watch.Block, n int, stack []watch.StackAccess) {
	r.ran = append(r.ran, event{b, n, slices.Clone(stack)})
}

func (r *recorder) Mark(watch.MarkID, int64, int64, uint64) {}

// parts of the long stream's units: a beginning of 6 blocks, chains of calls of 8 blocks each, and an
// end of 4 blocks.
const (
	longBegin, longChain, longEnd = 6, 8, 4
	longChains                    = 400 // different ones
	longUnit                      = 1000
)

func longScript() string {
	var b strings.Builder
	b.WriteString("stack client\nbegin\nnetperf:main 20\nnetperf:send_tcp_rr+8 3 call\nlibc:send 14 syscall\nentry_SYSCALL_64 12 call 3f50\n")
	b.WriteString("do_syscall_64 8 call 3f40\n__x64_sys_sendto 5\n")
	for i := range longChains {
		for depth := range 4 {
			fmt.Fprintf(&b, "f%d_%d %d call %x\n", depth, i, 4+depth, 0x3f30-16*depth)
		}
		for depth := range 4 {
			fmt.Fprintf(&b, "f%d_%d+10 %d ret %x\n", 3-depth, i, 5-depth, 0x3f30-16*(3-depth))
		}
	}
	b.WriteString("__x64_sys_sendto+10 3 ret 3f40\ndo_syscall_64+10 2 ret 3f50\nentry_SYSCALL_64+20 7 sysret\nlibc:send+10 2 ret\n")
	return b.String()
}

// playLong plays units of random chains, until so many blocks have run: each unit takes another path,
// which is the worst for memory.
func playLong(t *testing.T, r *Reducer, blocks int) {
	rec := &recorder{Handler: r}
	play(t, longScript(), rec)
	random := rand.New(rand.NewPCG(1, 2))
	r.Mark(watch.MarkBegin, 0, 0, 0)
	ran, executed := 0, 0
	run := func(list []event) {
		for _, e := range list {
			r.Ran(e.b, e.n, e.stack)
			executed += e.n
		}
		ran += len(list)
	}
	for ran < blocks {
		run(rec.ran[:longBegin])
		for range longUnit {
			at := longBegin + longChain*random.IntN(longChains)
			run(rec.ran[at : at+longChain])
		}
		run(rec.ran[len(rec.ran)-longEnd:])
	}
	r.Mark(watch.MarkEnd, 0, 0, uint64(executed)*8)
}

// TestLongStreamIsBounded: memory does not grow with the stream, however different its units are. A
// measured second has some 25 million blocks.
func TestLongStreamIsBounded(t *testing.T) {
	const blocks, most = 25_000_000, 500 << 20
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := New(testConfig())
	playLong(t, r, blocks)
	runtime.ReadMemStats(&after)
	if got := after.HeapSys - before.HeapSys; after.HeapSys > before.HeapSys && got > most {
		t.Errorf("%d MiB of memory, want at most %d", got>>20, most>>20)
	}
	tr, err := r.Result()
	if err != nil {
		t.Fatal(err)
	}
	if tr.Path.Units != int(tr.Units) || tr.Path.Paths != tr.Path.Units || len(tr.Path.Calls) == 0 {
		t.Errorf("%g units, of which %d were compared, %d paths, want all of them and each its own", tr.Units, tr.Path.Units, tr.Path.Paths)
	}
	t.Logf("%d MiB for %d blocks, %d instructions, %g units", (after.HeapSys-before.HeapSys)>>20, tr.Window.Blocks, tr.Window.Instructions, tr.Units)
}

// BenchmarkRan is the time of one block.
func BenchmarkRan(b *testing.B) {
	r := New(testConfig())
	rec := &recorder{Handler: r}
	b.StopTimer()
	play(&testing.T{}, longScript(), rec)
	r.Mark(watch.MarkBegin, 0, 0, 0)
	b.StartTimer()
	for i := 0; i < b.N; {
		for _, e := range rec.ran {
			r.Ran(e.b, e.n, e.stack)
		}
		i += len(rec.ran)
	}
}

// TestAnyStreamAddsUp: whatever the order of blocks and stack accesses, each instruction is counted
// once.
func TestAnyStreamAddsUp(t *testing.T) {
	text := "stack a\nbegin\n"
	for _, kernel := range []string{"entry_SYSCALL_64", "do_syscall_64", "__x64_sys_sendto", "asm_sysvec_apic_timer_interrupt", "asm_exc_page_fault", "error_entry",
		"native_irq_return_iret", "__switch_to_asm", "__switch_to", "ret_from_fork_asm", "do_idle", "copy_process", "begin_new_exec", "bpf:a", "bpf:b", "irq_entries_start"} {
		for _, kind := range []string{"call", "ret", "iret", "jump", "branch", "halt"} {
			text += fmt.Sprintf("%s 4 %s 3f50\n%s+10 60 %s 3f40\n", kernel, kind, kernel, kind)
		}
	}
	for _, user := range []string{"netperf:send_tcp_rr", "netserver:main", "libc:send", "helper:main"} {
		text += fmt.Sprintf("%s 4 call\n%s+10 3 syscall\n%s+18 2 ret\n", user, user, user)
	}
	for seed := range uint64(20) {
		r := New(testConfig())
		rec := &recorder{Handler: r}
		play(t, text, rec)
		random := rand.New(rand.NewPCG(seed, 0))
		r.Mark(watch.MarkBegin, 0, 0, 0)
		executed := 0
		for range 20_000 {
			e := rec.ran[random.IntN(len(rec.ran))]
			n := len(e.b.Size) - random.IntN(2)*random.IntN(2)
			for i := range e.stack {
				e.stack[i].Address = 0xffffc90000000000 + uint64(random.IntN(3))<<stackBits + uint64(random.IntN(16))*8
			}
			r.Ran(e.b, n, e.stack)
			executed += n
		}
		r.Mark(watch.MarkEnd, 0, 0, uint64(executed)*8)
		if _, err := r.Result(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

package ftrace

import (
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
)

// inMachine is in the environment of tests in a virtual machine of a test: its kernels have what
// the tests need. Elsewhere a kernel may lack it, and must then be said to.
const inMachine = "HOOKBED_TEST_MACHINE"

// snapshot is what every file of tracefs reads that a recording may touch, and the instances that
// are there. ok is false where there is no tracefs.
func snapshot(t *testing.T) (files map[string]string, ok bool) {
	t.Helper()
	tr, err := openTree()
	if err != nil {
		if fault.Of(err) != bundle.FaultUnsupported || os.Getenv(inMachine) != "" {
			t.Fatal(err)
		}
		return nil, false
	}
	defer tr.Close()
	names := []string{"current_tracer", "tracing_on", "buffer_size_kb", "trace_clock", "trace_options", "set_event", "set_ftrace_pid", "set_ftrace_filter",
		"set_ftrace_notrace", "set_graph_function", "set_graph_notrace", "max_graph_depth", "tracing_thresh", "events/skb/kfree_skb/enable", "events/skb/kfree_skb/filter"}
	options, _ := filepath.Glob(filepath.Join(tr.root, "options", "*"))
	for _, o := range options {
		names = append(names, filepath.Join("options", filepath.Base(o)))
	}
	files = tr.contents(names...)
	made, _ := filepath.Glob(filepath.Join(tr.root, instances, "*"))
	files[instances] = strings.Join(made, " ")
	files["buffer_size_kb"] = pages(t, files["buffer_size_kb"])
	return files, true
}

// pages are those of a buffer, each with 4080 bytes of entries (BUF_PAGE_SIZE in
// kernel/trace/ring_buffer.c): the kernel rounds a size that is written up to them, and says what it
// then has. And it does not take back that a buffer was expanded by its first use.
func pages(t *testing.T, size string) string {
	t.Helper()
	var kib int
	if _, err := fmt.Sscan(parseHeld(size), &kib); err != nil {
		t.Fatalf("buffer_size_kb is %q: %v", size, err)
	}
	return fmt.Sprintf("%d pages", (kib<<10+4079)/4080)
}

// wantAsBefore compares tracefs with what it was.
func wantAsBefore(t *testing.T, before map[string]string) {
	t.Helper()
	after, _ := snapshot(t)
	for _, name := range slices.Sorted(maps.Keys(before)) {
		// An option of a tracer is listed only while the tracer is chosen.
		if name != instances && after[name] != before[name] {
			t.Errorf("%s of tracefs was %q and is %q", name, before[name], after[name])
		}
	}
	if strings.Contains(after[instances], fmt.Sprintf("-%d", os.Getpid())) {
		t.Errorf("an instance is left: %s", after[instances])
	}
}

// talk sends a byte through a connection of this process.
func talk(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		done <- err
	}()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// addThreads has a recording observe every thread of this process: tracefs takes threads.
func addThreads(t *testing.T, r *CallRecording) {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range threads {
		var tid int
		if _, err := fmt.Sscan(e.Name(), &tid); err != nil {
			t.Fatal(err)
		}
		if err := r.Add(tid); err != nil {
			t.Fatal(err)
		}
	}
}

// recordCalls begins a recording, or checks that this computer's kernel is said to lack what it
// needs.
func recordCalls(t *testing.T) (*CallRecording, bool) {
	t.Helper()
	r, err := RecordCalls(Calls{BufferKiB: 4096})
	if err != nil {
		if fault.Of(err) != bundle.FaultUnsupported || os.Getenv(inMachine) != "" {
			t.Fatal(err)
		}
		return nil, false
	}
	return r, true
}

// otherSettings are what another user of a machine's tracer may have set. A computer that is not a
// test's own is left alone.
func otherSettings() []setting {
	if os.Getenv(inMachine) == "" {
		return nil
	}
	return []setting{{"max_graph_depth", "50"}, {"set_graph_function", "tcp_close"}, {"set_graph_notrace", "vfs_read"}, {"options/funcgraph-cpu", "0"},
		{"options/funcgraph-proc", "0"}, {"options/funcgraph-duration", "1"}, {"trace_clock", "mono"}, {"tracing_on", "0"}, {"buffer_size_kb", "64"}}
}

// A recording has what the process did, and leaves what others have set as it was. One test for
// both: to begin and end the function graph takes an emulated machine most of a minute.
func TestRecordCalls(t *testing.T) {
	before, ok := snapshot(t)
	if !ok {
		return
	}
	tr, err := openTree()
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	others := settings{t: tr}
	for _, s := range otherSettings() {
		if err := others.setIfThere(s.file, s.value); err != nil {
			t.Fatal(err)
		}
	}
	theirs, _ := snapshot(t)
	if r, able := recordCalls(t); able {
		addThreads(t, r)
		talk(t)
		got, err := r.End()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"# tracer: function_graph", "tcp_sendmsg() {", "tcp_v4_rcv() {"} {
			if !strings.Contains(got.Text, want) {
				t.Errorf("no %q among %d bytes that begin %.300q", want, len(got.Text), got.Text)
			}
		}
		if again, err := r.End(); err != nil || again.Text != "" {
			t.Errorf("a second end: %v, %d bytes", err, len(again.Text))
		}
	}
	wantAsBefore(t, theirs)
	if err := others.restore(); err != nil {
		t.Fatal(err)
	}
	wantAsBefore(t, before)
}

// Where instances have no function graph, a tracer that is in use is left alone.
func TestRecordCallsRefusesATracerInUse(t *testing.T) {
	r, able := recordCalls(t)
	if !able {
		return
	}
	if _, err := r.End(); err != nil {
		t.Fatal(err)
	}
	if r.Instance() || os.Getenv(inMachine) == "" {
		return // no one is disturbed, or could be
	}
	tr, err := openTree()
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	others := settings{t: tr}
	if err := others.set("events/skb/kfree_skb/enable", "1"); err != nil {
		t.Fatal(err)
	}
	theirs, _ := snapshot(t)
	if _, err := RecordCalls(Calls{BufferKiB: 4096}); err == nil || fault.Of(err) != bundle.FaultUnsupported || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the tracer of others: %v", err)
	}
	wantAsBefore(t, theirs)
	if err := others.restore(); err != nil {
		t.Fatal(err)
	}
}

// A datagram to a port without a socket is dropped.
func TestRecordDrops(t *testing.T) {
	before, ok := snapshot(t)
	if !ok {
		return
	}
	r, err := RecordDrops(false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp4", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("no socket")) // the answer is an error of a later write
	c.Close()
	got, err := r.End()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got.Text, ": kfree_skb: ") || !strings.Contains(got.Text, "__udp4_lib_rcv") && !strings.Contains(got.Text, "udp_rcv") {
		t.Errorf("the datagram is not among what was dropped: %.2000s", got.Text)
	}
	wantAsBefore(t, before)
}

func TestCountInstructions(t *testing.T) {
	n := CountInstructions()
	if err := n.Add(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	talk(t)
	got, err := n.End()
	if err != nil {
		t.Fatal(err)
	}
	v, counted := got.Values[bundle.ValueKernelInstructions]
	if counted != (n.Why == "") || counted && v == 0 {
		t.Errorf("%v instructions, why not: %q", v, n.Why)
	}
}

// A counter that every kernel with perf events has shows that counts add up and end.
func TestCountOfAnEvent(t *testing.T) {
	n := count(event{unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_CONTEXT_SWITCHES})
	if n.Why != "" {
		if os.Getenv(inMachine) != "" {
			t.Fatal(n.Why)
		}
		return
	}
	for range 2 {
		if err := n.Add(unix.Gettid()); err != nil {
			t.Fatal(err)
		}
	}
	got, err := n.End()
	if _, counted := got.Values[bundle.ValueKernelInstructions]; err != nil || !counted {
		t.Errorf("%v, %v", got, err)
	}
	if again, err := n.End(); err != nil || len(again.Values) != 0 {
		t.Errorf("a second end: %v, %v", again, err)
	}
	if err := n.Add(1 << 22); err == nil {
		t.Error("a process that cannot be is counted")
	}
}

// What a counted process starts is counted, too: the difference of two runs is that of their work. The
// event is one that needs no counter of the CPU.
func TestCountFollowsWhatIsStarted(t *testing.T) {
	counted := func(programs int) float64 {
		n := count(event{unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_CONTEXT_SWITCHES})
		if n.Why != "" {
			if os.Getenv(inMachine) != "" {
				t.Fatal(n.Why)
			}
			return float64(programs * waits)
		}
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestCountFollowsWhatIsStarted$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", startsPrograms, programs))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := n.Add(cmd.Process.Pid); err != nil {
			t.Error(err)
		}
		in.Close() // it begins
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		got, err := n.End()
		if err != nil {
			t.Fatal(err)
		}
		return got.Values[bundle.ValueKernelInstructions]
	}
	if programs, ok := os.LookupEnv(startsPrograms); ok {
		startWaiters(t, programs)
		return
	}
	const few, many = 2, 12
	a, b := counted(few), counted(many)
	t.Logf("%d programs: %g context switches; %d: %g", few, a, many, b)
	if b-a < (many-few)*waits/2 {
		t.Errorf("%d programs were counted as %g, %d as %g", few, a, many, b)
	}
}

// startsPrograms is in the environment of a process that starts so many others, one after the other,
// as soon as its input ends; or, for 0, that gives its CPU up so many times.
const (
	startsPrograms = "HOOKBED_TEST_STARTS"
	waits          = 20
)

func startWaiters(t *testing.T, programs string) {
	t.Helper()
	if programs == "0" {
		for range waits {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
		}
		return
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	n, err := strconv.Atoi(programs)
	for ; err == nil && n > 0; n-- {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestCountFollowsWhatIsStarted$")
		cmd.Env = append(os.Environ(), startsPrograms+"=0")
		err = cmd.Run()
	}
	if err != nil {
		t.Fatal(err)
	}
}

package ftrace

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
)

// topLevelFiles are what a tracefs reads whose instances have no function graph, as another user of
// the machine may have left it.
func topLevelFiles() map[string]string {
	return map[string]string{
		"available_tracers": "blk function_graph function nop", "current_tracer": "nop", "tracing_on": "1", "trace": "",
		"buffer_size_kb": "7 (expanded: 1408)", "set_ftrace_pid": "no pid", "set_event": "", "trace_clock": "local global [mono]",
		"set_ftrace_filter": "#### all functions enabled ####", "set_ftrace_notrace": "#### no functions disabled ####",
		"set_graph_function": "tcp_close", "set_graph_notrace": "#### no functions disabled ####", "max_graph_depth": "50", "tracing_thresh": "0",
	}
}

// topLevelTree is a directory that looks like such a tracefs. It is no kernel: what is written is
// read again, so that it shows what a recording leaves.
func topLevelTree(t *testing.T, files map[string]string) *tree {
	t.Helper()
	tr := fakeTree(t, files)
	for _, dir := range []string{instances, "per_cpu/cpu0", "per_cpu/cpu1", "options"} {
		if err := os.MkdirAll(filepath.Join(tr.root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{"per_cpu/cpu0/stats": "entries: 0\noverrun: 3\n", "per_cpu/cpu1/stats": "entries: 0\noverrun: 4\n",
		"options/function-fork": "0\n", "options/funcgraph-proc": "0\n", "options/funcgraph-duration": "1\n"} {
		if err := os.WriteFile(filepath.Join(tr.root, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mount, err := os.Open(tr.root)
	if err != nil {
		t.Fatal(err)
	}
	tr.mount = mount
	return tr
}

// held is what every file of a tree holds, as it would be written.
func held(t *testing.T, tr *tree) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(tr.root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() && filepath.Dir(path) != filepath.Join(tr.root, instances) {
			return err
		}
		name, _ := filepath.Rel(tr.root, path)
		text, _ := tr.read(name) // an instance is a directory
		out[name] = parseHeld(text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// expectHeld says which files of a tree hold something else than before.
func expectHeld(t *testing.T, tr *tree, before map[string]string) {
	t.Helper()
	after := held(t, tr)
	if maps.Equal(before, after) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if was, there := before[name]; !there || was != after[name] {
			t.Errorf("%s is %q, and was %q", name, after[name], was)
		}
	}
	if len(before) > len(after) {
		t.Errorf("%d files are gone", len(before)-len(after))
	}
}

// TestTopLevelBuffer: where instances have no function graph the machine's own buffer is used. Every
// file is as it was when the recording has ended, and when its process was wrong.
func TestTopLevelBuffer(t *testing.T) {
	tr := topLevelTree(t, topLevelFiles())
	before := held(t, tr)
	r, err := recordCallsIn(tr, Calls{BufferKiB: 4096, Idle: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.Instance() {
		t.Error("it says that it has an instance")
	}
	for _, pid := range []int{71, 72} {
		if err := r.Add(pid); err != nil {
			t.Fatal(err)
		}
	}
	now := held(t, tr)
	for file, want := range map[string]string{"current_tracer": functionGraph, "tracing_on": "1", "buffer_size_kb": "4096", "set_graph_function": "", "max_graph_depth": "0",
		"options/function-fork": "1", "options/funcgraph-proc": "1", "options/funcgraph-duration": "0", "trace_clock": "mono"} {
		if now[file] != want {
			t.Errorf("%s is %q while it records, want %q", file, now[file], want)
		}
	}
	if pids := strings.Fields(now["set_ftrace_pid"]); !slices.Contains(pids, "0") || !slices.Contains(pids, "71") || !slices.Contains(pids, "72") {
		t.Errorf("it records %v, want 71, 72 and the idle tasks", pids)
	}
	if err := tr.write("trace", "what was recorded"); err != nil {
		t.Fatal(err)
	}
	root := tr.root
	got, err := r.End()
	if err != nil || strings.TrimSpace(got.Text) != "what was recorded" || got.Values[bundle.ValueLost] != 7 {
		t.Errorf("it recorded %+v, %v", got, err)
	}
	expectHeld(t, &tree{root: root}, before)
}

// TestTopLevelBufferInUse: what another user has set there is not touched.
func TestTopLevelBufferInUse(t *testing.T) {
	for file, value := range map[string]string{"current_tracer": "function", "set_event": "skb:kfree_skb", "set_ftrace_filter": "vfs_read", "available_tracers": "function nop"} {
		files := topLevelFiles()
		files[file] = value
		tr := topLevelTree(t, files)
		before := held(t, tr)
		_, err := recordCallsIn(tr, Calls{BufferKiB: 4096})
		if err == nil || fault.Of(err) != bundle.FaultUnsupported {
			t.Errorf("%s = %q: %v, want that it is not supported", file, value, err)
		}
		expectHeld(t, &tree{root: tr.root}, before)
	}
}

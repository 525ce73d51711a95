package ftrace

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestParseHeld(t *testing.T) {
	for text, want := range map[string]string{
		"nop":                                "nop",
		"0":                                  "0",
		"no pid":                             "",
		"#### all functions enabled ####":    "",
		"#### no functions disabled ####":    "",
		"7 (expanded: 1408)":                 "1408",
		"1408":                               "1408",
		"[local] global counter uptime perf": "local",
		"local global [mono] boot":           "mono",
		"tcp_sendmsg\nip_rcv":                "tcp_sendmsg\nip_rcv",
	} {
		if got := parseHeld(text); got != want {
			t.Errorf("%q is written as %q, want %q", text, got, want)
		}
	}
}

// fakeTree is a directory with files as tracefs has them.
func fakeTree(t *testing.T, files map[string]string) *tree {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &tree{root: dir, journals: t.TempDir()}
}

// contents are the files of a directory, as they are read.
func (t *tree) contents(names ...string) map[string]string {
	out := map[string]string{}
	for _, n := range names {
		out[n], _ = t.read(n)
	}
	return out
}

func TestSettingsAreRestoredInReverse(t *testing.T) {
	before := map[string]string{"current_tracer": "nop", "max_graph_depth": "3", "set_graph_function": "ip_rcv\ntcp_sendmsg", "tracing_on": "1"}
	tr := fakeTree(t, before)
	s := settings{t: tr}
	for _, set := range []setting{{"tracing_on", "0"}, {"max_graph_depth", "0"}, {"set_graph_function", ""}, {"current_tracer", "function_graph"}, {"tracing_on", "1"}} {
		if err := s.set(set.file, set.value); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"current_tracer": "function_graph", "max_graph_depth": "0", "set_graph_function": "", "tracing_on": "1"}
	if got := tr.contents("current_tracer", "max_graph_depth", "set_graph_function", "tracing_on"); !maps.Equal(got, want) {
		t.Errorf("set to %v, want %v", got, want)
	}
	for range 2 { // the second does nothing
		if err := s.restore(); err != nil {
			t.Fatal(err)
		}
		if got := tr.contents("current_tracer", "max_graph_depth", "set_graph_function", "tracing_on"); !maps.Equal(got, before) {
			t.Errorf("restored to %v, want %v", got, before)
		}
	}
}

// What already holds the value is not written, so that it needs no restoring.
func TestSettingsLeaveWhatFits(t *testing.T) {
	tr := fakeTree(t, map[string]string{"set_ftrace_pid": "no pid", "buffer_size_kb": "7 (expanded: 1408)"})
	s := settings{t: tr}
	for _, set := range []setting{{"set_ftrace_pid", ""}, {"buffer_size_kb", "1408"}} {
		if err := s.set(set.file, set.value); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.found) != 0 {
		t.Errorf("it wrote %v", s.found)
	}
	if err := s.setIfThere("options/funcgraph-args", "0"); err != nil {
		t.Errorf("a file that this kernel has not: %v", err)
	}
	if err := s.set("absent", "0"); err == nil {
		t.Error("a file that every kernel has is missing, and nothing is said")
	}
}

package step

import (
	"strings"
	"testing"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/guest/guesttest"
	"hookbed/images"
)

// httpRig is a rig with the root of HTTP programs, which is built if the cache lacks it.
func httpRig(t *testing.T) *rig {
	t.Helper()
	store, err := images.Open("", images.Options{Log: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	set, err := store.Ensure(t.Context(), images.Want{HTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.x.http.root = set.HTTPDir
	return r
}

// TestHTTPPrograms: server and client run in their namespaces from a root of their own, the
// tries get what they want or say what they got, and nothing is left.
func TestHTTPPrograms(t *testing.T) {
	r := httpRig(t)
	r.pair()
	start, files := bundle.HTTPServer("http", "198.18.1.3", 5001)
	for name, f := range files {
		r.file(name, string(f.Data))
	}
	r.must("server", start)
	try := func(want string, parts ...string) bundle.Requests {
		return bundle.Requests{To: "198.18.1.3", Port: 5001, Timeout: .2, Tries: []bundle.RequestTry{{What: "a try", Parts: parts, Requests: len(parts), Want: want}}}
	}
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	got := r.must("client", try("200 200", get, get)).Values
	if got["allowed"] != 1 || got["denied"] != 0 {
		t.Errorf("values %v, want one allowed", got)
	}
	if got = r.must("client", try("400 closed", "no request\r\n\r\n", get)).Values; got["denied"] != 1 {
		t.Errorf("values %v, want one denied", got)
	}
	r.must("client", try(bundle.RequestSilent, "GET / HTTP/1.1\r\n"))
	r.fails("client", bundle.FaultSubject, try("403", get), "a try: got 200, want 403")
	r.must("client", bundle.Exec{HTTP: true, Timeout: 60, Out: "o.txt", Argv: []string{"h2load", "--h1", "-t", "1", "-c", "1", "-n", "5", "--log-file=/proc/self/fd/1", "http://198.18.1.3:5001/"}})
	if out := r.raw["o.txt"]; strings.Count(out, "\t200\t") != 5 || !strings.Contains(out, "5 succeeded") {
		t.Errorf("h2load printed %q, want 5 lines of a log and a summary", out)
	}
	if len(guesttest.Processes(t, start.Argv...)) == 0 {
		t.Error("the server is not among the processes")
	}
	r.undo(0)
	if left := guesttest.Processes(t, start.Argv...); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// TestRequestsInCgroup: what a process in the client's cgroup sends is judged, and what the
// helper itself sends is not; without a cgroup none is made.
func TestRequestsInCgroup(t *testing.T) {
	r := httpRig(t)
	r.pair()
	start, files := bundle.HTTPServer("http", "198.18.1.3", 5001)
	for name, f := range files {
		r.file(name, string(f.Data))
	}
	r.must("server", start)
	try := func(inside bool, path, want string) bundle.Requests {
		return bundle.Requests{To: "198.18.1.3", Port: 5001, Timeout: .2, InCgroup: inside, Tries: []bundle.RequestTry{{
			What: "a try", Parts: []string{"GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n"}, Requests: 1, Want: want,
		}}}
	}
	r.fails("client", bundle.FaultRig, try(true, "/", "200"), "the endpoint has no cgroup")
	line, err := bpf.RequestLine("GET /public/")
	if err != nil {
		t.Fatal(err)
	}
	r.file("message.bpf.o", string(bpf.MessageObject()))
	r.file("requests", line)
	r.must("client", bundle.Cgroup{})
	r.must("", bundle.LoadBPF{
		Handle: "m", Object: "message.bpf.o", Programs: []string{bpf.ProgMessageConnected, bpf.ProgMessageSent}, Tables: []string{bpf.MapRequests},
		Vars: map[string]string{bpf.VarRequestPort: "8913", bpf.VarRequestEnforce: "01"},
	}, bundle.FillMap{Handle: "m", Map: bpf.MapRequests, File: "requests"})
	r.must("client",
		bundle.AttachBPF{Handle: "m", Program: bpf.ProgMessageSent, Hook: bundle.HookMessage, Map: bpf.MapSockets},
		bundle.AttachBPF{Handle: "m", Program: bpf.ProgMessageConnected, Hook: bundle.HookSockOps})
	r.must("client", try(true, "/public/x", "200"))
	r.must("client", try(true, "/secret", bundle.RequestUnsent))
	r.fails("client", bundle.FaultSubject, try(true, "/secret", "200"), "a try: got unsent, want 200")
	r.must("client", try(false, "/secret", "200"))
	r.undo(0)
}

// TestHTTPNeedsItsRoot: a session without the root refuses its programs, and files are for
// them only.
func TestHTTPNeedsItsRoot(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "server"})
	r.fails("server", bundle.FaultRig, bundle.Exec{HTTP: true, Argv: []string{"h2load"}, Timeout: 9}, "named no root file system of HTTP programs")
	r.file("a", "a")
	r.fails("server", bundle.FaultRig, bundle.Start{Handle: "a", Argv: []string{"sleep", "9"}, Files: []string{"a"}}, "files are for programs of HTTP only")
}

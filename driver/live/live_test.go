package live_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"hookbed/driver/live"
)

// served is a server whose report says how often it was made, and its address.
func served(t *testing.T, render func() ([]byte, error)) (*live.Server, string, *faults) {
	t.Helper()
	l, err := live.Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	f := &faults{}
	return live.Serve(l, false, render, f.add), "http://" + l.Addr().String() + "/", f
}

type faults struct {
	mu  sync.Mutex
	all []error
}

func (f *faults) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, err)
}

func get(t *testing.T, method, url, host string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

// TestEvents: a page that comes in the middle is told how far the run is, then of each trial, of each
// report, and of the end.
func TestEvents(t *testing.T) {
	made := 0
	s, url, f := served(t, func() ([]byte, error) {
		made++
		return []byte("<p>report of the trials so far"), nil
	})
	if _, _, body := get(t, "GET", url+"report.html", ""); !strings.Contains(body, "No trial has ended") {
		t.Errorf("before any trial the report is %q", body)
	}
	s.Phase(live.State{Phase: "run block 1", Total: 3, Left: 30})
	resp, err := http.Get(url + "events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("events have the type %q", got)
	}
	lines := bufio.NewScanner(resp.Body)
	expect := func(want string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == want {
				return
			}
		}
		t.Fatalf("the stream ended before %q: %v", want, lines.Err())
	}
	expect(`event: progress`)
	expect(`data: {"phase":"run block 1","done":0,"total":3,"left_seconds":30}`)
	s.Trial(live.State{Phase: "first", Done: 1, Total: 3, Left: 20})
	expect(`data: {"phase":"first","done":1,"total":3,"left_seconds":20}`)
	expect(`event: report`)
	expect(`data: 1`)
	if _, _, body := get(t, "GET", url+"report.html?1", ""); body != "<p>report of the trials so far" {
		t.Errorf("the report is %q", body)
	}
	s.Trial(live.State{Phase: "second", Done: 2, Total: 3}) // too soon for another report
	expect(`data: {"phase":"second","done":2,"total":3,"left_seconds":0}`)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	expect(`data: 2`)
	expect(`event: end`)
	if made != 2 || len(f.all) > 0 {
		t.Errorf("%d reports were made, faults %v", made, f.all)
	}
}

// TestLastReport: a page has the last report when the server has closed, however late it takes it.
func TestLastReport(t *testing.T) {
	s, url, f := served(t, func() ([]byte, error) { return []byte("<p>the last"), nil })
	resp, err := http.Get(url + "events?page")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	events, err := io.ReadAll(resp.Body) // to their end
	if err != nil || !strings.HasSuffix(string(events), "event: end\ndata: \"the run has ended\"\n\n") {
		t.Errorf("%v, the events are\n%s", err, events)
	}
	if code, _, body := get(t, "GET", url+"report.html?1", ""); code != 200 || body != "<p>the last" {
		t.Errorf("after the end the report is %d %q", code, body)
	}
	if err := <-closed; err != nil || len(f.all) > 0 {
		t.Errorf("%v, faults %v", err, f.all)
	}
}

// TestOnlyThePage: nothing else is served, by no other method and under no foreign name.
func TestOnlyThePage(t *testing.T) {
	s, url, _ := served(t, func() ([]byte, error) { return nil, errors.New("no") })
	t.Cleanup(func() { _ = s.Close() })
	for _, tt := range []struct {
		method, path, host string
		want               int
	}{
		{"GET", "", "", 200}, {"GET", "report.html", "", 200}, {"GET", "", "localhost:1", 200}, {"GET", "", "[::1]:80", 200},
		{"GET", "plan.json", "", 404}, {"GET", "rows.csv", "", 404}, {"GET", "report.html/../../etc/passwd", "", 404}, {"GET", "%2e%2e/etc/passwd", "", 404},
		{"POST", "", "", 405}, {"DELETE", "report.html", "", 405},
		{"GET", "", "evil.example.org", 403}, {"GET", "report.html", "evil.example.org:8080", 403}, {"GET", "events", "192.0.2.1", 403},
	} {
		if code, _, _ := get(t, tt.method, url+tt.path, tt.host); code != tt.want {
			t.Errorf("%s /%s as %q: %d, want %d", tt.method, tt.path, tt.host, code, tt.want)
		}
	}
	_, header, body := get(t, "GET", url, "")
	policy := header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "script-src 'sha256-") || header.Get("Cache-Control") != "no-store" {
		t.Errorf("the page has the headers %v", header)
	}
	if strings.Contains(body, "http://") || strings.Contains(body, "https://") {
		t.Error("the page asks others")
	}
}

// TestLoopback: other addresses only where that is said.
func TestLoopback(t *testing.T) {
	for _, tt := range []struct {
		address string
		open    bool
		ok      bool
	}{
		{"127.0.0.1:0", false, true}, {"[::1]:0", false, true}, {"localhost:0", false, true}, {"127.8.8.8:80", false, true},
		{":0", false, false}, {"0.0.0.0:0", false, false}, {"192.0.2.1:80", false, false}, {"[::]:80", false, false}, {"example.org:80", false, false},
		{"0.0.0.0:0", true, true}, {"8080", true, false}, {"8080", false, false},
	} {
		if err := live.Check(tt.address, tt.open); (err == nil) != tt.ok {
			t.Errorf("%s, open %v: %v", tt.address, tt.open, err)
		}
	}
	if _, err := live.Listen("0.0.0.0:0", false); err == nil {
		t.Error("it listens where everyone reaches it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := live.Listen(l.Addr().String(), false); err == nil {
		t.Error("it listens where another program does")
	}
}

// TestFaultKeepsTheReport: what cannot be made anew stays as it was, and its reason is told.
func TestFaultKeepsTheReport(t *testing.T) {
	broken := false
	s, url, f := served(t, func() ([]byte, error) {
		if broken {
			return nil, errors.New("torn")
		}
		return []byte("first"), nil
	})
	s.Trial(live.State{Done: 1, Total: 2})
	broken = true
	_, _, before := get(t, "GET", url+"report.html", "")
	if err := s.Close(); err != nil || before != "first" {
		t.Errorf("%v, report %q", err, before)
	}
	if len(f.all) != 1 || !strings.Contains(f.all[0].Error(), "torn") {
		t.Errorf("faults %v", f.all)
	}
}

package lab

import (
	"encoding/json"
	"io"
	"testing"
	"time"

	"hookbed/driver/bundle"
)

// FuzzReplies: what a helper answers, over a connection or from a sealed guest, is a reply or an
// error.
func FuzzReplies(f *testing.F) {
	f.Add([]byte(`{"mark": 1}` + "\n"))
	f.Add([]byte(`{"error": "no", "fault": "subject", "step": -5, "results": [{"kind": "x", "values": {"a": 1e308}}], "raw": {"../x": "y"}}` + "\n"))
	f.Add([]byte(`{"setup": 1, "trial": 0, "phase": "run", "chunk": 2, "reply": {"facts": {"a": null}}}` + "\n{"))
	f.Add([]byte("null\nnull\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		replies, err := DecodeReplies(data)
		if err == nil && len(data) > 0 && len(replies) == 0 {
			t.Errorf("%q are no replies", data)
		}
		inR, inW := io.Pipe()
		outR, outW := io.Pipe()
		s := sessionOf("a test", inW, outR)
		go func() { _, _ = io.Copy(io.Discard, inR) }()
		go func() {
			_, _ = outW.Write(data)
			_ = outW.Close()
		}()
		reply, err := s.converse(t.Context(), []byte("{}\n"), time.Minute)
		_ = outR.Close()
		_ = inW.Close()
		if err != nil {
			return
		}
		if _, err := json.Marshal(reply); err != nil {
			t.Errorf("%+v: %v", reply, err)
		}
	})
}

// FuzzState: whatever is in a lab's file, it is that of its directory.
func FuzzState(f *testing.F) {
	text, err := json.Marshal(State{Name: "r1", Provider: "local", Driver: thisProcess()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"name": "../x", "driver": {"pid": -1}, "nodes": [{}], "hypervisors": [{"nodes": null}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s State
		if json.Unmarshal(data, &s) != nil {
			return
		}
		l := s.Listing(time.Unix(0, 0))
		if l.Title() == "" || l.Machines() == "" || s.InUse() && s.Left() {
			t.Errorf("%+v", l)
		}
		for _, n := range s.NodeNames() {
			_, _ = s.SSHCommand(n, []string{"true"})
		}
		_ = bundle.Schema
	})
}

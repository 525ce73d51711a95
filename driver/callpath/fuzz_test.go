package callpath

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

// usualCut is how the texts of the tests are cut.
func usualCut() Cut {
	return Cut{Client: 7, Server: "netserver", At: sending(), Of: roleClient, OtherAt: sending()}
}

// FuzzReadPath: whatever has a path, has one whose calls are of the recorded functions, and it can
// be written.
func FuzzReadPath(f *testing.F) {
	f.Add([]byte(head+unitText("")+unitText("")+unitText("")), false)
	f.Add([]byte("  1.0 |   1)  netserv-9   |  0.1 us | tcp_sendmsg();\n"), true)
	f.Add([]byte("CPU:1 [LOST 5 EVENTS]\n 1.0 | 0) <idle>-0 |               tcp_v4_rcv [m](a=1) { /* x */\n"), true)
	f.Fuzz(func(t *testing.T, text []byte, idle bool) {
		how := usualCut()
		how.Idle = idle
		p, err := ReadPath(bytes.NewReader(text), how)
		if err != nil {
			return
		}
		if p.Same < 1 || p.Same > p.Units || p.Paths < 1 || p.Paths > p.Units || len(p.Calls) == 0 {
			t.Errorf("%d of %d units are on one of %d paths, which has %d threads", p.Same, p.Units, p.Paths, len(p.Calls))
		}
		for _, role := range []string{roleClient, roleServer, roleIdle, roleKernel} {
			for _, name := range names(p, role) {
				if name != lost && !strings.Contains(string(text), name) {
					t.Errorf("%q is on the path and not in the text", name)
				}
			}
		}
		rec := Recording{Cell: "c", Kernel: "6.12", Calls: &Calls{Unit: "transaction"}, Path: p}
		rec.writePath(io.Discard)
	})
}

// FuzzReadDrops: every event is counted once, in all ways and by place.
func FuzzReadDrops(f *testing.F) {
	f.Add([]byte(dropText))
	f.Add([]byte(oldDropText))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := ReadDrops(bytes.NewReader(text))
		if err != nil {
			return
		}
		want := 0
		for line := range bytes.Lines(text) {
			if bytes.Contains(bytes.TrimSpace(line), []byte(": kfree_skb: ")) {
				want++
			}
		}
		for _, all := range [][]Drop{got.Drops, got.ByPlace()} {
			n := 0
			for _, d := range all {
				n += d.Packets
			}
			if n != want {
				t.Errorf("%d drops of %d", n, want)
			}
		}
		if !slices.IsSortedFunc(got.Drops, func(a, b Drop) int { return b.Packets - a.Packets }) {
			t.Error("the most frequent is not the first")
		}
		rec := Recording{Cell: "c", Drops: &got}
		rec.writeDrops(io.Discard)
	})
}

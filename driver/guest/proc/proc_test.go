package proc

import (
	"fmt"
	"testing"

	"hookbed/driver/tail"
)

func TestHasListener(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:138A 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 2
`
	for port, want := range map[int]bool{5001: true, 5002: false, 80: false} {
		if got := hasListener(table, port); got != want {
			t.Errorf("hasListener(%d) = %t, want %t", port, got, want)
		}
	}
}

func TestTailAndHead(t *testing.T) {
	tl, h := tail.NewBuffer(4), &Head{Limit: 4}
	for _, s := range []string{"ab", "cde", "f"} {
		fmt.Fprint(tl, s)
		fmt.Fprint(h, s)
	}
	if tl.String() != "cdef" || string(h.Data) != "abcd" || !h.Cut {
		t.Errorf("tail %q, head %q, cut %t", tl, h.Data, h.Cut)
	}
}

func TestParseActivity(t *testing.T) {
	if got := ParseCPU("cpu  100 0 50 1000 3 0 7 2 0 0\ncpu0 1 1\n"); got["user"] != 1 || got["idle"] != 10 || got["steal"] != 0.02 {
		t.Errorf("CPU times are %v", got)
	}
	if got := parseSoftirqs("     CPU0 CPU1\n  HI: 1 2\n NET_RX: 30 40\n"); got["NET_RX"] != 70 || got["HI"] != 3 {
		t.Errorf("softirqs are %v", got)
	}
	if got := ParseSNMP("Ip: A\nIp: 1\nTcp: RtoMin MaxConn OutSegs\nTcp: 200 -1 9\n", "Tcp"); got["OutSegs"] != 9 || len(got) != 2 {
		t.Errorf("TCP counters are %v", got)
	}
}

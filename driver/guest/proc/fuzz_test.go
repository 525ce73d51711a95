package proc

import "testing"

// FuzzActivity: no text of /proc makes its readers panic.
func FuzzActivity(f *testing.F) {
	f.Add("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2\n")
	f.Add("                    CPU0       CPU1\n          HI:          1          2\n      NET_RX:         10         20\n")
	f.Add("Tcp: RtoAlgorithm RetransSegs\nTcp: 1 2\nTcp: 3\nUdp:\n")
	f.Fuzz(func(t *testing.T, text string) {
		for name, seconds := range ParseCPU(text) {
			if seconds < 0 || name == "" {
				t.Errorf("%q has %v s", name, seconds)
			}
		}
		_, _ = parseSoftirqs(text), ParseSNMP(text, "Tcp")
	})
}

package cost

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestMachine(t *testing.T) {
	full := fstest.MapFS{
		"proc/cpuinfo":              {Data: []byte("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu\n\nprocessor\t: 1\nmodel name\t: other\n")},
		"proc/sys/kernel/osrelease": {Data: []byte("6.18.1\n")},
		"sys/devices/system/cpu/vulnerabilities/spectre_v2": {Data: []byte("Mitigation: Retpolines; STIBP: disabled\n")},
	}
	if got, want := machineOf(full), (Machine{"AMD EPYC 7B13", "6.18.1", "Mitigation: Retpolines; STIBP: disabled"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := machineOf(fstest.MapFS{}), (Machine{unknown, unknown, unknown}); got != want {
		t.Errorf("of a computer that tells nothing: %+v", got)
	}
	if got := ThisMachine(); got.Kernel == unknown {
		t.Errorf("of this computer: %+v", got)
	}
}

// A ratio is never shown without the processor that it was seen on.
func TestRatiosCarryTheProcessor(t *testing.T) {
	m := Machine{"Intel Xeon", "6.18.1", "Mitigation: Retpolines"}
	const want = "Measured on Intel Xeon, Linux 6.18.1, spectre_v2: Mitigation: Retpolines."
	tables := append(Tables(synthetic(), 32, m), RateTable(nil, 3, m))
	if len(tables) != 3 {
		t.Fatalf("%d tables, want nanoseconds, ratios and rates", len(tables))
	}
	for _, table := range tables {
		if !strings.Contains(strings.Join(table.Notes, "\n"), want) {
			t.Errorf("%s: notes %q, want %q", table.Title, table.Notes, want)
		}
	}
}

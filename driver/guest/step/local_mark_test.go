package step

import (
	"strings"
	"testing"

	"hookbed/driver/bundle"
)

// TestLocalMark: what has the mark is delivered by lo, whatever its destination, and after
// the undo nothing of it is left.
func TestLocalMark(t *testing.T) {
	for family, to := range map[string][]string{bundle.IPv4: {"198.18.9.9"}, bundle.IPv6: {"-6", "2001:2::9"}} {
		t.Run(family, func(t *testing.T) {
			r := newRig(t)
			r.must("", bundle.Netns{Name: "server"})
			get := append([]string{"ip"}, append(to[:len(to)-1:len(to)-1], "route", "get", to[len(to)-1], "mark", "7")...)
			mark, do := r.x.undo.mark(), bundle.LocalMark{Mark: 7, Table: 100, Family: family}
			r.must("server", do)
			if got := r.output("server", get...); !strings.Contains(got, "local ") || !strings.Contains(got, "dev lo") {
				t.Errorf("%v: %q, want it local by lo", get, got)
			}
			r.undo(mark)
			rules := append([]string{"ip"}, append(to[:len(to)-1:len(to)-1], "rule")...)
			if got := r.output("server", rules...); strings.Contains(got, "0x7") {
				t.Errorf("left: %q", got)
			}
		})
	}
}

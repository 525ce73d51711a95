package bundle

import "testing"

func TestParseWaited(t *testing.T) {
	got := ParseWaited("some avg10=99.35 avg60=99.28 avg300=96.89 total=1120895768\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")
	if got == nil || *got != 1120.895768 {
		t.Errorf("waited %v, want 1120.895768 s", got)
	}
	for _, text := range []string{"", "full avg10=0.00 total=7\n", "some total=x\n"} {
		if got := ParseWaited(text); got != nil {
			t.Errorf("of %q: %v", text, *got)
		}
	}
}

package table

import "testing"

// A bound above 0 never reads 0, in a table or as a ratio.
func TestPositiveBoundsDoNotReadZero(t *testing.T) {
	sc := Scale{Unit: "µs", Divisor: 1e-6, Decimals: 1}
	for v, want := range map[float64]string{20.64e-6: "20.6", 0.012e-6: "0.012", 0: "0.0", -0.01e-6: "-0.0"} {
		if got := sc.Bound(v); got != want {
			t.Errorf("bound of %g: %s, want %s", v, got, want)
		}
	}
	if got := Ratio(0.00012); got != "0.00012" {
		t.Errorf("ratio: %s", got)
	}
}

func TestScale(t *testing.T) {
	tests := []struct {
		unit string
		v    float64
		want string
	}{
		{"bit/s", 9.4127e9, "9.41 Gbit/s"}, {"bit/s", 3.06e8, "306 Mbit/s"}, {"s", 34.2e-6, "34.2 µs"}, {"s", 1.5e-3, "1.50 ms"},
		{"1/s", 126000, "126000 per s"}, {"1", 12, "12 "}, {"1", 0.5, "0.500 "}, {"s", 0, "0 ns"}, {"parsec", 2, "2 parsec"},
	}
	for _, tt := range tests {
		s := ScaleFor(tt.unit, []float64{tt.v})
		if got := s.Format(tt.v) + " " + s.Unit; got != tt.want {
			t.Errorf("%g %s = %q, want %q", tt.v, tt.unit, got, tt.want)
		}
	}
}

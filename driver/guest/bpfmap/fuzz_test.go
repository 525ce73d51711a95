package bpfmap

import (
	"errors"
	"testing"
)

// FuzzParseEntries: entries have the sizes of the map.
func FuzzParseEntries(f *testing.F) {
	f.Add([]byte("00112233 4455\n\n  66778899 aabb\n"), uint8(4), uint8(2))
	f.Add([]byte("0011\n2233 x"), uint8(2), uint8(0))
	f.Add([]byte("00112233 {ifindex:eth0}"), uint8(4), uint8(4))
	f.Fuzz(func(t *testing.T, text []byte, key, value uint8) {
		e, err := ParseEntries(text, int(key), int(value), func(v []byte) ([]byte, error) {
			if len(v) > 0 && v[0] == '{' {
				return nil, errors.New("no such link")
			}
			return v, nil
		})
		if err != nil {
			return
		}
		for i := range e.N {
			if len(e.key(i)) != int(key) || len(e.value(i)) != int(value) {
				t.Errorf("entry %d of %d has %d and %d bytes", i, e.N, len(e.key(i)), len(e.value(i)))
			}
		}
	})
}

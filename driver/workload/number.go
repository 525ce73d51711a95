package workload

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// What a tool prints beyond these is no measurement: no kernel path is that fast,
// and no trial that long.
const (
	mostRate    = 1e9  // transactions a second
	mostBits    = 1e15 // bits a second
	mostBytes   = 1e18 // of one trial
	mostSeconds = 1e6  // a latency, or a trial
	mostCount   = 1e15 // retransmissions
)

// number reads a figure that a tool printed under a key. Text that is no number,
// that is not finite (nan, inf), negative or beyond most is an error that names
// key and text.
func number(key, text string, most float64) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0, fmt.Errorf("%s is %q, want a positive number", key, text)
	}
	if v > most {
		return 0, fmt.Errorf("%s is %q, which is more than can be (%g)", key, text, most)
	}
	return v, nil
}

// figure is a number in a tool's JSON as it was written. Tools write null for what
// is not finite (cJSON), which encoding/json alone would take for 0.
type figure struct{ text string }

// UnmarshalJSON keeps the text of any JSON value.
func (f *figure) UnmarshalJSON(data []byte) error {
	f.text = string(data)
	return nil
}

// given says whether the key was there at all.
func (f figure) given() bool { return f.text != "" }

func (f figure) value(key string, most float64) (float64, error) { return number(key, f.text, most) }

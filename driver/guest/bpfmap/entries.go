// Package bpfmap fills BPF maps from text, and counts what maps hold.
package bpfmap

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

// Entries are a map's keys and values, each one behind the other as system calls
// take them.
type Entries struct {
	N                  int
	keys, values       []byte
	keySize, valueSize int
}

// key and value are those of one entry.
func (e Entries) key(i int) []byte { return e.keys[i*e.keySize:][:e.keySize] }

func (e Entries) value(i int) []byte { return e.values[i*e.valueSize:][:e.valueSize] }

// from is what is left behind the first n.
func (e Entries) from(n int) Entries {
	return Entries{e.N - n, e.keys[n*e.keySize:], e.values[n*e.valueSize:], e.keySize, e.valueSize}
}

// ParseEntries reads lines "KEYHEX VALUEHEX" of exact sizes, with placeholders in values
// replaced by expand. With a value size of 0 it reads keys, and leaves alone what is
// behind them.
func ParseEntries(text []byte, keySize, valueSize int, expand func(value []byte) ([]byte, error)) (Entries, error) {
	most := bytes.Count(text, []byte("\n")) + 1
	e := Entries{keys: make([]byte, most*keySize), values: make([]byte, most*valueSize), keySize: keySize, valueSize: valueSize}
	for number := 1; len(text) > 0; number++ {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		key, value, two := bytes.Cut(line, []byte(" "))
		if valueSize > 0 && (!two || bytes.ContainsRune(value, ' ')) {
			return e, fmt.Errorf("line %d: want KEYHEX VALUEHEX", number)
		}
		if err := exactHex(e.key(e.N), key); err != nil {
			return e, fmt.Errorf("line %d: key: %w", number, err)
		}
		if valueSize > 0 {
			value, err := expand(value)
			if err == nil {
				err = exactHex(e.value(e.N), value)
			}
			if err != nil {
				return e, fmt.Errorf("line %d: value: %w", number, err)
			}
		}
		e.N++
	}
	return e, nil
}

// exactHex decodes exactly as many hex digits as to has room for.
func exactHex(to, digits []byte) error {
	if len(digits)%2 == 1 {
		return hex.ErrLength
	}
	if n := hex.DecodedLen(len(digits)); n != len(to) {
		return fmt.Errorf("%d bytes, want %d", n, len(to))
	}
	_, err := hex.Decode(to, digits)
	return err
}

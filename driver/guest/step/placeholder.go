package step

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/vishvananda/netlink"
)

// placeholder is text that is replaced by something of a link: "{WORD:LINK}".
var placeholder = regexp.MustCompile(`\{(\w+):([^{}]*)\}`)

// words are what placeholders can be replaced by, by their word.
type words map[string]func(*netlink.LinkAttrs) string

// textWords are those of arguments, environments and inputs of programs.
func textWords() words {
	return words{
		"index": func(a *netlink.LinkAttrs) string { return strconv.Itoa(a.Index) },
		"name":  func(a *netlink.LinkAttrs) string { return a.Name },
	}
}

// mapWords are those of the values of a BPF map, in hex.
func mapWords() words {
	return words{
		"ifindex": func(a *netlink.LinkAttrs) string {
			return hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, uint32(a.Index)))
		},
		"mac": func(a *netlink.LinkAttrs) string { return hex.EncodeToString(a.HardwareAddr) },
	}
}

// fillIn replaces the placeholders of a text whose word is among those known; unknown
// lists the others, which stay.
func (c *call) fillIn(text string, known words) (filled string, unknown []string, err error) {
	filled = placeholder.ReplaceAllStringFunc(text, func(s string) string {
		m := placeholder.FindStringSubmatch(s)
		word, ok := known[m[1]]
		if !ok {
			unknown = append(unknown, s)
			return s
		}
		l, failed := c.link(m[2])
		if failed != nil {
			err = errors.Join(err, failed)
			return ""
		}
		return word(l.Attrs())
	})
	return filled, unknown, err
}

// linkText fills in a text of a program; braces that are no placeholder are its own.
func (c *call) linkText(text string) (string, error) {
	filled, _, err := c.fillIn(text, textWords())
	return filled, err
}

// expand fills in the value of a map's entry.
func (c *call) expand(value []byte) ([]byte, error) {
	if bytes.IndexByte(value, '{') < 0 {
		return value, nil
	}
	filled, unknown, err := c.fillIn(string(value), mapWords())
	for _, s := range unknown {
		err = errors.Join(err, fmt.Errorf("unknown placeholder %s", s))
	}
	return []byte(filled), err
}

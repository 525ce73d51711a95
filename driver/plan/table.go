package plan

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// table reads one TOML table key by key. It notes every problem and goes on
// with the default, so that all problems of a file are found at once.
type table struct {
	doc  *document
	path string
	keys map[string]any
}

// at is the line of a key, or of the table if it lacks the key.
func (t *table) at(key string) int {
	if line := t.doc.lines[joinPath(t.path, key)]; line > 0 {
		return line
	}
	return max(t.doc.lines[t.path], 1)
}

func (t *table) problem(key, format string, args ...any) {
	t.doc.problem(t.at(key), shown(joinPath(t.path, key)), format, args...)
}

// get marks a key as known and returns its value if it is there.
func (t *table) get(key string) (v any, ok bool) {
	t.doc.known[t.path] = append(t.doc.known[t.path], key)
	v, ok = t.keys[key]
	return v, ok
}

func (t *table) has(key string) bool { _, ok := t.keys[key]; return ok }

// child is a sub-table; empty, so that defaults apply, if it is not there.
func (t *table) child(key string) *table {
	t.record(key, Key{Kind: KindTable})
	c := &table{doc: t.doc, path: joinPath(t.path, key)}
	if v, ok := t.get(key); ok {
		if c.keys, ok = v.(map[string]any); !ok {
			t.problem(key, "is %s, want a table: write [%s]", kindOf(v), key)
		}
	}
	return c
}

// children are the tables of an array of tables.
func (t *table) children(key string) []*table {
	t.record(key, Key{Kind: KindTables})
	v, ok := t.get(key)
	list, isList := v.([]any)
	if ok && !isList {
		t.problem(key, "is %s, want tables: write [[%s]] before each", kindOf(v), joinPath(t.path, key))
	}
	var out []*table
	for i, e := range list {
		path := element(joinPath(t.path, key), i)
		keys, isTable := e.(map[string]any)
		if !isTable {
			t.doc.problem(t.doc.lines[path], shown(joinPath(t.path, key)), "is a list of %s, want tables: write [[%s]] before each", kindOf(e), joinPath(t.path, key))
			continue
		}
		out = append(out, &table{doc: t.doc, path: path, keys: keys})
	}
	return out
}

// text is a string; what is wrong with its content is for the caller to say.
func (t *table) text(key, fallback string) string {
	t.record(key, Key{Kind: KindText})
	return t.plainText(key, fallback)
}

func (t *table) plainText(key, fallback string) string {
	v, ok := t.get(key)
	if !ok {
		return fallback
	}
	s, ok := v.(string)
	if !ok {
		t.problem(key, "is %s, want text in quotes", kindOf(v))
		return fallback
	}
	return s
}

// name is text that matches a pattern; want says in words what that is.
func (t *table) name(key, fallback string, pattern *regexp.Regexp, want string) string {
	before := len(t.doc.problems)
	s := t.plainText(key, fallback)
	t.record(key, Key{Kind: KindText, Pattern: pattern.String()})
	if len(t.doc.problems) == before && t.has(key) && !pattern.MatchString(s) {
		t.problem(key, "%q is not a name, want %s", s, want)
		return fallback
	}
	return s
}

// level is one of the allowed words.
func (t *table) level(key, fallback string, allowed []string, unlisted ...string) string {
	t.record(key, Key{Kind: KindText, Allowed: allowed, Unlisted: unlisted})
	v, ok := t.get(key)
	if !ok {
		return fallback
	}
	if s, ok := t.oneOf(key, t.at(key), v, allowed, unlisted...); ok {
		return s
	}
	return fallback
}

// oneOf is one of the allowed words, or of the unlisted ones, which are too many for an
// error to name.
func (t *table) oneOf(key string, line int, v any, allowed []string, unlisted ...string) (string, bool) {
	shownKey := shown(joinPath(t.path, key))
	s, ok := v.(string)
	switch {
	case !ok:
		t.doc.problem(line, shownKey, "is %s, want %s in quotes", kindOf(v), quoted(allowed))
	case !slices.Contains(allowed, s) && !slices.Contains(unlisted, s):
		t.doc.problem(line, shownKey, "unknown level %q, want %s%s", s, quoted(allowed), didYouMean(s, slices.Concat(allowed, unlisted)))
		ok = false
	}
	return s, ok
}

// levels is a list without duplicates of allowed words. It may not be empty.
func (t *table) levels(key string, allowed []string, unlisted ...string) []string {
	t.record(key, Key{Kind: KindWords, Allowed: allowed, Unlisted: unlisted})
	var out []string
	t.list(key, fmt.Sprintf("some of %s", quoted(allowed)), func(line int, v any) {
		s, ok := t.oneOf(key, line, v, allowed, unlisted...)
		if !ok {
			return
		}
		if slices.Contains(out, s) {
			t.doc.problem(line, shown(joinPath(t.path, key)), "%q is there twice; each level once", s)
			return
		}
		out = append(out, s)
	})
	return out
}

// counts is a list without duplicates of whole numbers from low to high. It
// may not be empty.
func (t *table) counts(key string, low, high int) []int {
	t.record(key, Key{Kind: KindNumbers, Low: float64(low), High: float64(high)})
	var out []int
	t.list(key, "numbers, as in [0, 100]", func(line int, v any) {
		shownKey := shown(joinPath(t.path, key))
		n, ok := v.(int64)
		switch {
		case !ok:
			t.doc.problem(line, shownKey, "has %s in it, want whole numbers", kindOf(v))
		case n < int64(low) || n > int64(high):
			t.doc.problem(line, shownKey, "%d is out of range, want %d to %d", n, low, high)
		case slices.Contains(out, int(n)):
			t.doc.problem(line, shownKey, "%d is there twice; each level once", n)
		default:
			out = append(out, int(n))
		}
	})
	return out
}

// list calls each with the elements of a list that must be there and not empty.
func (t *table) list(key, want string, each func(line int, v any)) {
	v, ok := t.get(key)
	list, isList := v.([]any)
	switch {
	case !ok:
		t.problem(key, "is missing, want a list of %s", want)
	case !isList:
		t.problem(key, "is %s, want a list of %s", kindOf(v), want)
	case len(list) == 0:
		t.problem(key, "is empty, want %s", want)
	case len(list) > maxLevels:
		t.problem(key, "has %d levels, want at most %d", len(list), maxLevels)
		return
	}
	path := joinPath(t.path, key)
	for i, e := range list {
		each(max(t.doc.lines[element(path, i)], t.at(key)), e)
	}
}

// number is a whole number from low to high.
func (t *table) number(key string, fallback, low, high int64) int64 {
	t.record(key, Key{Kind: KindNumber, Low: float64(low), High: float64(high)})
	v, ok := t.get(key)
	if !ok {
		return fallback
	}
	n, ok := v.(int64)
	switch {
	case !ok:
		t.problem(key, "is %s, want a whole number without quotes", kindOf(v))
	case n < 0:
		t.problem(key, "%d is negative, want %d or more", n, low)
	case n < low || n > high:
		t.problem(key, "%d is out of range, want %d to %d", n, low, high)
	default:
		return n
	}
	return fallback
}

// fraction is a number above low and at most high, 0 if it is not there.
func (t *table) fraction(key string, low, high float64) float64 {
	t.record(key, Key{Kind: KindReal, Low: low, High: high})
	v, ok := t.get(key)
	if !ok {
		return 0
	}
	x, ok := v.(float64)
	if n, whole := v.(int64); whole {
		x, ok = float64(n), true
	}
	switch {
	case !ok:
		t.problem(key, "is %s, want a number without quotes, as in 0.05", kindOf(v))
	case !(x > low && x <= high): // so that NaN is refused
		t.problem(key, "%v is out of range, want above %v and at most %v", x, low, high)
	default:
		return x
	}
	return 0
}

// durationPattern is what durations look like: whole seconds, with a unit for each number.
const durationPattern = `^([0-9]+(h|m|s))+$`

var leadingNumber = regexp.MustCompile(`^\s*(\d{1,9})(?:\.\d*)?\s*([A-Za-z]*)\s*$`)

// duration is whole seconds from low to high: iperf3 and netperf count in
// seconds, and a fraction would be measured as something else than is written.
func (t *table) duration(key string, fallback, low, high time.Duration) time.Duration {
	t.record(key, Key{Kind: KindText, Pattern: durationPattern})
	v, ok := t.get(key)
	if !ok {
		return fallback
	}
	if n, ok := v.(int64); ok {
		t.problem(key, "%d has no unit%s", n, writeInstead(strconv.FormatInt(n, 10), "s"))
		return fallback
	}
	s, ok := v.(string)
	if !ok {
		t.problem(key, "is %s, want a duration in quotes, as in %q", kindOf(v), fallback)
		return fallback
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil && leadingNumber.MatchString(s) && leadingNumber.FindStringSubmatch(s)[2] == "":
		t.problem(key, "%q has no unit%s", s, writeInstead(s, "s"))
	case err != nil:
		t.problem(key, "%q is not a duration, want a number and s, m or h%s", s, writeInstead(s, "s"))
	case d < 0:
		t.problem(key, "%q is negative, want %q or more", s, short(low))
	case d%time.Second != 0:
		t.problem(key, "%q is not whole seconds, in which iperf3 and netperf count; write %q", s, upToSecond(d))
	case d < low || d > high:
		t.problem(key, "%q is out of range, want %q to %q", s, short(low), short(high))
	default:
		return d
	}
	return fallback
}

func upToSecond(d time.Duration) string {
	return strconv.FormatInt(int64(d/time.Second)+1, 10) + "s"
}

// short renders a duration without the zero units: "1h", not "1h0m0s".
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// writeInstead suggests the number in text with its right unit, if there is one.
func writeInstead(text, unit string) string {
	if m := leadingNumber.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("; write %q", m[1]+unit)
	}
	return ""
}

// flag is true or false.
func (t *table) flag(key string, fallback bool) bool {
	t.record(key, Key{Kind: KindFlag})
	v, ok := t.get(key)
	if !ok {
		return fallback
	}
	b, ok := v.(bool)
	if !ok {
		t.problem(key, "is %s, want true or false without quotes", kindOf(v))
		return fallback
	}
	return b
}

var memoryText = regexp.MustCompile(`^(\d{1,9})(MiB|GiB)$`)

// memory is an amount in whole MiB, written "512MiB" or "2GiB".
func (t *table) memory(key string, fallback, low, high int) int {
	t.record(key, Key{Kind: KindText, Pattern: memoryText.String()})
	v, ok := t.get(key)
	if !ok {
		return fallback
	}
	if n, ok := v.(int64); ok {
		t.problem(key, "%d has no unit; write %q", n, memoryWithUnit(strconv.FormatInt(n, 10), "M"))
		return fallback
	}
	s, ok := v.(string)
	m := memoryText.FindStringSubmatch(s)
	switch {
	case !ok:
		t.problem(key, "is %s, want an amount in quotes, as in \"2GiB\"", kindOf(v))
		return fallback
	case m == nil:
		t.problem(key, "%q is not an amount of memory; write %q", s, suggestMemory(s))
		return fallback
	}
	n, _ := strconv.Atoi(m[1])
	if m[2] == "GiB" {
		n *= 1024
	}
	if n < low || n > high {
		t.problem(key, "%q is out of range, want %q to %q", s, fmt.Sprintf("%dMiB", low), fmt.Sprintf("%dMiB", high))
		return fallback
	}
	return n
}

// suggestMemory guesses what "2G", "2 GB" or "2048" was meant to be.
func suggestMemory(s string) string {
	m := leadingNumber.FindStringSubmatch(s)
	if m == nil {
		return "2GiB"
	}
	return memoryWithUnit(m[1], m[2])
}

func memoryWithUnit(number, unit string) string {
	if strings.HasPrefix(strings.ToUpper(unit), "G") {
		return number + "GiB"
	}
	return number + "MiB"
}

// anyKey accepts whatever else the table holds, where a worse problem makes
// it impossible to say what belongs there.
func (t *table) anyKey() {
	for k := range t.keys {
		t.get(k)
	}
}

// finish notes the keys that nothing has read. Call it after all others.
func (t *table) finish() {
	for _, k := range slices.Sorted(maps.Keys(t.keys)) {
		if !slices.Contains(t.doc.known[t.path], k) {
			t.doc.unknown = append(t.doc.unknown, unknownKey{t.path, k})
		}
	}
}

// reportUnknown turns unknown keys into problems, once it is known which keys
// every table has, so that a key in the wrong table gets a message that says where it belongs.
func (d *document) reportUnknown() {
	for _, u := range d.unknown {
		t := table{doc: d, path: u.table}
		t.problem(u.key, "unknown key%s", d.hint(u))
	}
}

func (d *document) hint(u unknownKey) string {
	known := d.known[u.table]
	if near := didYouMean(u.key, known); near != "" {
		return near
	}
	for _, path := range slices.Sorted(maps.Keys(d.known)) {
		if path != u.table && slices.Contains(d.known[path], u.key) {
			return fmt.Sprintf("; it belongs in %s", tableName(path))
		}
	}
	return fmt.Sprintf(", want %s", quoted(known))
}

func tableName(path string) string {
	switch {
	case path == "":
		return "the top of the file, before the first table"
	case strings.HasSuffix(path, "]"):
		return "[[" + shown(path) + "]]"
	}
	return "[" + path + "]"
}

// kindOf names a TOML value for a person.
func kindOf(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("the text %q", v)
	case int64:
		return fmt.Sprintf("the number %d", v)
	case float64:
		return fmt.Sprintf("the fraction %v", v)
	case bool:
		return fmt.Sprintf("%v", v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

package plan

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Kinds of keys of an experiment file.
const (
	KindText    = "text"
	KindNumber  = "number"   // whole
	KindReal    = "real"     // with a fraction
	KindFlag    = "flag"     // true or false
	KindWords   = "words"    // a list of texts
	KindNumbers = "numbers"  // a list of whole numbers
	KindTable   = "table"    // keys of its own
	KindTables  = "tables"   // several tables, [[...]]
	KindFixed   = "constant" // one value only
)

// Key is a key of an experiment file as the loader reads it.
type Key struct {
	Path string // "measure.trials", "arm.attach", without indices
	Kind string
	// Allowed are the words of a text or of words, nil for any; Unlisted further ones, which are
	// too many to be named.
	Allowed, Unlisted []string
	// Pattern is what a text must match, as a regular expression; "" for anything.
	Pattern string
	// Low and High bound numbers and their lists, both included; for reals Low is excluded.
	Low, High float64
}

// record notes how the loader reads a key, where something listens.
func (t *table) record(key string, k Key) {
	if t.doc.record != nil {
		k.Path = joinPath(t.path, key)
		t.doc.record(k)
	}
}

// keysOf are the keys that the loader reads of a document: each as often as it is read, with
// indices in their paths.
func keysOf(data []byte, cat Catalog) (out []Key) {
	doc, err := parseDocument("probe", data)
	if err != nil {
		return nil
	}
	doc.record = func(k Key) { out = append(out, k) }
	l := loader{cat: cat, doc: doc}
	l.spec(&table{doc: doc, keys: doc.root}) // its problems are not of interest
	return out
}

// Keys lists every key that an experiment file can have, sorted. They are what the loader reads
// of files that name one of each: so the list cannot differ from it.
func Keys(cat Catalog) []Key {
	known := map[string]Key{"schema": {Path: "schema", Kind: KindFixed, Low: FileSchema, High: FileSchema}}
	for _, probe := range probes(cat) {
		for _, k := range keysOf(probe, cat) {
			k.Path = shown(k.Path)
			known[k.Path] = joinKeys(known[k.Path], k)
		}
	}
	return slices.SortedFunc(maps.Values(known), func(a, b Key) int { return strings.Compare(a.Path, b.Path) })
}

// joinKeys is one key where two tables have it: what either allows.
func joinKeys(a, b Key) Key {
	if a.Path == "" {
		return b
	}
	if a.Allowed == nil || b.Allowed == nil {
		a.Allowed = nil
	}
	for _, word := range b.Allowed {
		if a.Allowed != nil && !slices.Contains(a.Allowed, word) {
			a.Allowed = append(slices.Clip(a.Allowed), word)
		}
	}
	if a.Pattern != b.Pattern {
		a.Pattern = ""
	}
	a.Low, a.High = min(a.Low, b.Low), max(a.High, b.High)
	return a
}

// probes are documents that have at least one of every table. They are no experiments that could run.
func probes(cat Catalog) [][]byte {
	var count []string
	for _, w := range cat.Workloads {
		if w.Counts {
			count = append(count, w.Name+" = 1")
		}
	}
	var arms strings.Builder
	for _, d := range cat.Datapaths {
		if !d.Crossed {
			fmt.Fprintf(&arms, "[[arm]]\nname = \"a\"\ndatapath = %q\n", d.Name)
			continue
		}
		fmt.Fprintf(&arms, "[[arm]]\nname = \"a\"\nfilter = %q\nfabric = %q\n", d.Filter, d.Fabric)
	}
	const lab = "[lab]\n[[lab.machine]]\n[[lab.hypervisor]]\n"
	matrix := "[matrix]\nkernels = [\"x\"]\nclients = [1]\nstreams = [1]\nnics = [{ model = \"virtio\" }]\n"
	head := lab + "[measure]\nstop = {}\ncount = { " + strings.Join(count, ", ") + " }\n" + matrix
	return [][]byte{[]byte(head + arms.String()), []byte(lab + "[matrix]\n[[policy]]\n[[arm]]\n")}
}

// Setting is a key of an experiment with a value that takes the place of the file's.
type Setting struct{ Key, Value string }

// ParseSetting reads KEY=VALUE.
func ParseSetting(text string) (Setting, error) {
	key, value, ok := strings.Cut(text, "=")
	key = strings.TrimSpace(key)
	if !ok || key == "" {
		return Setting{}, fmt.Errorf("%w: --set %s: want KEY=VALUE, as in measure.trials=3", ErrInvalid, text)
	}
	return Setting{Key: key, Value: strings.TrimSpace(value)}, nil
}

// firstSetting is the line that the first setting has: behind every line of a file.
const firstSetting = 1 << 24

// set puts settings into the document, in their order. What is wrong with one names it.
func (d *document) set(settings []Setting, cat Catalog) {
	if len(settings) == 0 {
		return
	}
	d.settings = settings
	keys := map[string]Key{}
	for _, k := range Keys(cat) {
		keys[k.Path] = k
	}
	for i, s := range settings {
		at, path, what := d.locateSetting(s, keys)
		if what == "" {
			what = d.put(at, keys[path], s.Value, firstSetting+i)
		}
		if what != "" {
			d.problem(firstSetting+i, s.Key, "%s", what)
		}
	}
}

// locateSetting finds a setting's place in the document: the keys that lead there, with the index of
// an arm where one is named, and the path of its kind. what is what is wrong with it, "" if nothing.
func (d *document) locateSetting(s Setting, keys map[string]Key) (at []string, path, what string) {
	at = strings.Split(s.Key, ".")
	if at[0] == "arm" && len(at) == 3 {
		name := at[1]
		var names []string
		for i, a := range d.tables("arm") {
			have, _ := a["name"].(string)
			if names = append(names, have); have == name {
				at[1] = strconv.Itoa(i)
			}
		}
		if at[1] == name {
			return nil, "", fmt.Sprintf("there is no arm %q, want one of %s%s", name, quoted(names), didYouMean(name, names))
		}
		path = "arm." + at[2]
	} else {
		path = s.Key
	}
	k, known := keys[path]
	switch {
	case !known:
		return nil, "", "unknown key" + didYouMean(path, slices.Sorted(maps.Keys(keys)))
	case k.Kind == KindFixed:
		return nil, "", "cannot be set: it says what the rest of the file means"
	case at[0] == "arm" && len(at) < 3, at[0] != "arm" && !k.Settable():
		return nil, "", "is of a table that the file must write, and cannot be set; of arms write arm.NAME.KEY"
	}
	return at, path, ""
}

// Settable says whether a setting can give the key a value by its path: it is in no table of which
// there are several, and no table itself, but for one that is written in a line.
func (k Key) Settable() bool {
	several := func(table string) bool { return k.Path == table || strings.HasPrefix(k.Path, table+".") }
	inline := k.Path == "measure.stop" || k.Path == "measure.count"
	return k.Kind != KindTables && k.Kind != KindFixed && (k.Kind != KindTable || inline) &&
		!slices.ContainsFunc([]string{"arm", "policy", "matrix.nics", "lab.machine", "lab.hypervisor"}, several)
}

// tables are those of an array of tables.
func (d *document) tables(key string) (out []map[string]any) {
	list, _ := d.root[key].([]any)
	for _, v := range list {
		m, _ := v.(map[string]any)
		out = append(out, m)
	}
	return out
}

// put writes a value at a place, and notes its line. It returns what is wrong with it.
func (d *document) put(at []string, k Key, text string, line int) string {
	value, what := k.parse(text)
	if what != "" {
		return what
	}
	in, path := d.root, ""
	if at[0] == "arm" {
		i, _ := strconv.Atoi(at[1])
		in, path, at = d.tables("arm")[i], element("arm", i), at[2:]
	}
	for _, key := range at[:len(at)-1] {
		path = joinPath(path, key)
		child, ok := in[key].(map[string]any)
		if !ok {
			child = map[string]any{}
			in[key] = child
		}
		d.note(path, line)
		in = child
	}
	last := at[len(at)-1]
	in[last] = value
	path = joinPath(path, last)
	for p := range d.lines { // of what the value takes the place of
		if p == path || strings.HasPrefix(p, path+"[") || strings.HasPrefix(p, path+".") {
			delete(d.lines, p)
		}
	}
	d.note(path, line)
	return ""
}

// note keeps the first line on which a path is seen.
func (d *document) note(path string, line int) {
	if d.lines[path] == 0 {
		d.lines[path] = line
	}
}

// parse reads the text of a value as its key's kind. What is of the wrong kind is left as text: the
// loader says what it wants.
func (k Key) parse(text string) (value any, what string) {
	switch k.Kind {
	case KindNumber:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n, ""
		}
	case KindReal:
		if x, err := strconv.ParseFloat(text, 64); err == nil {
			return x, ""
		}
	case KindFlag:
		if b, err := strconv.ParseBool(text); err == nil {
			return b, ""
		}
	case KindWords, KindNumbers:
		return k.list(text), ""
	case KindTable:
		doc, err := parseDocument("value", []byte("v = "+text))
		if err != nil {
			return nil, fmt.Sprintf("%q is no table, want one as in { KEY = VALUE }", text)
		}
		return doc.root["v"], ""
	}
	return unquoted(text), ""
}

// list reads words or numbers with commas between them, in brackets or not.
func (k Key) list(text string) []any {
	text = strings.TrimSpace(text)
	if inner, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(inner, "]")
	}
	out := []any{}
	for word := range strings.SplitSeq(text, ",") {
		word = unquoted(strings.TrimSpace(word))
		if word == "" {
			continue
		}
		if n, err := strconv.ParseInt(word, 10, 64); err == nil && k.Kind == KindNumbers {
			out = append(out, n)
			continue
		}
		out = append(out, word)
	}
	return out
}

// unquoted is a text without the quotes around it, if it has some.
func unquoted(text string) string {
	if n := len(text); n > 1 && (text[0] == '"' || text[0] == '\'') && text[n-1] == text[0] {
		return text[1 : n-1]
	}
	return text
}

package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"
)

// strict decodes a node into a value of a type with json tags, as the Kubernetes API
// server decodes it, but says for each field that the type has not, and each value of
// another kind, in which line it is. It notes the problems and says whether there are none.
func (r *reader) strict(n *yaml.Node, into any) bool {
	before := len(r.problems)
	r.check(n, reflect.TypeOf(into).Elem(), "", 0)
	if len(r.problems) > before {
		return false
	}
	var v any
	err := n.Decode(&v)
	var data []byte
	if err == nil {
		data, err = json.Marshal(v)
	}
	if err == nil {
		err = sigsyaml.UnmarshalStrict(data, into)
	}
	if err != nil {
		r.problem(n.Line, "cannot be decoded: %v", err)
	}
	return err == nil
}

// check holds a node against a type.
func (r *reader) check(n *yaml.Node, t reflect.Type, path string, depth int) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	opaque := reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
	switch {
	case depth > maxDepth:
		r.problem(n.Line, "%s is nested deeper than %d; write less", named(path), maxDepth)
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		r.problem(n.Line, "%s is an anchor or an alias of YAML, which policies do not need; write the value", named(path))
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null" && t.Kind() != reflect.String:
	case opaque && t.Name() != "IntOrString":
		r.depth(n, path, depth)
	case t.Kind() == reflect.Interface:
		r.depth(n, path, depth)
	default:
		r.checkKind(n, t, path, depth)
	}
}

// depth bounds what is not looked into, and finds aliases in it.
func (r *reader) depth(n *yaml.Node, path string, depth int) {
	if depth > maxDepth || n.Kind == yaml.AliasNode || n.Anchor != "" {
		r.problem(n.Line, "%s is nested deeper than %d, or has an anchor or an alias; write the values", named(path), maxDepth)
		return
	}
	for _, c := range n.Content {
		r.depth(c, path, depth+1)
	}
}

func (r *reader) checkKind(n *yaml.Node, t reflect.Type, path string, depth int) {
	wrong := func(want string) { r.problem(n.Line, "%s is %s, want %s", named(path), kindOf(n), want) }
	switch k := t.Kind(); {
	case t.Name() == "IntOrString":
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!str" {
			wrong("a number or a name")
		}
	case k == reflect.Struct:
		if n.Kind != yaml.MappingNode {
			wrong("a mapping")
			return
		}
		r.fields(n, t, path, depth)
	case k == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			wrong("a list")
			return
		}
		for i, c := range n.Content {
			r.check(c, t.Elem(), fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
	case k == reflect.Map:
		if n.Kind != yaml.MappingNode {
			wrong("a mapping")
			return
		}
		r.pairs(n, path, func(key string, v *yaml.Node) { r.check(v, t.Elem(), join(path, key), depth+1) })
	case k == reflect.String:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" && n.Tag != "!!timestamp" {
			wrong("text; put it in quotes")
		}
	case k == reflect.Bool && n.Tag != "!!bool":
		wrong("true or false")
	case k != reflect.Bool && n.Tag != "!!int":
		wrong("a number")
	}
}

// pairs calls each for the pairs of a mapping. Keys must be text, each there once.
func (r *reader) pairs(n *yaml.Node, path string, each func(key string, v *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch first := seen[k.Value]; {
		case k.Kind != yaml.ScalarNode || k.Tag != "!!str":
			r.problem(k.Line, "%s has a key that is %s, want text", named(path), kindOf(k))
		case first > 0:
			r.problem(k.Line, "%s is also in line %d; write it once", join(path, k.Value), first)
		default:
			seen[k.Value] = k.Line
			each(k.Value, n.Content[i+1])
		}
	}
}

func (r *reader) fields(n *yaml.Node, t reflect.Type, path string, depth int) {
	known := jsonFields(t)
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		lines[n.Content[i].Value] = n.Content[i].Line
	}
	r.pairs(n, path, func(key string, v *yaml.Node) {
		field, ok := known[key]
		if !ok {
			r.problem(lines[key], "unknown field %s, want %s", join(path, key), either(slices.Sorted(maps.Keys(known))))
			return
		}
		r.check(v, field, join(path, key), depth+1)
	})
}

// jsonFields are the fields of a struct by their names in JSON.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && name == "":
			maps.Copy(out, jsonFields(f.Type))
		default:
			out[cmp.Or(name, f.Name)] = f.Type
		}
	}
	return out
}

// child is the value of a key of a mapping, nil if it has none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// below is the node at a path of keys and indices, or the last one on the way that is there.
func below(n *yaml.Node, path ...any) *yaml.Node {
	for _, step := range path {
		var next *yaml.Node
		switch s := step.(type) {
		case string:
			next = child(n, s)
		case int:
			if n.Kind == yaml.SequenceNode && s < len(n.Content) {
				next = n.Content[s]
			}
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

func textOf(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

// kindOf names a value for a person.
func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias"
	case n.Tag == "!!null":
		return "nothing"
	case n.Tag == "!!str":
		return fmt.Sprintf("the text %q", cut(n.Value))
	}
	return cut(n.Value)
}

// cut bounds what a message quotes.
func cut(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

func named(path string) string { return cmp.Or(path, "the document") }

func join(path, key string) string {
	if path == "" {
		return cut(key)
	}
	return path + "." + cut(key)
}

// either lists words: "a, b or c".
func either(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

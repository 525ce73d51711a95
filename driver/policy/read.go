package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bounds of what is parsed.
const (
	maxSize      = 4 << 20 // bytes of a file
	maxDocuments = 10_000  // policies of a file
	maxDepth     = 40      // nesting of values
)

// Kinds of documents.
const (
	kindList           = "List"
	kindNetworkPolicy  = "NetworkPolicy"
	kindCilium         = "CiliumNetworkPolicy"
	kindCiliumCluster  = "CiliumClusterwideNetworkPolicy"
	groupNetworkPolicy = "networking.k8s.io/v1"
	groupCilium        = "cilium.io/v2"
)

// Read reads a file of policies: documents of Kubernetes or Cilium in YAML or JSON, alone
// or in a List; a JSON array of Cilium's rules as its agent imported them until 1.18; or
// lines "source,port,protocol,action" after that header. file names it in errors, which
// are *InvalidError with every problem.
func Read(file string, data []byte) (*Set, error) {
	r := &reader{file: file, set: &Set{}}
	switch {
	case len(data) > maxSize:
		r.problem(0, "is %d bytes long, want at most %d; write several files", len(data), maxSize)
	case isList(data):
		r.lines(data)
	default:
		r.documents(data)
	}
	if len(r.problems) == 0 && len(r.set.Policies) == 0 {
		r.problem(0, "has no policy; write a NetworkPolicy, a CiliumNetworkPolicy, or lines below %q", listHeader)
	}
	if err := invalid(r.problems); err != nil {
		return nil, err
	}
	return r.set, nil
}

// reader collects the policies and problems of one file.
type reader struct {
	file     string
	set      *Set
	problems []Problem
	read     int // documents
}

func (r *reader) problem(line int, format string, args ...any) {
	r.problems = append(r.problems, Problem{Position{r.file, line}, fmt.Sprintf(format, args...)})
}

func (r *reader) at(n *yaml.Node) Position { return Position{r.file, n.Line} }

// documents reads each document of a YAML stream; JSON is YAML.
func (r *reader) documents(data []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			line, what := yamlFault(err)
			r.problem(line, "is neither YAML nor JSON: %s", what)
			return
		}
		if len(doc.Content) == 1 {
			r.document(doc.Content[0])
		}
		if r.read > maxDocuments {
			return // it is said
		}
	}
}

// yamlFault is the line of an error of the parser, and what it says.
func yamlFault(err error) (line int, what string) {
	what = strings.TrimPrefix(err.Error(), "yaml: ")
	if _, scan := fmt.Sscanf(what, "line %d:", &line); scan == nil {
		_, what, _ = strings.Cut(what, ": ")
	}
	return line, what
}

// document reads one policy, or a list of them.
func (r *reader) document(n *yaml.Node) {
	if n.Kind == yaml.SequenceNode {
		r.rules2017(n)
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // an empty document
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n.Line, "is %s, want a policy with apiVersion and kind", kindOf(n))
		return
	}
	kind, version := child(n, "kind"), child(n, "apiVersion")
	if kind == nil || version == nil {
		r.problem(n.Line, "has no kind or no apiVersion; write kind: %s and apiVersion: %s", kindNetworkPolicy, groupNetworkPolicy)
		return
	}
	if strings.HasSuffix(kind.Value, kindList) {
		r.list(n)
		return
	}
	if r.read++; r.read > maxDocuments {
		r.problem(n.Line, "is policy %d, want at most %d; write several files", r.read, maxDocuments)
		return
	}
	groups := map[string]string{kindNetworkPolicy: groupNetworkPolicy, kindCilium: groupCilium, kindCiliumCluster: groupCilium}
	want, known := groups[kind.Value]
	switch {
	case !known:
		r.problem(kind.Line, "kind %q is no policy, want %s, %s or %s; take the document out", kind.Value, kindNetworkPolicy, kindCilium, kindCiliumCluster)
	case version.Value != want:
		r.problem(version.Line, "apiVersion %q of a %s, want %s", version.Value, kind.Value, want)
	case kind.Value == kindNetworkPolicy:
		r.networkPolicy(n)
	default:
		r.ciliumPolicy(n, kind.Value == kindCiliumCluster)
	}
}

// listed is what is read of a List in addition to its items.
type listed struct {
	v1.TypeMeta `json:",inline"`
	Metadata    v1.ListMeta `json:"metadata"`
	Items       []any       `json:"items"`
}

func (r *reader) list(n *yaml.Node) {
	if !r.strict(n, &listed{}) {
		return
	}
	items := child(n, "items")
	if items == nil || len(items.Content) == 0 {
		r.problem(n.Line, "is a list without items; write some, or take it out")
		return
	}
	for _, item := range items.Content {
		if item.Kind == yaml.MappingNode && strings.HasSuffix(textOf(child(item, "kind")), kindList) {
			r.problem(item.Line, "is a list in a list; write its items into the outer one")
			continue
		}
		r.document(item)
		if r.read > maxDocuments {
			return
		}
	}
}

package policy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxPods bounds an inventory.
const maxPods = 20_000

// Inventory is the endpoints that policies are about: which labels are at which addresses.
type Inventory struct {
	Pods []Pod
	at   map[netip.Addr]int
}

// Pod is one endpoint.
type Pod struct {
	Name      string // "NAMESPACE/NAME"
	Namespace string
	Labels    map[string]string
	Addresses []netip.Addr
	// Ports are the numbers of its named ports.
	Ports map[string]uint16
	At    Position

	own, namespaced, endpoint labels.Set
}

// Selector selects pods. The zero value selects every one.
type Selector struct {
	namespace        string // "" is every one
	namespaces, pods labels.Selector
	endpoints        labels.Selector // of Cilium, which sees labels of the namespace, too
}

// Matches says whether a pod is selected.
func (s Selector) Matches(p *Pod) bool {
	return (s.namespace == "" || s.namespace == p.Namespace) &&
		(s.namespaces == nil || s.namespaces.Matches(p.namespaced)) &&
		(s.pods == nil || s.pods.Matches(p.own)) &&
		(s.endpoints == nil || s.endpoints.Matches(p.endpoint))
}

// The file of an inventory. In YAML and TOML it has the same keys.
type (
	inventoryFile struct {
		Namespace []namespaceFile `json:"namespace" toml:"namespace"`
		Pod       []podFile       `json:"pod" toml:"pod"`
	}
	namespaceFile struct {
		Name   string            `json:"name" toml:"name"`
		Labels map[string]string `json:"labels" toml:"labels"`
	}
	podFile struct {
		Name      string            `json:"name" toml:"name"`
		Namespace string            `json:"namespace" toml:"namespace"`
		Labels    map[string]string `json:"labels" toml:"labels"`
		Addresses []string          `json:"addresses" toml:"addresses"`
		Ports     map[string]int    `json:"ports" toml:"ports"`
	}
)

// ReadInventory reads an inventory: TOML if the file's name ends so, else YAML or JSON.
// Errors are *InvalidError.
func ReadInventory(file string, data []byte) (*Inventory, error) {
	r := &reader{file: file}
	var in inventoryFile
	var lines inventoryLines
	switch {
	case len(data) > maxSize:
		r.problem(0, "is %d bytes long, want at most %d", len(data), maxSize)
	case strings.HasSuffix(file, ".toml"):
		in, lines = r.tomlInventory(data)
	default:
		in, lines = r.yamlInventory(data)
	}
	if len(r.problems) > 0 {
		return nil, invalid(r.problems)
	}
	out := r.inventory(in, lines)
	return out, invalid(r.problems)
}

// inventoryLines are where the namespaces and pods of a file are.
type inventoryLines struct{ namespace, pod []int }

func (l inventoryLines) of(list []int, i int) int {
	if i < len(list) {
		return list[i]
	}
	return 0
}

func (r *reader) tomlInventory(data []byte) (in inventoryFile, lines inventoryLines) {
	dec := toml.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(&in)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			r.problem(line, "unknown key %s, want [[namespace]] with name and labels, and [[pod]] with name, namespace, labels, addresses and ports", cut(strings.Join(e.Key(), ".")))
		}
	case errors.As(err, &wrong):
		line, _ := wrong.Position()
		r.problem(line, "%s", strings.TrimPrefix(wrong.Error(), "toml: "))
	case err != nil:
		r.problem(0, "%s", strings.TrimPrefix(err.Error(), "toml: "))
	}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		switch text := strings.ReplaceAll(strings.TrimSpace(string(line)), " ", ""); {
		case strings.HasPrefix(text, "[[pod]]"):
			lines.pod = append(lines.pod, number)
		case strings.HasPrefix(text, "[[namespace]]"):
			lines.namespace = append(lines.namespace, number)
		}
	}
	return in, lines
}

func (r *reader) yamlInventory(data []byte) (in inventoryFile, lines inventoryLines) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		line, what := yamlFault(err)
		r.problem(line, "is neither YAML nor JSON: %s; the name of an inventory in TOML ends with .toml", what)
		return in, lines
	}
	if len(doc.Content) == 0 {
		r.problem(0, "is empty; write pod: with name, labels and addresses of each")
		return in, lines
	}
	n := doc.Content[0]
	r.strict(n, &in)
	for i := range in.Pod {
		lines.pod = append(lines.pod, below(n, "pod", i).Line)
	}
	for i := range in.Namespace {
		lines.namespace = append(lines.namespace, below(n, "namespace", i).Line)
	}
	return in, lines
}

// inventory checks what a file has and compiles it.
func (r *reader) inventory(in inventoryFile, lines inventoryLines) *Inventory {
	namespaces := map[string]map[string]string{}
	for i, n := range in.Namespace {
		line := lines.of(lines.namespace, i)
		switch _, twice := namespaces[n.Name]; {
		case n.Name == "":
			r.problem(line, "a namespace has no name; write name = \"...\"")
		case twice:
			r.problem(line, "namespace %q is there twice; write it once", cut(n.Name))
		}
		r.labels(line, n.Labels)
		namespaces[n.Name] = n.Labels
	}
	switch {
	case len(in.Pod) == 0:
		r.problem(0, "has no pod; write [[pod]] with name, labels and addresses for each")
	case len(in.Pod) > maxPods:
		r.problem(0, "has %d pods, want at most %d", len(in.Pod), maxPods)
	}
	out := &Inventory{at: map[netip.Addr]int{}}
	names := map[string]bool{}
	for i, f := range in.Pod {
		p := r.pod(f, lines.of(lines.pod, i))
		if names[p.Name] {
			r.problem(p.At.Line, "pod %q is there twice; write it once, with all its addresses", cut(p.Name))
		}
		names[p.Name] = true
		p.compile(namespaces[p.Namespace])
		for _, a := range p.Addresses {
			if other, taken := out.at[a]; taken {
				r.problem(p.At.Line, "address %s of pod %q is also that of pod %q", a, cut(p.Name), cut(out.Pods[other].Name))
			}
			out.at[a] = len(out.Pods)
		}
		out.Pods = append(out.Pods, p)
	}
	return out
}

func (r *reader) pod(f podFile, line int) Pod {
	ns, name, ok := strings.Cut(f.Name, "/")
	if !ok {
		ns, name = cmp.Or(f.Namespace, defaultNamespace), f.Name
	}
	p := Pod{Name: ns + "/" + name, Namespace: ns, Labels: f.Labels, Ports: map[string]uint16{}, At: Position{r.file, line}}
	if name == "" || ns == "" || strings.Contains(name, "/") {
		r.problem(line, "pod %q has no name, or a wrong one; write name = \"NAMESPACE/NAME\"", cut(f.Name))
	}
	if ok && f.Namespace != "" && f.Namespace != ns {
		r.problem(line, "pod %q is of namespace %q, which its name does not say; write one of them", cut(f.Name), cut(f.Namespace))
	}
	r.labels(line, f.Labels)
	if len(f.Addresses) == 0 {
		r.problem(line, "pod %q has no address; write addresses = [\"...\"]", cut(f.Name))
	}
	for _, text := range f.Addresses {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Is4In6() || a.Zone() != "" {
			r.problem(line, "pod %q has the address %q, want one as in 198.19.0.1 or 2001:2::1", cut(f.Name), cut(text))
			continue
		}
		p.Addresses = append(p.Addresses, a)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Ports)) {
		n := f.Ports[name]
		if !isPortName(name) || n < 1 || n > LastPort {
			r.problem(line, "pod %q has port %q = %d, want a name of 1 to 15 of a-z, 0-9 and -, and 1 to %d", cut(f.Name), cut(name), n, LastPort)
			continue
		}
		p.Ports[name] = uint16(n)
	}
	return p
}

// labels checks the labels of a pod or namespace as Kubernetes does.
func (r *reader) labels(line int, set map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(set)) {
		faults := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(set[k])...)
		if len(faults) > 0 {
			r.problem(line, "label %s=%s: %s", cut(k), cut(set[k]), faults[0])
		}
	}
}

// labelName is the label that every namespace has.
const labelName = "kubernetes.io/metadata.name"

// compile makes the sets of labels that selectors see.
func (p *Pod) compile(namespace map[string]string) {
	p.own = labels.Set(p.Labels)
	p.namespaced = labels.Set{labelName: p.Namespace}
	p.endpoint = labels.Set{labelNamespace: p.Namespace, labelCluster: "default", labelNamespaceLabels + labelName: p.Namespace}
	for k, v := range namespace {
		p.namespaced[k] = v
		p.endpoint[labelNamespaceLabels+k] = v
	}
	for k, v := range p.Labels {
		p.endpoint[k] = v
	}
}

// Pod is the pod of a name, which may leave out the namespace "default".
func (in *Inventory) Pod(name string) (*Pod, error) {
	full := name
	if !strings.Contains(name, "/") {
		full = defaultNamespace + "/" + name
	}
	for i := range in.Pods {
		if in.Pods[i].Name == full {
			return &in.Pods[i], nil
		}
	}
	var known []string
	for _, p := range in.Pods[:min(len(in.Pods), 5)] {
		known = append(known, p.Name)
	}
	return nil, fmt.Errorf("%w: the inventory has no pod %q, but %d others, as %s", ErrInvalid, name, len(in.Pods), either(known))
}

// podAt is the pod of an address, nil if none has it.
func (in *Inventory) podAt(a netip.Addr) *Pod {
	if i, ok := in.at[a]; ok {
		return &in.Pods[i]
	}
	return nil
}

// Moved is the inventory with other addresses for some pods, by name: each then has that
// address alone.
func (in *Inventory) Moved(to map[string]netip.Addr) (*Inventory, error) {
	out := &Inventory{Pods: slices.Clone(in.Pods), at: map[netip.Addr]int{}}
	for i := range out.Pods {
		p := &out.Pods[i]
		if a, moves := to[p.Name]; moves {
			p.Addresses = []netip.Addr{a}
		}
		for _, a := range p.Addresses {
			if other, taken := out.at[a]; taken {
				return nil, fmt.Errorf("%w: %s: address %s of pod %q is one that the testbed gives to pod %q; write another", ErrInvalid,
					p.At, a, out.Pods[min(i, other)].Name, out.Pods[max(i, other)].Name)
			}
			out.at[a] = i
		}
	}
	return out, nil
}

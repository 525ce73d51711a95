package plan

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/catalog"
)

// ownFiles are where a provider's name may be compared: its entry, and the list of
// implementations.
func ownFiles() []string {
	return []string{"analysis/catalog/provider.go", "driver/lab/provider.go"}
}

// TestProvidersAreComparedByCapability: outside their own files nothing compares the
// name of a provider, neither by its constant nor by its text.
func TestProvidersAreComparedByCapability(t *testing.T) {
	root, read := filepath.Join("..", ".."), 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".."):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"), slices.Contains(ownFiles(), filepath.ToSlash(rel)):
			return nil
		}
		read++
		for _, found := range comparedProviders(t, path, nil) {
			t.Errorf("%s compares a provider's name; use a capability of its entry", found)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if read < 100 {
		t.Errorf("only %d files were read", read)
	}
}

func TestComparedProvidersAreFound(t *testing.T) {
	for _, code := range []string{
		`if l.Provider == plan.ProviderLocal {}`, `if "ssh" != env["provider"] {}`, `switch l.Provider { case ProviderLibvirt: }`,
		`switch { case l.Provider == catalog.ProviderSSH: }`, `_ = map[string]int{plan.ProviderLocal: 1}`, `_ = up[ProviderSSH]`,
		`_ = slices.Contains(names, plan.ProviderLocal)`, `_ = strings.EqualFold(name, ProviderLocal)`,
	} {
		if found := comparedProviders(t, "a.go", "package a\nfunc f() { "+code+" }"); len(found) != 1 {
			t.Errorf("%s: found %v, want one", code, found)
		}
	}
	const fine = `package a
func f() { l := Lab{Provider: ProviderLocal}; _ = fmt.Sprintf("write %q", ProviderSSH); _ = l.Capabilities().VMs; _ = []string{"ssh"}; s.Provider = ProviderLibvirt }`
	if found := comparedProviders(t, "a.go", fine); len(found) > 0 {
		t.Errorf("found %v in what compares nothing", found)
	}
}

// comparedProviders lists where a file compares something with a provider's name, or
// finds something by it.
func comparedProviders(t *testing.T, path string, src any) (out []string) {
	t.Helper()
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, path, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		var held []ast.Expr
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if n.Op == token.EQL || n.Op == token.NEQ {
				held = []ast.Expr{n.X, n.Y}
			}
		case *ast.CaseClause:
			held = n.List
		case *ast.IndexExpr:
			held = []ast.Expr{n.Index}
			if _, text := n.Index.(*ast.BasicLit); text {
				held = nil // env["libvirt"] is a key of its own
			}
		case *ast.CompositeLit:
			if _, isMap := n.Type.(*ast.MapType); isMap {
				held = constantKeys(n)
			}
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && slices.Contains([]string{"Contains", "Index", "EqualFold", "Compare", "HasPrefix"}, s.Sel.Name) {
				held = n.Args
			}
		}
		if slices.ContainsFunc(held, namesProvider) {
			out = append(out, fmt.Sprint(files.Position(n.Pos())))
		}
		return true
	})
	return out
}

// constantKeys are a map's keys that are no text.
func constantKeys(m *ast.CompositeLit) (out []ast.Expr) {
	for _, e := range m.Elts {
		pair, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		if _, text := pair.Key.(*ast.BasicLit); !text {
			out = append(out, pair.Key)
		}
	}
	return out
}

// namesProvider says whether an expression is the constant, or the text, of a provider.
func namesProvider(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return slices.Contains([]string{"ProviderLibvirt", "ProviderLocal", "ProviderSSH"}, e.Name)
	case *ast.SelectorExpr:
		return namesProvider(e.Sel)
	case *ast.ParenExpr:
		return namesProvider(e.X)
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		_, known := catalog.ProviderNamed(text)
		return err == nil && known
	}
	return false
}

// withCloud has a provider that there is not, by one entry.
func withCloud(c Catalog, has catalog.Capabilities) Catalog {
	c.Providers = append(catalog.Providers(), catalog.Provider{Name: "cloud", Capabilities: has})
	return c
}

func onProvider(name, keys string) []byte {
	return []byte(strings.Replace(minimal, "[matrix]\n", "[lab]\nprovider = \""+name+"\"\n"+keys+"\n[matrix]\n", 1))
}

// TestOneEntryMakesAProvider: what an experiment may say follows from the entry alone.
func TestOneEntryMakesAProvider(t *testing.T) {
	if _, err := Parse("t.toml", onProvider("cloud", ""), testCatalog()); err == nil || !strings.Contains(err.Error(), `"cloud"`) {
		t.Errorf("a provider that there is not: %v", err)
	}
	bare := withCloud(testCatalog(), catalog.Capabilities{})
	s, err := Parse("t.toml", onProvider("cloud", ""), bare)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Expand(s, bare)
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Cells[0]; c.Get(FactorProvider) != "cloud" || c.Get(FactorKernel) != kernelOfHost || c.Get(FactorEndpoint) != EndpointNetns {
		t.Errorf("a cell of a provider without capabilities is %v", c.Factors)
	}
	for keys, want := range map[string]string{
		"kernel = \"6.1\"":      `is about VMs, and the cloud provider has none; remove it, or write provider = "libvirt"`,
		"clock = \"virtual\"":   `"virtual" needs provider = "libvirt": only the clock of a VM`,
		"endpoint = \"docker\"": `"docker" needs an engine in the node, and cloud nodes are bare namespaces; write "netns", or provider = "libvirt"`,
		"cache = true":          `is about existing machines; remove it, or write provider = "ssh"`,
	} {
		if _, err := Parse("t.toml", onProvider("cloud", keys), bare); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", keys, err, want)
		}
	}
	full := withCloud(testCatalog(), catalog.Capabilities{VMs: true, Engines: true, Outlives: true})
	s, err = Parse("t.toml", onProvider("cloud", "kernel = \"6.1\"\nvcpus = 3"), full)
	if err != nil {
		t.Fatal(err)
	}
	if has := s.Lab.Capabilities(); s.Lab.Endpoint != EndpointDocker || s.Lab.VCPUs != 3 || !has.Outlives || has.Here() {
		t.Errorf("a provider of VMs makes the lab %+v, which has %+v", s.Lab, has)
	}
	if _, err := Parse("t.toml", onProvider("local", "kernel = \"6.1\""), full); err == nil || !strings.Contains(err.Error(), `write provider = "libvirt" or "cloud"`) {
		t.Errorf("with two providers of VMs: %v", err)
	}
}

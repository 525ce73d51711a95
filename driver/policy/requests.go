package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// Requests are those of a method whose path is one, or begins with one. An empty method or
// path is any.
type Requests struct {
	Method, Path string
	Exact        bool // the path is Path, else it begins with it
}

// Example is a path that is admitted.
func (r Requests) Example() string {
	switch {
	case r.Path == "":
		return "/item"
	case r.Exact:
		return r.Path
	}
	return r.Path + "item"
}

// literalMethod and literalPath are texts that mean themselves in the languages of all filters.
var (
	literalMethod = regexp.MustCompile(`^[A-Z]+$`)
	literalPath   = regexp.MustCompile(`^/[A-Za-z0-9/._~:@+,=-]*$`)
)

// Requests is a rule of HTTP without regular expressions, or why it cannot be: Cilium's method
// and path are such expressions (RE2), which must match the whole text.
func (h HTTP) Requests() (out []Requests, why string) {
	switch {
	case h.Host != "":
		return nil, fmt.Sprintf("it names the host %q, and requests here have the server's address; remove host", cut(h.Host))
	case len(h.Headers) > 0:
		return nil, fmt.Sprintf("it names the header %q, which no filter here reads; remove headers", cut(h.Headers[0]))
	}
	path, exact, ok := literal(h.Path)
	if !ok || path != "" && !literalPath.MatchString(path) {
		return nil, fmt.Sprintf("its path %q is a regular expression that filters cannot hold; write a path of letters, digits and /._~:@+,=-, with \".*\" at its end for every path that begins so", cut(h.Path))
	}
	for method := range strings.SplitSeq(h.Method, "|") {
		if h.Method != "" && !literalMethod.MatchString(method) {
			return nil, fmt.Sprintf("its method %q is a regular expression that filters cannot hold; write GET, or GET|HEAD", cut(h.Method))
		}
		out = append(out, Requests{method, path, exact})
	}
	return out, ""
}

// literal is the text that an expression matches alone, or with anything behind it.
func literal(expression string) (text string, exact, ok bool) {
	if expression == "" {
		return "", false, true
	}
	tree, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return "", false, false
	}
	parts := []*syntax.Regexp{tree.Simplify()}
	if parts[0].Op == syntax.OpConcat {
		parts = parts[0].Sub
	}
	exact = true
	for i, p := range parts {
		last := i == len(parts)-1
		switch {
		case p.Op == syntax.OpBeginText && i == 0, p.Op == syntax.OpEndText && last && exact:
		case p.Op == syntax.OpLiteral && p.Flags&syntax.FoldCase == 0 && exact:
			text += string(p.Rune)
		case p.Op == syntax.OpStar && p.Sub[0].Op == syntax.OpAnyCharNotNL && last:
			exact = false
		default:
			return "", false, false
		}
	}
	return text, exact, true
}

// Admits says whether a request is one of the rule's, by its regular expressions; host and
// headers are not looked at.
func (h HTTP) Admits(method, path string) bool {
	return whole(h.Method, method) && whole(h.Path, path)
}

func whole(expression, text string) bool {
	if expression == "" {
		return true
	}
	e, err := regexp.Compile(`^(?:` + expression + `)$`)
	return err == nil && e.MatchString(text)
}

// AdmitsRequest says whether a request on the connection is admitted, too.
func (d Decision) AdmitsRequest(method, path string) bool {
	if !d.Allowed || d.HTTP == nil {
		return d.Allowed
	}
	for _, h := range d.HTTP {
		if h.Admits(method, path) {
			return true
		}
	}
	return false
}

// problem is what is wrong with a rule of HTTP, "" for nothing.
func (h HTTP) problem() string {
	for _, f := range [][2]string{{"method", h.Method}, {"path", h.Path}, {"host", h.Host}} {
		if _, err := regexp.Compile(f[1]); err != nil {
			return fmt.Sprintf("%s %q is no regular expression: %v", f[0], cut(f[1]), err)
		}
	}
	return ""
}

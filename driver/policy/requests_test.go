package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestRulesOfHTTPWithoutExpressions: what is written without regular expressions admits the
// same requests, and what cannot be is named.
func TestRulesOfHTTPWithoutExpressions(t *testing.T) {
	paths := []string{"/", "/public", "/public/", "/public/x", "/publicx", "/public?x=1", "/publiX", "/a.b", "/aXb", "/secret"}
	for _, tt := range []struct {
		rule HTTP
		want []Requests
	}{
		{HTTP{}, []Requests{{}}},
		{HTTP{Method: "GET"}, []Requests{{Method: "GET"}}},
		{HTTP{Path: "/public"}, []Requests{{"", "/public", true}}},
		{HTTP{Method: "GET", Path: "/public"}, []Requests{{"GET", "/public", true}}},
		{HTTP{Method: "GET|POST", Path: "/public/.*"}, []Requests{{"GET", "/public/", false}, {"POST", "/public/", false}}},
		{HTTP{Method: "GET", Path: "^/public$"}, []Requests{{"GET", "/public", true}}},
		{HTTP{Method: "GET", Path: `/a\.b`}, []Requests{{"GET", "/a.b", true}}},
		{HTTP{Method: "GET", Path: ".*"}, []Requests{{"GET", "", false}}},
	} {
		got, why := tt.rule.Requests()
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %+v, want %+v (%s)", tt.rule, got, tt.want, why)
		}
		for _, path := range paths {
			for _, method := range []string{"GET", "POST", "PUT"} {
				admitted := slices.ContainsFunc(got, func(r Requests) bool {
					return (r.Method == "" || r.Method == method) && (r.Exact && path == r.Path || !r.Exact && strings.HasPrefix(path, r.Path))
				})
				if admitted != tt.rule.Admits(method, path) {
					t.Errorf("%+v, %s %s: %v, by the expressions %v", tt.rule, method, path, admitted, !admitted)
				}
			}
		}
	}
	for _, tt := range []struct {
		rule HTTP
		want string
	}{
		{HTTP{Path: "/a.b"}, "regular expression"},
		{HTTP{Path: "/(a|b)"}, "regular expression"},
		{HTTP{Path: "/a.*b"}, "regular expression"},
		{HTTP{Path: "(?i)/a"}, "regular expression"},
		{HTTP{Path: "/a b"}, "regular expression"},
		{HTTP{Path: "public"}, "regular expression"},
		{HTTP{Method: "G.T"}, "method"},
		{HTTP{Host: "x"}, "host"},
		{HTTP{Headers: []string{"X-Y"}}, "header"},
	} {
		if got, why := tt.rule.Requests(); len(got) > 0 || !strings.Contains(why, tt.want) {
			t.Errorf("%+v: %+v, %q, want a reason with %q", tt.rule, got, why, tt.want)
		}
	}
}

// TestRulesOfHTTPThatAreNone: a wrong expression is a problem of its line.
func TestRulesOfHTTPThatAreNone(t *testing.T) {
	const text = `[{"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "80"}],
"rules": {"http": [{"method": "GET", "path": %q}]}}]}]}]`
	if _, err := Read("p.json", fmt.Appendf(nil, text, "/a.*")); err != nil {
		t.Error(err)
	}
	_, err := Read("p.json", fmt.Appendf(nil, text, "/a("))
	if err == nil || !strings.Contains(err.Error(), "p.json:2: path \"/a(\" is no regular expression") {
		t.Errorf("got %v, want a problem of line 2", err)
	}
}

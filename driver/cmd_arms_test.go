package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	words "hookbed/analysis/catalog"
	"hookbed/driver/plan"
)

// TestArmsGoWhereTheySay: what the offer says of where a filter can be measured is what the
// loader says of an experiment with that arm.
func TestArmsGoWhereTheySay(t *testing.T) {
	cat := anywhere()
	places, refused := 0, 0
	for _, f := range cat.Offer().Filters {
		if f.Name == "custom" {
			continue // it needs files, which the loader looks into
		}
		for _, p := range f.Places {
			places++
			_, err := plan.Parse("x.toml", []byte(experimentOf(f, p)), cat)
			if (err == nil) != (p.Why == "") {
				t.Errorf("%s on %s, %s, %s clock: the offer says %q, the loader %v", f.Name, p.Fabric, p.Scenario, p.Clock, p.Why, err)
			}
			if err != nil {
				refused++
				if !strings.Contains(err.Error(), p.Why) {
					t.Errorf("%s on %s: the loader does not say %q, but %v", f.Name, p.Fabric, p.Why, err)
				}
			}
		}
	}
	if places < 300 || refused < 50 || refused > places/2 {
		t.Errorf("%d places, %d of them refused", places, refused)
	}
}

// anywhere is the catalog without what depends on this computer.
func anywhere() plan.Catalog {
	cat := catalog()
	cat.Here, cat.Sealed, cat.Image = nil, nil, nil
	return cat
}

func experimentOf(f plan.OfferedFilter, p plan.Place) string {
	workload, n, more := "TCP_RR", 10, ""
	if f.Name == "cilium" {
		more = "cilium_image = \"x\"\n"
	}
	if strings.HasPrefix(f.Name, "l7-") {
		workload = "HTTP"
	}
	return fmt.Sprintf("schema = 1\nname = \"x\"\n[lab]\nclock = %q\nendpoint = %q\nmemory = \"64GiB\"\n[measure]\ncount = { %s = 100 }\n[matrix]\nscenarios = [%q]\nworkloads = [%q]\npolicies = [%d]\n[[arm]]\nname = \"a\"\nfilter = %q\nfabric = %q\n%s",
		p.Clock, p.Endpoint, workload, p.Scenario, workload, n, f.Name, p.Fabric, more)
}

var releaseInDoc = regexp.MustCompile(`\((?:Linux )?(\d+\.\d+)\)`)

// TestOfferIsComplete: everything has words, and a release that an option's words name is one
// that the offer names.
func TestOfferIsComplete(t *testing.T) {
	cat := catalog()
	o := cat.Offer()
	for _, f := range o.Filters {
		if f.Doc == "" || f.Since == "" || (f.Mechanism != "") != (f.Hook != "") && f.External == "" && f.Name != "custom" {
			t.Errorf("filter %+v lacks words", f)
		}
		if len(f.FabricsOf()) == 0 {
			t.Errorf("filter %s goes nowhere", f.Name)
		}
		for _, key := range f.Options {
			if !slices.ContainsFunc(o.Options, func(x plan.OfferedOption) bool { return x.Key == key && slices.Contains(x.Filters, f.Name) }) {
				t.Errorf("filter %s has the option %s, which nothing describes", f.Name, key)
			}
		}
	}
	named := 0
	for _, x := range o.Options {
		if x.Doc == "" || !slices.Contains(words.Roles(), x.Role) || len(x.Fabrics) == 0 || len(x.Filters) == 0 {
			t.Errorf("option %+v lacks words", x)
		}
		for _, m := range releaseInDoc.FindAllStringSubmatch(x.Doc, -1) {
			named++
			if m[1] != cat.Kernels[0] && !slices.ContainsFunc(x.Levels, func(l plan.OfferedLevel) bool { return l.Since == m[1] }) {
				t.Errorf("option %s: its words name Linux %s, and no level does: %v", x.Key, m[1], x.Levels)
			}
		}
	}
	if named < 3 {
		t.Errorf("words name %d releases", named)
	}
	for _, w := range o.Workloads {
		if w.Doc == "" || w.Tool == "" || w.Work == "" || len(w.Headline) == 0 {
			t.Errorf("workload %+v lacks words", w)
		}
	}
	for _, name := range o.Names() {
		var text strings.Builder
		describeArms(&text, o, name)
		if !strings.Contains(text.String(), name) {
			t.Errorf("nothing is said of %s", name)
		}
	}
}

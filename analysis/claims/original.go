package claims

import (
	"maps"
	"strings"

	"hookbed/analysis/catalog"
)

// own is the source of claims that are hookbed's.
const own = "hookbed"

// OfOriginals are the study's claims about an arm of hookbed that was made like another project's
// filter, said of that filter: one for each such filter of a catalog. What the study measured was
// the filter itself.
func OfOriginals(list []Claim, words catalog.Catalog) []Claim {
	var out []Claim
	for _, f := range words.Filters {
		if f.Model == nil {
			continue
		}
		model := map[string]string{catalog.FactorFabric: f.Model.Fabric, catalog.FactorFilter: f.Model.Filter}
		original := map[string]string{catalog.FactorFilter: f.Name}
		for _, c := range list {
			a, b := maps.Equal(c.A, model), maps.Equal(c.B, model)
			if strings.HasPrefix(c.Source, own) || !a && !b {
				continue
			}
			if a {
				c.A = original
			}
			if b {
				c.B = original
			}
			c.ID += "-" + f.Name
			c.Source += ", of " + f.External + " itself"
			out = append(out, c)
		}
	}
	return out
}

package plan

import (
	"maps"
	"strings"
	"testing"
)

// tunnelCatalog has an option that came later, and one that needs it.
func tunnelCatalog() Catalog {
	c := testCatalog()
	c.Datapaths[1].Options = append(c.Datapaths[1].Options,
		Option{Key: "overlay", Allowed: []string{"none", "vxlan"}, Silent: true},
		Option{Key: "udpcsum", Allowed: []string{"on", "off"}, Needs: Level{"overlay", "vxlan"}})
	return c
}

func optionsOf(t *testing.T, arm string) (map[string]string, error) {
	t.Helper()
	text := "schema = 1\nname = \"t\"\n[matrix]\nscenarios = [\"multi-host\"]\nworkloads = [\"TCP_RR\"]\npolicies = [0]\n" +
		"[[arm]]\nname = \"a\"\ndatapath = \"iptables\"\n" + arm
	s, err := Parse("t.toml", []byte(text), tunnelCatalog())
	if err != nil {
		return nil, err
	}
	return s.Arms[0].Options, nil
}

// TestSilentOptions: an option at its default leaves the cell as it was before
// there was such an option, written or not; and what means nothing is refused.
func TestSilentOptions(t *testing.T) {
	plain := map[string]string{"state": "as-study", "placement": "input"}
	with := func(more map[string]string) map[string]string {
		out := maps.Clone(plain)
		maps.Copy(out, more)
		return out
	}
	for arm, want := range map[string]map[string]string{
		"":                                       plain,
		"overlay = \"none\"":                     plain,
		"overlay = \"vxlan\"":                    with(map[string]string{"overlay": "vxlan", "udpcsum": "on"}),
		"udpcsum = \"off\"\noverlay = \"vxlan\"": with(map[string]string{"overlay": "vxlan", "udpcsum": "off"}),
	} {
		got, err := optionsOf(t, arm)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: options %v, %v, want %v", arm, got, err, want)
		}
	}
	for arm, want := range map[string]string{
		"udpcsum = \"on\"":                       "t.toml:10: arm.udpcsum: means nothing without overlay = \"vxlan\"; write that, or remove it",
		"udpcsum = \"off\"\noverlay = \"none\"":  "t.toml:10: arm.udpcsum: means nothing without",
		"overlay = \"geneve\"":                   `want "none" or "vxlan"`,
		"overlay = \"vxlan\"\nudpcsum = \"yes\"": `want "on" or "off"`,
	} {
		if _, err := optionsOf(t, arm); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", arm, err, want)
		}
	}
}

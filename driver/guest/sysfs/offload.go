package sysfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/safchain/ethtool"
)

// featureGroups are the names of `ethtool -K` that mean one or more of
// the kernel's features; a trailing "*" matches any ending.
func featureGroups() map[string][]string {
	short := map[string]string{
		"rx-checksumming": "rx", "tx-checksumming": "tx", "scatter-gather": "sg",
		"tcp-segmentation-offload": "tso", "generic-segmentation-offload": "gso",
		"generic-receive-offload": "gro", "large-receive-offload": "lro",
		"rx-vlan-offload": "rxvlan", "tx-vlan-offload": "txvlan",
		"ntuple-filters": "ntuple", "receive-hashing": "rxhash",
	}
	groups := map[string][]string{
		"rx": {"rx-checksum"}, "tx": {"tx-checksum-*"}, "sg": {"tx-scatter-gather", "tx-scatter-gather-fraglist"},
		"tso": {"tx-tcp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation", "tx-tcp6-segmentation"},
		"gso": {"tx-generic-segmentation"}, "gro": {"rx-gro"}, "lro": {"rx-lro"},
		"rxvlan": {"rx-vlan-hw-parse"}, "txvlan": {"tx-vlan-hw-insert"},
		"ntuple": {"rx-ntuple-filter"}, "rxhash": {"rx-hashing"},
	}
	for long, s := range short {
		groups[long] = groups[s]
	}
	return groups
}

// MatchFeatures lists the features of a device that a name means, sorted.
func MatchFeatures(name string, have map[string]ethtool.FeatureState) []string {
	patterns, ok := featureGroups()[name]
	if !ok {
		patterns = []string{name}
	}
	var out []string
	for _, f := range slices.Sorted(maps.Keys(have)) {
		for _, p := range patterns {
			prefix, wild := strings.CutSuffix(p, "*")
			if f == p || wild && strings.HasPrefix(f, prefix) {
				out = append(out, f)
			}
		}
	}
	return out
}

// FeatureChange lists what to request of the device for name to be on or off:
// every feature of the group that the device lets be changed.
func FeatureChange(name string, on bool, have map[string]ethtool.FeatureState) map[string]bool {
	change := map[string]bool{}
	for _, f := range MatchFeatures(name, have) {
		if s := have[f]; s.Available && !s.NeverChanged {
			change[f] = on
		}
	}
	return change
}

// offloadIs reports whether a name reads as wanted: a group is on when any of
// its features is, like ethtool shows it.
func offloadIs(name string, on bool, have map[string]ethtool.FeatureState) bool {
	active := false
	for _, f := range MatchFeatures(name, have) {
		active = active || have[f].Active
	}
	return active == on
}

// ChangeFeatures sets kernel features of a link of the thread's namespace.
func ChangeFeatures(dev string, features map[string]bool) error {
	et, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool: %w", err)
	}
	defer et.Close()
	return et.Change(dev, features)
}

// FeaturesNotAs lists the names that do not read as wanted, sorted.
func FeaturesNotAs(want map[string]bool, have map[string]ethtool.FeatureState) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !offloadIs(name, want[name], have) {
			out = append(out, name)
		}
	}
	return out
}

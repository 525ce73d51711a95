package ruleset

import "testing"

// TestSnapshotWithout: what another program added goes, in an order that nft takes, and what was
// there stays.
func TestSnapshotWithout(t *testing.T) {
	parse := func(text string) Snapshot {
		objects, err := parseNftObjects([]byte(`{"nftables":[` + text + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		return snapshotOf(objects)
	}
	const own = `{"metainfo":{"version":"1"}},{"table":{"family":"ip","name":"filter"}},{"chain":{"family":"ip","table":"filter","name":"INPUT"}},
		{"rule":{"family":"ip","table":"filter","chain":"INPUT","handle":4}}`
	const added = `,{"chain":{"family":"ip","table":"filter","name":"NEW"}},{"rule":{"family":"ip","table":"filter","chain":"INPUT","handle":9}},
		{"rule":{"family":"ip","table":"filter","chain":"NEW","handle":5}},
		{"table":{"family":"ip6","name":"raw"}},{"chain":{"family":"ip6","table":"raw","name":"NEW"}},{"rule":{"family":"ip6","table":"raw","chain":"NEW","handle":4}}`
	before := parse(own)
	const want = "flush chain ip filter NEW\ndelete rule ip filter INPUT handle 9\ndelete chain ip filter NEW\ndelete table ip6 raw\n"
	if got := before.without(parse(own + added)); got != want {
		t.Errorf("the script is\n%s\nwant\n%s", got, want)
	}
	if got := before.without(before); got != "" {
		t.Errorf("of nothing new the script is %q", got)
	}
}

package ruleset

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// handleText is the placeholder of a rule's handle: family, table and
// chain, and the rule's comment.
var handleText = regexp.MustCompile(`\{handle:(\w+) (\w+) (\w+) ([^{}]+)\}`)

// FillHandles replaces the placeholders of a file for nft by the handles of rules, as the
// kernel numbers them now.
func FillHandles(ctx context.Context, data []byte) ([]byte, error) {
	var failed error
	out := handleText.ReplaceAllFunc(data, func(text []byte) []byte {
		m := handleText.FindStringSubmatch(string(text))
		handle, err := findHandle(ctx, m[1], m[2], m[3], m[4])
		failed = errors.Join(failed, err)
		return strconv.AppendUint(nil, handle, 10)
	})
	return out, failed
}

// findHandle finds the one rule of a chain with a comment.
func findHandle(ctx context.Context, family, table, chain, comment string) (uint64, error) {
	objects, err := listNft(ctx, "chain", family, table, chain)
	if err != nil {
		return 0, err
	}
	var handles []uint64
	for _, o := range objects {
		if o.Rule != nil && o.Rule.Comment == comment {
			handles = append(handles, o.Rule.Handle)
		}
	}
	if len(handles) != 1 {
		return 0, fmt.Errorf("chain %s %s %s has %d rules with the comment %q, want one", family, table, chain, len(handles), comment)
	}
	return handles[0], nil
}

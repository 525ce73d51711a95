package rundir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"

	"hookbed/analysis/runs"
	"hookbed/driver/plan"
)

// ErrShard is wrapped by errors about a shard that does not exist.
var ErrShard = errors.New("no such shard")

const shardFile = "shard.json"

// Shard is part I of N of a plan: block b belongs to shard (b-1) mod N + 1, so
// that every shard has blocks from all of the run. The zero value is the whole plan.
type Shard struct {
	I int `json:"shard"` // 1-based
	N int `json:"of"`
}

var shardText = regexp.MustCompile(`^([0-9]{1,6})/([0-9]{1,6})$`)

// ParseShard reads "2/3"; "" is the whole plan. Its error wraps ErrShard.
func ParseShard(text string) (Shard, error) {
	if text == "" {
		return Shard{}, nil
	}
	m := shardText.FindStringSubmatch(text)
	if m == nil {
		return Shard{}, fmt.Errorf("%w: %q, want i/n, as in 1/3", ErrShard, text)
	}
	i, _ := strconv.Atoi(m[1])
	n, _ := strconv.Atoi(m[2])
	if i < 1 || i > n {
		return Shard{}, fmt.Errorf("%w: %q, want 1/%d to %d/%d", ErrShard, text, max(n, 1), max(n, 1), max(n, 1))
	}
	return Shard{I: i, N: n}, nil
}

func (s Shard) String() string {
	if s.whole() {
		return "the whole plan"
	}
	return fmt.Sprintf("shard %d/%d", s.I, s.N)
}

func (s Shard) whole() bool { return s.N == 0 }

// Has reports whether a block belongs to the shard.
func (s Shard) Has(block int) bool { return s.whole() || (block-1)%s.N+1 == s.I }

// Check refuses a shard that the plan cannot have; its error wraps ErrShard.
func (s Shard) Check(p *plan.Plan) error {
	blocks := p.Spec.Measure.Blocks
	switch {
	case s.whole():
		return nil
	case s.N > blocks:
		return fmt.Errorf("%w: %d/%d, and the plan has %d blocks, which are not parted; want at most %d shards", ErrShard, s.I, s.N, blocks, blocks)
	case p.Spec.Measure.Stop != nil:
		return fmt.Errorf("%w: the rule that ends cells early sees the trials of all blocks, so a run with measure.stop cannot be parted", ErrShard)
	}
	return nil
}

// readShard reads which shard a run directory holds; the whole plan if it has no
// shard.json.
func readShard(dir string) (Shard, error) {
	path := filepath.Join(dir, shardFile)
	data, err := runs.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Shard{}, nil
	}
	if err != nil {
		return Shard{}, err
	}
	var s Shard
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read %s: %w", path, err)
	}
	if s.N < 1 || s.I < 1 || s.I > s.N {
		return s, fmt.Errorf("read %s: %w: %d/%d", path, ErrShard, s.I, s.N)
	}
	return s, nil
}

func writeShard(dir string, s Shard) error {
	if s.whole() {
		return nil
	}
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode shard: %w", err)
	}
	return writeFile(filepath.Join(dir, shardFile), append(data, '\n'))
}

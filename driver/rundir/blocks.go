package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"hookbed/analysis/runs"
)

// blocksDir holds what each sealed guest wrote, one file per block.
const blocksDir = "blocks"

func (d *Dir) blockPath(number int) string {
	return filepath.Join(d.path, blocksDir, strconv.Itoa(number)+".jsonl")
}

// SaveBlock keeps, synced, the results of a sealed guest that executed its whole
// block, so that its rows can still be made after this process was killed.
func (d *Dir) SaveBlock(number int, data []byte) error {
	if err := makeDir(filepath.Join(d.path, blocksDir)); err != nil {
		return err
	}
	return writeFile(d.blockPath(number), data)
}

// LoadBlock returns the results saved for a block; ok is false if there are none.
func (d *Dir) LoadBlock(number int) (data []byte, ok bool, err error) {
	data, err = runs.ReadFile(d.blockPath(number))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read results of block %d: %w", number, err)
	}
	return data, true, nil
}

//go:build vm

package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// instructions are the counts of a run by "program/N/match", and its file.
func (r *vmRig) instructions(run string) (map[string]int, []byte) {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, run, "instructions.csv"))
	if err != nil {
		r.t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]int{}
	for _, row := range rows[1:] {
		n, err := strconv.Atoi(row[8])
		if err != nil {
			r.t.Errorf("%s: %v has no count", run, row)
		}
		out[fmt.Sprintf("%s/%s/%s", row[0], row[3], row[4])] = n
	}
	return out, data
}

// TestVMCostCounts is the promise of counting: the same bytes on a computer left alone and on one that
// is overloaded, and a list that grows by exactly as many instructions for each policy, and for
// each block of sixteen.
func TestVMCostCounts(t *testing.T) {
	if !apart(t) {
		return
	}
	r := newVMRig(t)
	before := machineState(t)
	count := func(out string) {
		r.run("cost", "--clock", "virtual", "--programs", "tc-linear,xdp-hash", "--policies", "1,2,3,17,33,100", "--out", out)
	}
	count("alone")
	stop := r.hog()
	count("crowded")
	stop()
	r.expectSame(before)
	alone, data := r.instructions("alone")
	if _, crowded := r.instructions("crowded"); !bytes.Equal(data, crowded) {
		t.Errorf("two runs differ:\n%s\n%s", data, crowded)
	}

	for _, match := range []string{"last", "none"} {
		at := func(n int) int { return alone[fmt.Sprintf("tc-linear/%d/%s", n, match)] }
		rule, block := at(2)-at(1), at(17)-at(1)
		if rule <= 0 || at(3)-at(2) != rule {
			t.Errorf("match %s: a second policy takes %d instructions more, a third %d", match, rule, at(3)-at(2))
		}
		if block <= 16*rule || at(33)-at(17) != block {
			t.Errorf("match %s: sixteen policies take %d instructions more, sixteen further ones %d; each of a block %d", match, block, at(33)-at(17), rule)
		}
		// Of 99 policies more, six begin a block.
		if want := at(1) + 99*rule + 6*(block-16*rule); at(100) != want {
			t.Errorf("match %s: 100 policies take %d instructions, want %d", match, at(100), want)
		}
	}
	for _, n := range []int{2, 3, 17, 33, 100} {
		if first, one := alone[fmt.Sprintf("tc-linear/%d/first", n)], alone["tc-linear/1/first"]; first != one {
			t.Errorf("the first of %d policies takes %d instructions, the only one %d", n, first, one)
		}
	}
	if least := alone["xdp-hash/1/last"]; least <= 0 {
		t.Errorf("a hash takes %d instructions", least)
	}
}

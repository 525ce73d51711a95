package main

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hookbed/analysis/durable"
	"hookbed/analysis/history"
	"hookbed/analysis/pack"
	"hookbed/analysis/runs"
)

// Files of a directory of nights (docs/nightly.md).
const (
	historyFile  = "HISTORY.csv"
	baselineName = "baseline"
	trendPage    = "trend.html"
	trendTable   = "trend.csv"
)

type historyFlags struct {
	out string
	opt history.Options
}

func (a *app) historyCommand() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "history DIR",
		Short: "Show how numbers moved from night to night, and when they changed",
		Long: `History reads the packs and the HISTORY.csv that "make nightly" keeps in a directory - or
any packs of one experiment, in the order of their names - and finds for each cell the
nights at which its headline metric changed. It prints a table and writes trend.html,
which is self-contained, and trend.csv.

In virtual time every difference is a change, and exact. On wall clocks changes are
found by Pettitt's test (1979) with permutations and binary segmentation; --level bounds
the share of false ones (Benjamini and Hochberg 1995). What cannot be told from noise is
no change. A change by more than --margin is marked.`,
		Example: `  driver history runs/nightly
  driver history runs/nightly --out site --margin 0.05
  driver history runs/nightly --json`,
		Args: exactly(1, "a directory of packs"),
		RunE: func(_ *cobra.Command, args []string) error {
			if !(f.opt.Margin > 0) || !(f.opt.Level > 0 && f.opt.Level < 1) {
				return fmt.Errorf("%w: --margin %g and --level %g, want shares above 0, the level below 1", errUsage, f.opt.Margin, f.opt.Level)
			}
			return a.history(args[0], f)
		},
	}
	cmd.Flags().StringVarP(&f.out, "out", "o", "", "where to write trend.html and trend.csv (default: DIR)")
	cmd.Flags().Float64Var(&f.opt.Margin, "margin", history.DefaultMargin, "how far a number may move and still be the same")
	cmd.Flags().Float64Var(&f.opt.Level, "level", history.DefaultLevel, "on wall clocks, the allowed share of false ones among the cells that changed")
	cmd.Flags().Uint64Var(&f.opt.Seed, "seed", 0, "of the permutations")
	return cmd
}

func (a *app) history(dir string, f historyFlags) error {
	nights, name, err := a.readNights(dir)
	if err != nil {
		return err
	}
	h := history.Make(nights, f.opt)
	out := f.out
	if out == "" {
		out = dir
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("write the history: %w", err)
	}
	if err := writeMade(filepath.Join(out, trendPage), func(w io.Writer) error { return h.Page(w, name) }); err != nil {
		return err
	}
	if err := writeMade(filepath.Join(out, trendTable), h.CSV); err != nil {
		return err
	}
	var shown error
	a.emit("history", h, func(w io.Writer) {
		shown = h.Text(w)
		fmt.Fprintln(w, filepath.Join(out, trendPage))
	})
	return shown
}

// writeMade replaces a file by what is made, whole or not at all.
func writeMade(file string, make func(io.Writer) error) error {
	var b bytes.Buffer
	if err := make(&b); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return durable.WriteFile(file, b.Bytes(), 0o644)
}

// dated is the name of a night's pack.
var dated = regexp.MustCompile(`^\d{8}T\d{6}Z$`)

// readNights reads the nights of a directory, in their order, and the experiment's name.
func (a *app) readNights(dir string) (nights []*history.Night, name string, err error) {
	nights, err = recordedNights(filepath.Join(dir, historyFile))
	if err != nil {
		return nil, "", err
	}
	packs, err := packsOf(dir, len(nights) > 0)
	if err != nil {
		return nil, "", err
	}
	byName := map[string]*history.Night{}
	for _, n := range nights {
		byName[n.Name] = n
	}
	base, remove, err := durable.Scratch("history")
	if err != nil {
		return nil, "", fmt.Errorf("read the nights: %w", err)
	}
	defer func() { _ = remove() }() // what stays, the next call removes
	var last *runs.Run
	for _, p := range packs {
		r, err := openNight(filepath.Join(dir, p+pack.Extension), filepath.Join(base, p))
		if err != nil {
			return nil, "", err
		}
		n := byName[p]
		if n == nil {
			n = &history.Night{Name: p, Revision: r.Env["hookbed_revision"]}
			nights = append(nights, n)
		}
		if last != nil && last.Clock() != r.Clock() {
			return nil, "", fmt.Errorf("%w: %s is on the %s clock, the packs before it are not: no history has both", errUsage, p, r.Clock())
		}
		if err := n.Read(r); err != nil {
			return nil, "", err
		}
		if last != nil {
			n.Environment = runs.Unlike(*last, r)
		}
		if last, name = &r, r.Name; r.Plan != nil && r.Plan.Spec.Name != "" {
			name = r.Plan.Spec.Name
		}
	}
	if last == nil {
		return nil, "", fmt.Errorf("%w: %s has no packs (NAME%s); `driver pack` and `make nightly` make them", errUsage, dir, pack.Extension)
	}
	slices.SortStableFunc(nights, func(x, y *history.Night) int { return cmp.Compare(place(x.Name), place(y.Name)) })
	return nights, name, nil
}

// place orders nights by name; the baseline is the first of all.
func place(name string) string {
	if name == baselineName {
		return ""
	}
	return name
}

// openNight checks a pack's digests and reads its run.
func openNight(file, dir string) (runs.Run, error) {
	_, err := pack.Open(file, dir)
	if errors.Is(err, pack.ErrDamaged) {
		return runs.Run{}, fmt.Errorf("%w: %w", errNotReproduced, err)
	}
	if err != nil {
		return runs.Run{}, err
	}
	all, err := runs.Load(dir)
	if err != nil {
		return runs.Run{}, err
	}
	return all[0], os.RemoveAll(dir)
}

// packsOf are the names of the packs of a directory, in order. Where nights are recorded, their packs
// and the baseline count, and no other; the baseline only if it is not a pack of a night, too.
func packsOf(dir string, recorded bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the nights: %w", err)
	}
	var out []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), pack.Extension)
		if ok && (!recorded || dated.MatchString(name) || name == baselineName) {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, func(x, y string) int { return cmp.Compare(place(x), place(y)) })
	if len(out) < 2 || out[0] != baselineName {
		return out, nil
	}
	base, err := os.ReadFile(filepath.Join(dir, baselineName+pack.Extension))
	for _, name := range out[1:] {
		if err != nil {
			return nil, fmt.Errorf("read the nights: %w", err)
		}
		var other []byte
		if other, err = os.ReadFile(filepath.Join(dir, name+pack.Extension)); bytes.Equal(base, other) {
			return out[1:], nil
		}
	}
	return out, err
}

// recordedNights are the lines of HISTORY.csv; none without the file.
func recordedNights(file string) ([]*history.Night, error) {
	data, err := runs.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the nights: %w", err)
	}
	lines, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	var out []*history.Night
	for i, l := range lines {
		if i == 0 {
			continue
		}
		if len(l) < 3 || !dated.MatchString(l[0]) {
			return nil, fmt.Errorf("read %s: line %d is %q, want one that begins with date,revision,verdict", file, i+1, strings.Join(l, ","))
		}
		out = append(out, &history.Night{Name: l[0], Date: l[0], Revision: l[1], Verdict: l[2]})
	}
	return out, nil
}

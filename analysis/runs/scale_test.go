package runs_test

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
)

// large is a run of many trials of few cells.
func large(t testing.TB, trials int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s := runstest.Small()
	s.Trials, s.Spoil = trials, nil
	s.Write(t, dir)
	return dir
}

// kept is how many bytes of memory a run keeps for each measurement.
func kept(t testing.TB, dir string) float64 {
	t.Helper()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	all, err := runs.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	all[0].Plan = nil // has the trials that are planned
	runtime.GC()
	runtime.ReadMemStats(&after)
	out := float64(after.HeapAlloc-before.HeapAlloc) / float64(all[0].Rows)
	runtime.KeepAlive(all)
	return out
}

// TestRowsAreKeptAsNumbers: a measurement has a line of some 200 bytes, and takes few in
// memory: its number, and its share of what a trial has.
func TestRowsAreKeptAsNumbers(t *testing.T) {
	if bytes := kept(t, large(t, 200)); bytes > 40 {
		t.Errorf("%.1f bytes of memory a measurement, want at most 40", bytes)
	}
}

// BenchmarkLoad compares reading a run with reading and hashing its rows.csv.
func BenchmarkLoad(b *testing.B) {
	dir := large(b, 1000)
	for range b.N {
		start := time.Now()
		f, err := os.Open(filepath.Join(dir, runs.RowsFile))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(sha256.New(), f); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		hashed := time.Since(start)
		start = time.Now()
		if _, err := runs.Load(dir); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(start).Seconds()/hashed.Seconds(), "load/hash")
		b.ReportMetric(kept(b, dir)/8, "kept/number")
	}
}

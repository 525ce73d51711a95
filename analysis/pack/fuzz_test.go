package pack

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// FuzzOpen: whatever a pack's bytes are, what is unpacked are regular files inside the directory, of
// bounded size.
func FuzzOpen(f *testing.F) {
	file := filepath.Join(f.TempDir(), "p")
	whole := []source{{File{Path: "plan.json", Size: 2, SHA256: "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}, filepath.Join(f.TempDir(), "plan.json")}}
	if err := os.WriteFile(whole[0].from, []byte("{}"), 0o600); err != nil {
		f.Fatal(err)
	}
	for _, m := range []Manifest{{Schema: Schema, Run: "r", PlanSHA256: whole[0].SHA256, Clock: "wall", Files: []File{whole[0].File}}, {Schema: Schema}, {Schema: 9}} {
		if err := writeArchive(file, m, whole); err != nil {
			f.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		pack, dir := filepath.Join(base, "p"), filepath.Join(base, "deep", "run")
		if err := os.WriteFile(pack, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = Open(pack, dir)
		total := int64(0)
		err := filepath.WalkDir(base, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || path == pack {
				return err
			}
			info, err := e.Info()
			if rel, relErr := filepath.Rel(dir, path); relErr != nil || !filepath.IsLocal(rel) || !e.Type().IsRegular() {
				t.Errorf("%s was unpacked", path)
			}
			total += info.Size()
			return err
		})
		if most := int64(freeSize + maxRatio*len(data)); err != nil || total > most {
			t.Errorf("%d bytes of %d, %v", total, len(data), err)
		}
	})
}

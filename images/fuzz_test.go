package images

import "testing"

// FuzzParseLock: a lock that is read has whole digests, and paths that stay on a mirror.
func FuzzParseLock(f *testing.F) {
	for _, name := range []string{lockEndpoint, lockKernelPrefix + DefaultKernel} {
		data, err := recipes.ReadFile("locks/" + name + ".lock")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("suite trixie\npackage a 1 ../../x 0 0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseLock("f", data)
		if err != nil {
			return
		}
		for _, p := range l.Packages {
			if len(p.SHA256) != 64 || p.Name == "" {
				t.Errorf("%+v", p)
			}
		}
	})
}

package claims

import "testing"

// FuzzParse: claims that are read have an ID of their own.
func FuzzParse(f *testing.F) {
	f.Add(study)
	f.Add([]byte("schema = 1\n[[claim]]\nid = 3\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Parse(data)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, c := range list {
			if seen[c.ID] {
				t.Errorf("%q is there twice", c.ID)
			}
			seen[c.ID] = true
		}
	})
}

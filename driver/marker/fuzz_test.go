package marker

import "testing"

// FuzzParse: a marker that is read is written so that it is read again.
func FuzzParse(f *testing.F) {
	f.Add(New("r1", "anna on a computer").Text())
	f.Add(Head + "\ntoken abcdefghijklmnop\nmade yes\nlab a\rb\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(m.Text()); err != nil || again.Token != m.Token || again.Made != m.Made {
			t.Errorf("%+v is read as %+v, %v", m, again, err)
		}
	})
}

package plan

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// customCatalog has one datapath with keys for a file and a word.
func customCatalog() Catalog {
	return Catalog{
		Datapaths: []DatapathEntry{{Name: "own", Fabric: "bridge", Filter: "custom", Protocols: []string{"tcp"}, Keys: []FreeKey{
			{Key: "apply", File: true, Doc: "a script"}, {Key: "program", Default: "main", Doc: "a word"},
		}}},
		Workloads: []WorkloadEntry{{Name: "TCP_RR", Protocol: "tcp"}},
	}
}

func customFile(t *testing.T, arm string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "own.toml")
	text := "schema = 1\nname = \"own\"\n[lab]\nprovider = \"local\"\n[measure]\nblocks = 1\ntrials = 1\n[matrix]\n" +
		"scenarios = [\"localhost\"]\nworkloads = [\"TCP_RR\"]\npolicies = [1]\n[[arm]]\nname = \"a\"\ndatapath = \"own\"\n" + arm + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFilesOfAnArmBecomeThePlans(t *testing.T) {
	file := customFile(t, `apply = "s/a.sh"`)
	script := filepath.Join(filepath.Dir(file), "s", "a.sh")
	if err := os.Mkdir(filepath.Dir(script), 0o700); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, text := range []string{"one", "two", "one"} {
		if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Load(file, customCatalog())
		if err != nil {
			t.Fatal(err)
		}
		p, err := Expand(s, customCatalog())
		if err != nil {
			t.Fatal(err)
		}
		data, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		// A script that was changed in plan.json, with its digest left, is not executed.
		edited := bytes.Replace(data, []byte(base64.StdEncoding.EncodeToString([]byte(text))), []byte(base64.StdEncoding.EncodeToString([]byte("rm -rf /"))), 1)
		if _, err := Decode(edited); err == nil || !strings.Contains(err.Error(), "it was changed after the plan was made") {
			t.Errorf("a plan with another script: %v", err)
		}
		other := bytes.Replace(data, []byte(`"apply": "s/a.sh@`), []byte(`"apply": "s/a.sh@0`), 1)
		if _, err := Decode(other); err == nil {
			t.Error("a plan with another digest of its script is read")
		}
		c := again.Cells[0]
		if got := string(c.Files["apply"].Data); got != text || c.Files["apply"].Path != "s/a.sh" {
			t.Errorf("after plan.json the script is %q, want %q", got, text)
		}
		if !strings.HasPrefix(c.Get("apply"), "s/a.sh@") || c.Get("program") != "main" {
			t.Errorf("levels are %q and %q", c.Get("apply"), c.Get("program"))
		}
		ids[c.ID] = true
	}
	if len(ids) != 2 {
		t.Errorf("two contents gave %d cells", len(ids))
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	for arm, want := range map[string]string{
		`apply = "none.sh"`:   `own.toml:15: arm.apply: names "none.sh", which cannot be read: there is none`,
		`apply = "../x.sh"`:   `own.toml:15: arm.apply: is "../x.sh", want a path below the experiment's directory`,
		`apply = "."`:         `cannot be read: it is not a regular file`,
		`program = "a b"`:     `own.toml:15: arm.program: is "a b", want 1 to 63 of letters, digits, _, . and -`,
		`aply = "x"`:          `unknown key (did you mean "apply"?)`,
		`apply = "empty.sh"`:  `it has 0 bytes, want 1 to 1048576`,
		`apply = true`:        `arm.apply`,
		`program = "../../x"`: `want 1 to 63`,
	} {
		file := customFile(t, arm)
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), "empty.sh"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(file, customCatalog())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arm, err, want)
		}
	}
}

// TestImageKey: an image is what the catalog finds, its level is a factor, and where it is found
// is not.
func TestImageKey(t *testing.T) {
	cat := customCatalog()
	cat.Datapaths[0].Keys = []FreeKey{{Key: "image", Image: true, Doc: "an image"}}
	cat.Image = func(dir, text string) (Image, error) {
		if text == "moving:tag" {
			return Image{}, errors.New("names a tag; write its digest")
		}
		return Image{Level: text + "@0123", Source: filepath.Join("/", text)}, nil
	}
	for line, want := range map[string]string{"": "is missing; write an image", `image = "moving:tag"`: "write its digest"} {
		if _, err := Load(customFile(t, line), cat); err == nil || !strings.Contains(err.Error(), "arm.image: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
	s, err := Load(customFile(t, `image = "a.tar"`), cat)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Expand(s, cat)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Cells[0].Get("image"); got != "a.tar@0123" {
		t.Errorf("the factor is %q", got)
	}
	if got := p.Spec.Arms[0].Images["image"]; got != "/a.tar" {
		t.Errorf("the image is found at %q", got)
	}
}

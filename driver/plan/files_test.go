package plan

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// scriptCatalog is customCatalog, whose file is a script.
func scriptCatalog() Catalog {
	c := customCatalog()
	c.Datapaths[0].Keys[0].Script = true
	return c
}

// TestScriptsThatNoKernelStarts: each is found with the line of the experiment and
// that of the script.
func TestScriptsThatNoKernelStarts(t *testing.T) {
	long := "#!/" + strings.Repeat("x", 252)
	for text, want := range map[string]string{
		"exit 0\n":                               "a.sh:1: does not begin with #!",
		"\n#!/bin/sh\n":                          "a.sh:1: does not begin with #!",
		" #!/bin/sh\n":                           "a.sh:1: does not begin with #!",
		"#!/bin/sh\r\nexit 0\r\n":                "a.sh:1: has a carriage return (CRLF)",
		"#!/bin/sh\r":                            "a.sh:1: has a carriage return",
		"#!/bin/sh\nset -e\nexit 0\r\n":          "a.sh:3: ends with a carriage return (CRLF)",
		"\xef\xbb\xbf#!/bin/sh\n":                "a.sh:1: begins with a byte order mark",
		"\xff\xfe#\x00!\x00/\x00b\x00":           "a.sh:1: is text in UTF-16",
		"\xfe\xff\x00#\x00!\x00/\x00b":           "a.sh:1: is text in UTF-16",
		"#!\nexit 0\n":                           "a.sh:1: names no interpreter after #!",
		"#! \t\nexit 0\n":                        "a.sh:1: names no interpreter after #!",
		"#!sh\nexit 0\n":                         `a.sh:1: names the interpreter "sh", and the kernel does not search for it; write its absolute path, as in #!/bin/sh or #!/usr/bin/env sh`,
		"#! ../bin/sh -e\n":                      `a.sh:1: names the interpreter "../bin/sh"`,
		long + "x\n":                             "a.sh:1: is 256 bytes long, and the kernel reads 255",
		long + "\n":                              "",
		"#!/bin/sh":                              "",
		"#! /usr/bin/env -S python3 -u\nexit(0)": "",
		"#!/bin/sh\nprintf 'a\\r\\n'\n":          "",
		"#!/bin/sh\nIFS='\r'\n":                  "",
		"\x7fELF\x02\x01\x01\r\n":                "",
	} {
		file := customFile(t, `apply = "s/a.sh"`)
		writeBeside(t, file, "s/a.sh", text)
		_, err := Load(file, scriptCatalog())
		if want == "" {
			if err != nil {
				t.Errorf("%.20q: %v", text, err)
			}
			continue
		}
		if want = file + ":15: arm.apply: " + filepath.Dir(file) + "/s/" + want; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

func writeBeside(t *testing.T, file, path, text string) {
	t.Helper()
	path = filepath.Join(filepath.Dir(file), path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLinksStayBelowTheExperiment: what a plan and its packs hold lies next to the
// experiment, whatever links say. The directory itself may be reached by one.
func TestLinksStayBelowTheExperiment(t *testing.T) {
	const secret = "#!/bin/sh\n# of somebody else\n"
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "a.sh"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ link, to, path, want string }{
		"absolute, outside":    {"a.sh", outside + "/a.sh", "a.sh", "leads out of the experiment's directory"},
		"/etc/passwd":          {"a.sh", "/etc/passwd", "a.sh", "leads out of the experiment's directory"},
		"relative, outside":    {"a.sh", "../../../../../../../../../../../etc/passwd", "a.sh", "leads out of the experiment's directory"},
		"a directory, outside": {"s", outside, "s/a.sh", "leads out of the experiment's directory"},
		"nowhere":              {"a.sh", "none.sh", "a.sh", "there is none"},
		"nowhere, outside":     {"a.sh", outside + "/none.sh", "a.sh", "escapes"},
		"in a circle":          {"a.sh", "a.sh", "a.sh", "too many"},
		"to a device":          {"a.sh", "/dev/zero", "a.sh", "leads out of the experiment's directory"},
		"inside":               {"a.sh", "own/own.sh", "a.sh", ""},
		"inside, by a detour":  {"s", "own", "s/../own/own.sh", ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := customFile(t, `apply = "`+c.path+`"`)
			writeBeside(t, file, "own/own.sh", "#!/bin/sh\n")
			if err := os.Symlink(c.to, filepath.Join(filepath.Dir(file), c.link)); err != nil {
				t.Fatal(err)
			}
			s, err := Load(file, scriptCatalog())
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), file+":15: arm.apply: ")):
				t.Errorf("%v, want %q", err, c.want)
			}
			for _, a := range s.Arms {
				for key, f := range a.Files {
					if string(f.Data) != "#!/bin/sh\n" {
						t.Errorf("the plan has %q of %s", f.Data, key)
					}
				}
			}
			through := filepath.Join(t.TempDir(), "experiments")
			if err := os.Symlink(filepath.Dir(file), through); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(filepath.Join(through, "own.toml"), scriptCatalog()); (err == nil) != (c.want == "") {
				t.Errorf("where a link leads to the experiment: %v", err)
			}
		})
	}
}

// TestOnlyRegularFilesAreRead: others are refused without being opened, so that
// none makes the driver wait.
func TestOnlyRegularFilesAreRead(t *testing.T) {
	for name, mode := range map[string]uint32{"FIFO": syscall.S_IFIFO, "socket": syscall.S_IFSOCK, "device": syscall.S_IFCHR} {
		file := customFile(t, `apply = "a.sh"`)
		if err := syscall.Mknod(filepath.Join(filepath.Dir(file), "a.sh"), mode|0o600, 1<<8|5); err != nil { // /dev/zero
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := Load(file, scriptCatalog()); err == nil || !strings.Contains(err.Error(), "it is not a regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	file := customFile(t, `apply = "s"`)
	writeBeside(t, file, "s/a.sh", "#!/bin/sh\n")
	if _, err := Load(file, scriptCatalog()); err == nil || !strings.Contains(err.Error(), "but a directory") {
		t.Error(err)
	}
}

// TestFindingsNameTheFile: what a datapath finds in an arm's files is a problem of
// the key to blame, with the file's name; a key that is not written is the arm's.
func TestFindingsNameTheFile(t *testing.T) {
	file := customFile(t, `apply = "a.sh"`)
	writeBeside(t, file, "a.sh", "#!/bin/sh\n")
	c := scriptCatalog()
	c.Datapaths[0].Inspect = func(s Spec, a Arm) []Finding {
		if len(s.Policies) != 1 || string(a.Files["apply"].Data) != "#!/bin/sh\n" || a.Options["program"] != "main" {
			t.Errorf("it sees policies %v of %+v", s.Policies, a)
		}
		return []Finding{{File: "apply", What: "has no map"}, {Key: "program", File: "apply", What: "has no program"}}
	}
	_, err := Load(file, c)
	path := filepath.Join(filepath.Dir(file), "a.sh")
	want := file + ":12: arm.program: " + path + ": has no program\n" + file + ":15: arm.apply: " + path + ": has no map"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// TestMorePoliciesThanAnArmCanHave: the problem is reported at the number, and names the arm.
func TestMorePoliciesThanAnArmCanHave(t *testing.T) {
	c := testCatalog()
	c.Datapaths[1].MostPolicies = func(o map[string]string, clients int) (int, string) {
		if o["state"] != "as-study" {
			return maxPolicies, ""
		}
		return 10 + clients, "it is a test"
	}
	const head = "schema = 1\nname = \"t\"\n[lab]\nprovider = \"local\"\n[matrix]\nscenarios = [\"localhost\"]\nworkloads = [\"TCP_RR\"]\n"
	const arms = "[[arm]]\nname = \"d\"\ndatapath = \"docker\"\n[[arm]]\nname = \"i\"\ndatapath = \"iptables\"\n"
	for matrix, want := range map[string]string{
		"policies = [0, 11]\n":                         "",
		"policies = [0, 12]\n":                         `t.toml:8: matrix.policies: 12 is more than arm "i" in line 14 can be given at 1 client: it is a test; write at most 11, or leave the arm out`,
		"policies = [\n1,\n12]\n":                      `t.toml:10: matrix.policies: 12 is more than arm "i" in line 16 can be given at 1 client`,
		"policies = [12]\nclients = [2, 4]\n":          "",
		"policies = [13]\nclients = [2, 4]\n":          `t.toml:8: matrix.policies: 13 is more than arm "i" in line 15 can be given at 2 clients: it is a test; write at most 12`,
		"policies = [100000]\n#":                       `matrix.policies: 100000 is more than`,
		"policies = [100000]\n#established-first":      "",
		"policies = [11, 12, 13]\n#two are too many\n": `t.toml:8: matrix.policies: 13 is more than arm "i" in line 15`,
	} {
		text := head + matrix + "\n" + arms
		if strings.Contains(matrix, "#established-first") {
			text += "state = \"established-first\"\n"
		}
		_, err := Parse("t.toml", []byte(text), c)
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", matrix, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: %v, want %q", matrix, err, want)
		}
	}
}

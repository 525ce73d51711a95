package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// keyring holds the keys that sign the Debian archive.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// backports is how the name of an archive with newer packages ends.
const backports = "-backports"

// aptRoot is a private apt with the sources of one Debian suite and the state of
// a computer on which nothing is installed. It never touches this computer's own package state.
type aptRoot struct{ dir string }

// newAptRoot makes one in dir and downloads the indexes of suite.
func newAptRoot(ctx context.Context, dir, suite string, m mirrors) (aptRoot, error) {
	for _, d := range []string{"etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/lib/dpkg"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return aptRoot{}, err
		}
	}
	// The private root hides this computer's configuration; its proxies are needed.
	proxies, err := command{argv: []string{"apt-config", "dump", "--format", "%F \"%v\";%n", "Acquire::http", "Acquire::https"}}.run(ctx)
	if err != nil {
		return aptRoot{}, err
	}
	files := map[string]string{
		"var/lib/dpkg/status":  "",
		"etc/apt/sources.list": m.sources(suite),
		"apt.conf": fmt.Sprintf("Dir %q;\nDir::State::status %q;\nAPT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\n"+
			"APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n",
			dir, filepath.Join(dir, "var/lib/dpkg/status")) + proxies,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return aptRoot{}, err
		}
	}
	a := aptRoot{dir: dir}
	_, err = a.run(ctx, "apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update")
	return a, err
}

// sources is apt's list of the archives that make up a suite. Unstable is one
// archive; its index says that it is valid for a week only, and mirrors may lag
// longer. Who signed it is checked all the same, and what is used is pinned.
// Backports are one archive in addition to those of their release, and experimental is one
// in addition to unstable.
func (m mirrors) sources(suite string) string {
	if suite == "experimental" {
		return fmt.Sprintf("deb [%s arch=amd64 check-valid-until=no] %s %s main\n", m.trust, m.main, suite) + m.sources(externalSuite)
	}
	if suite == externalSuite {
		return fmt.Sprintf("deb [%s arch=amd64 check-valid-until=no] %s %s main\n", m.trust, m.main, suite)
	}
	if release, ok := strings.CutSuffix(suite, backports); ok {
		return fmt.Sprintf("deb [%s arch=amd64] %s %s main\n", m.trust, m.main, suite) + m.sources(release)
	}
	source := fmt.Sprintf("deb [%s arch=amd64]", m.trust)
	return fmt.Sprintf("%[1]s %[2]s %[4]s main\n%[1]s %[2]s %[4]s-updates main\n%[1]s %[3]s %[4]s-security main\n", source, m.main, m.security, suite)
}

func (a aptRoot) run(ctx context.Context, argv ...string) (string, error) {
	return command{argv: argv, env: []string{"APT_CONFIG=" + filepath.Join(a.dir, "apt.conf")}}.run(ctx)
}

// closure is everything that a minimal system with the wanted packages holds.
func (a aptRoot) closure(ctx context.Context, want []string) ([]Package, error) {
	argv := append([]string{"apt-get", "-s", "-q", "install", "?essential"}, want...)
	out, err := a.run(ctx, argv...)
	if err != nil {
		return nil, err
	}
	var picks []string
	for line := range strings.Lines(out) {
		// Inst NAME (VERSION ORIGIN [ARCH])
		if f := strings.Fields(line); len(f) > 2 && f[0] == "Inst" {
			picks = append(picks, f[1]+"="+strings.Trim(f[2], "()"))
		}
	}
	return a.show(ctx, picks...)
}

// candidates is the newest version of each named package, without dependencies.
func (a aptRoot) candidates(ctx context.Context, names ...string) ([]Package, error) {
	return a.show(ctx, names...)
}

func (a aptRoot) show(ctx context.Context, names ...string) ([]Package, error) {
	out, err := a.run(ctx, append([]string{"apt-cache", "--no-all-versions", "show"}, names...)...)
	if err != nil {
		return nil, err
	}
	return parsePackages(out)
}

// dependencies names what a package depends on, without versions.
func (a aptRoot) dependencies(ctx context.Context, name string) ([]string, error) {
	out, err := a.run(ctx, "apt-cache", "--no-all-versions", "show", name)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range parseStanzas(out) {
		names = append(names, dependsOn(p)...)
	}
	return names, nil
}

// dependsOn names what the package of a stanza depends on.
func dependsOn(stanza map[string]string) []string {
	var names []string
	for _, d := range strings.Split(stanza["Depends"], ",") {
		d, _, _ = strings.Cut(strings.TrimSpace(d), " ")
		names = append(names, d)
	}
	return names
}

// parsePackages reads apt's package stanzas; the same version twice (in two
// suites) counts once.
func parsePackages(text string) ([]Package, error) {
	var out []Package
	seen := map[string]bool{}
	for _, s := range parseStanzas(text) {
		p := Package{Name: s["Package"], Version: s["Version"], SHA256: s["SHA256"], Path: s["Filename"]}
		if _, err := fmt.Sscan(s["Size"], &p.Size); err != nil {
			return nil, fmt.Errorf("read the size of package %s: %w", p.Name, err)
		}
		if err := checkSHA256(p.SHA256); err != nil {
			return nil, fmt.Errorf("read the digest of package %s: %w", p.Name, err)
		}
		if !seen[p.Name] {
			seen[p.Name] = true
			out = append(out, p)
		}
	}
	return out, nil
}

// parseStanzas splits Debian control data into fields; continuation lines are
// dropped.
func parseStanzas(text string) []map[string]string {
	var out []map[string]string
	for _, block := range strings.Split(text, "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(block) {
			if key, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
				fields[key] = strings.TrimSpace(value)
			}
		}
		if fields["Package"] != "" {
			out = append(out, fields)
		}
	}
	return out
}

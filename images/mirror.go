package images

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"strings"
)

const (
	archiveMain     = "debian"
	archiveSecurity = "debian-security"

	// snapshotVariable overrides the base URL of the snapshot service.
	snapshotVariable = "HOOKBED_SNAPSHOT"
)

// mirrors are the places packages come from.
type mirrors struct {
	main     string // base URL of the Debian archive, no slash at the end
	security string
	snapshot string // base URL of the snapshot service, "" if none is known
	// trust is the option of apt's sources that names the keys which sign the archive.
	trust string
}

// findMirrors queries apt for the mirror of Debian that this computer uses, so that
// no host name is built in. It fails where apt has no Debian archive.
func findMirrors(ctx context.Context) (mirrors, error) {
	const format = "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT) "
	out, err := command{argv: []string{"apt-get", "indextargets", "--format", format + "$(ORIGIN)"}}.run(ctx)
	if err != nil {
		return mirrors{}, err
	}
	if m, err := parseMirrors(out, os.Getenv(snapshotVariable)); err == nil {
		return m, nil
	}
	// Without downloaded indexes apt reports no origins, but the keys that it trusts.
	out, err = command{argv: []string{"apt-get", "indextargets", "--no-release-info", "--format", format + "$(SIGNED_BY)"}}.run(ctx)
	if err != nil {
		return mirrors{}, err
	}
	return parseMirrors(out, os.Getenv(snapshotVariable))
}

// parseMirrors picks the archives from lines of "Packages URI RELEASE COMPONENT
// WHO", where WHO is the origin, or the keyring, or missing: the default keys.
func parseMirrors(targets, snapshot string) (mirrors, error) {
	m := mirrors{snapshot: strings.TrimRight(snapshot, "/"), trust: "signed-by=" + keyring}
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "Packages" || f[3] != "main" || len(f) > 4 && !isDebian(f[4]) {
			continue
		}
		base := strings.TrimRight(f[1], "/")
		security := strings.HasSuffix(f[2], "-security")
		switch {
		case security && m.security == "":
			m.security = base
		case !security && m.main == "":
			m.main = base
		}
	}
	if m.main == "" {
		return m, errors.New("find a Debian mirror: apt on this computer has no Debian archive configured (see \"apt-get indextargets\")")
	}
	if m.security == "" {
		m.security = strings.TrimSuffix(m.main, archiveMain) + archiveSecurity
	}
	if m.snapshot == "" {
		m.snapshot = deriveSnapshot(m.main)
	}
	return m, nil
}

// isDebian recognises Debian's own archive by its origin or its keyring; an
// empty format field of apt stays as it is written.
func isDebian(who string) bool {
	return strings.HasPrefix(who, "Debian") || strings.Contains(path.Base(who), "debian-archive-") || who == "$(SIGNED_BY)"
}

// deriveSnapshot guesses the snapshot service next to a mirror: the same
// domain with "snapshot" as its first label. "" for names that have no domain.
func deriveSnapshot(mirror string) string {
	u, err := url.Parse(mirror)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Hostname(), "0123456789.:") == "" {
		return ""
	}
	_, domain, ok := strings.Cut(u.Host, ".")
	if !ok {
		return ""
	}
	return u.Scheme + "://snapshot." + domain
}

func (m mirrors) base(archive string) string {
	if archive == archiveSecurity {
		return m.security
	}
	return m.main
}

// current is where the mirror keeps a package for as long as it is current.
func (m mirrors) current(p Package) string {
	return m.base(p.archive()) + "/" + escape(p.Path)
}

// past is where the snapshot service keeps it; "" without a service.
func (m mirrors) past(p Package, l Lock) string {
	if m.snapshot == "" {
		return ""
	}
	return fmt.Sprintf("%s/archive/%s/%s/%s", m.snapshot, p.archive(), l.Snapshot.Format(snapshotLayout), escape(p.Path))
}

// escape encodes what a URL cannot hold.
func escape(poolPath string) string { return (&url.URL{Path: poolPath}).EscapedPath() }

// Package images makes and keeps what a lab machine boots: the root image, the
// kernels, and the endpoint image. Everything comes from Debian packages
// pinned by SHA-256 in lock files, is cached by the digest of what it is made
// of, and is the same to the last byte wherever it is built with the same
// tools.
package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"hookbed/analysis/durable"
)

// Cmdline is the kernel command line of a lab machine. No mitigation is turned
// off: they are part of what is measured. The rest skips waiting for hardware
// that a virtual machine does not have.
const Cmdline = "console=ttyS0 quiet panic=1 net.ifnames=0 " +
	"tsc=reliable no_timer_check random.trust_cpu=1 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd"

// ProbeOK is the line that the probe guest prints on its serial console before
// it powers off.
const ProbeOK = "HOOKBED-PROBE-OK"

// Artifact is one finished file.
type Artifact struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // bytes
}

// Drift is a package whose pinned version was gone, and what was used instead.
type Drift struct {
	Package string `json:"package"`
	Locked  string `json:"locked"`
	Used    string `json:"used"`
}

// Set is what Ensure made ready; what was not wanted is zero.
type Set struct {
	KernelRelease   string   `json:"kernel_release"` // as "uname -r" prints it
	Kernel          Artifact `json:"kernel"`
	Modules         Artifact `json:"modules"`   // squashfs for /usr/lib/modules
	Initramfs       Artifact `json:"initramfs"` // mounts the disks and starts the root image's init
	Probe           Artifact `json:"probe"`     // initramfs that prints ProbeOK and powers off
	Root            Artifact `json:"root"`
	Endpoint        Artifact `json:"endpoint"`         // squashfs
	EndpointArchive Artifact `json:"endpoint_archive"` // for docker load
	EndpointDir     string   `json:"endpoint_dir"`     // the same files, unpacked
	EndpointTag     string   `json:"endpoint_tag"`     // of the image in EndpointArchive
	EndpointDigest  string   `json:"endpoint_digest"`  // SHA-256 of the files as a tar, the image's only layer
	// External are filters by others (xdp-filter, bpfilter) with their libraries, as
	// squashfs and unpacked; nil or "" where no experiment wants them.
	External       *Artifact `json:"peers,omitempty"`
	ExternalDir    string    `json:"peers_dir,omitempty"`
	ExternalDigest string    `json:"peers_digest,omitempty"` // SHA-256 of the files as a tar
	// HTTP are the programs of workloads that make HTTP requests and of proxies that judge
	// them (nginx, h2load, HAProxy), likewise.
	HTTP       *Artifact `json:"http,omitempty"`
	HTTPDir    string    `json:"http_dir,omitempty"`
	HTTPDigest string    `json:"http_digest,omitempty"` // SHA-256 of the files as a tar
	// Etcd is the store that agents of clusters keep identities in, as squashfs and
	// unpacked; nil or "" where no experiment wants it.
	Etcd    *Artifact `json:"etcd,omitempty"`
	EtcdDir string    `json:"etcd_dir,omitempty"`
	// Sealed are the archives from which Join makes a sealed guest's initramfs:
	// modules, tools, endpoint.
	Sealed []Artifact `json:"sealed,omitempty"`
	Drift  []Drift    `json:"drift,omitempty"`
}

// Want is what Ensure has to make ready.
type Want struct {
	Kernel      string // name of a kernel lock, "6.12"; "" is none
	Root        bool
	Endpoint    bool // squashfs and docker archive
	EndpointDir bool
	// External: the filters by others, packed and unpacked.
	External bool
	// HTTP: the programs of HTTP, packed and unpacked.
	HTTP bool
	// Etcd: packed and unpacked.
	Etcd bool
	// Sealed: of all that, only what sealed guests boot is needed. A store made by Export has no more.
	Sealed bool
}

// Options of a Store; the zero value is good.
type Options struct {
	// Drift "allow" uses the mirror's current version of a package whose pinned
	// version is gone; "" and "forbid" make that an error.
	Drift string
	// CachedOnly: what is not in the store is ErrNotCached. Nothing is downloaded or
	// built.
	CachedOnly bool
	// Log receives one line for each slow thing that starts. nil discards.
	Log func(string)
}

// ErrNotCached is wrapped where an image would have to be built and may not be.
var ErrNotCached = errors.New("not in the cache")

// Store is a cache of artifacts in one directory. Several processes may use the
// same directory at once.
type Store struct {
	dir      string
	options  Options
	readOnly bool // this process may not write to it
	// Where packages come from and what is pinned; replaced by tests.
	findMirrors func(context.Context) (mirrors, error)
	readLock    func(name string) (Lock, error)
}

// Open opens the store in dir, which is made if it is missing; "" is the
// directory "hookbed" in the user's cache directory. A store that this process may
// only read is read: what it has is compared with locks and digests at each use, and
// nothing can be built.
func Open(dir string, options Options) (*Store, error) {
	switch options.Drift {
	case "", "forbid", "allow":
	default:
		return nil, fmt.Errorf("open image store: drift is %q (allowed: allow, forbid)", options.Drift)
	}
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
		dir = filepath.Join(cache, "hookbed")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if options.Log == nil {
		options.Log = func(string) {}
	}
	s := &Store{dir: dir, options: options, findMirrors: findMirrors, readLock: readLock}
	if s.readOnly = onlyReadable(s.artifacts()); s.readOnly {
		return s, nil
	}
	for _, d := range []string{dir, s.artifacts(), s.debDir(), s.lockDir(), s.tempDir()} {
		if err := makeDir(d); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
		if err := durable.OnlyOurs(d); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	return s, nil
}

func (s *Store) artifacts() string { return filepath.Join(s.dir, "artifacts") }
func (s *Store) debDir() string    { return filepath.Join(s.dir, "debs") }
func (s *Store) lockDir() string   { return filepath.Join(s.dir, "locks") }
func (s *Store) tempDir() string   { return filepath.Join(s.dir, "temp") }

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

func (s *Store) debs(m mirrors) debs {
	return debs{dir: s.debDir(), mirrors: m, log: s.options.Log}
}

// Ensure makes what is wanted ready: taken from the cache if its files are
// what they were when they were built, built otherwise. Trees that are executed
// are read for that, every time, files that are booted when the kernel shows that
// they were touched, and the archives of Sealed by Join. Building the root image needs root. An error leaves nothing
// half done.
func (s *Store) Ensure(ctx context.Context, want Want) (Set, error) {
	var set Set
	if want.Kernel != "" {
		if err := s.ensureKernel(ctx, want, &set); err != nil {
			return Set{}, err
		}
	}
	if want.Root {
		m, dir, err := s.ensureFor(ctx, rootRecipe(), want, rootFile)
		if err != nil {
			return Set{}, err
		}
		if set.Root, err = m.wanted(want, dir, rootFile, Lock{}); err != nil {
			return Set{}, err
		}
		set.Sealed = append(set.Sealed, m.artifact(dir, sealedToolsFile))
		set.Drift = append(set.Drift, m.Drift...)
	}
	if want.Endpoint || want.EndpointDir {
		if err := s.ensureEndpoint(ctx, want, &set); err != nil {
			return Set{}, err
		}
	}
	if want.External {
		if err := s.ensureExternal(ctx, want, &set); err != nil {
			return Set{}, err
		}
	}
	if want.HTTP {
		if err := s.ensureHTTP(ctx, want, &set); err != nil {
			return Set{}, err
		}
	}
	if want.Etcd {
		if err := s.ensureEtcd(ctx, &set); err != nil {
			return Set{}, err
		}
	}
	return set, nil
}

func (s *Store) ensureHTTP(ctx context.Context, want Want, set *Set) error {
	m, dir, err := s.ensureFor(ctx, httpRecipe(), want, httpFile)
	if err != nil {
		return err
	}
	squash, err := m.wanted(want, dir, httpFile, Lock{})
	if err != nil {
		return err
	}
	if set.HTTPDir, err = m.wantedDir(want, dir); err != nil {
		return err
	}
	set.HTTP, set.HTTPDigest = &squash, m.Values[valueLayer]
	set.Sealed = append(set.Sealed, m.artifact(dir, sealedHTTPFile))
	set.Drift = append(set.Drift, m.Drift...)
	return nil
}

func (s *Store) ensureEtcd(ctx context.Context, set *Set) error {
	m, dir, err := s.ensure(ctx, etcdRecipe())
	if err != nil {
		return err
	}
	squash, err := m.verified(dir, externalFile, Lock{})
	if err != nil {
		return err
	}
	if set.EtcdDir, err = m.verifiedDir(dir); err != nil {
		return err
	}
	set.Etcd = &squash
	set.Drift = append(set.Drift, m.Drift...)
	return nil
}

func (s *Store) ensureExternal(ctx context.Context, want Want, set *Set) error {
	m, dir, err := s.ensureFor(ctx, externalRecipe(), want, externalFile)
	if err != nil {
		return err
	}
	squash, err := m.wanted(want, dir, externalFile, Lock{})
	if err != nil {
		return err
	}
	if set.ExternalDir, err = m.wantedDir(want, dir); err != nil {
		return err
	}
	set.External, set.ExternalDigest = &squash, m.Values[valueLayer]
	set.Sealed = append(set.Sealed, m.artifact(dir, sealedExternalFile))
	set.Drift = append(set.Drift, m.Drift...)
	return nil
}

func (s *Store) ensureKernel(ctx context.Context, want Want, set *Set) error {
	m, dir, err := s.ensureFor(ctx, kernelRecipe(want.Kernel), want, modulesFile)
	if err != nil {
		return err
	}
	l, err := s.readLock(lockKernelPrefix + want.Kernel)
	if err != nil {
		return err
	}
	set.KernelRelease = m.Values[valueRelease]
	for file, to := range map[string]*Artifact{kernelFile: &set.Kernel, modulesFile: &set.Modules, initramfsFile: &set.Initramfs, probeFile: &set.Probe} {
		if *to, err = m.wanted(want, dir, file, l); err != nil {
			return err
		}
	}
	set.Sealed = append(set.Sealed, m.artifact(dir, sealedModulesFile))
	if want.HTTP {
		set.Sealed = append(set.Sealed, m.artifact(dir, sealedModulesHTTP))
	}
	set.Drift = append(set.Drift, m.Drift...)
	return nil
}

func (s *Store) ensureEndpoint(ctx context.Context, want Want, set *Set) error {
	m, dir, err := s.ensureFor(ctx, endpointRecipe(), want, endpointFile)
	if err != nil {
		return err
	}
	if want.Endpoint {
		if set.Endpoint, err = m.wanted(want, dir, endpointFile, Lock{}); err != nil {
			return err
		}
		if set.EndpointArchive, err = m.wanted(want, dir, archiveFile, Lock{}); err != nil {
			return err
		}
	}
	set.Sealed = append(set.Sealed, m.artifact(dir, sealedEndpointFile))
	if want.EndpointDir {
		if set.EndpointDir, err = m.verifiedDir(dir); err != nil {
			return err
		}
	}
	set.EndpointTag, set.EndpointDigest = m.Values[valueTag], m.Values[valueLayer]
	set.Drift = append(set.Drift, m.Drift...)
	return nil
}

// Verify hashes every cached file again and joins one error for each that is
// not what its name or manifest requires.
func (s *Store) Verify(ctx context.Context) error {
	entries, err := s.List()
	if err != nil {
		return err
	}
	var bad []error
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		bad = append(bad, e.manifest.check(e.Dir, true))
	}
	return errors.Join(append(bad, s.verifyDebs(ctx))...)
}

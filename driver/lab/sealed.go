package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"hookbed/analysis/durable"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
	"hookbed/driver/vm"
	"hookbed/images"
)

// stallLimit is how long a sealed guest may add nothing to its results. The
// longest trial takes seconds; an overloaded computer stretches that.
const stallLimit = 10 * time.Minute

// quiet is after how long without a result the guests' disk is looked at.
const quiet = 5 * time.Second

// watchTick is how often results are looked at.
const watchTick = 200 * time.Millisecond

// TicksPerInstruction is by how much a sealed guest's time stamp counter, which counts nanoseconds
// of virtual time, rises with each instruction.
const TicksPerInstruction = 1 << vm.ICountShift

// guestHost runs the machines of sealed guests: *vm.Hypervisor or *vm.Direct.
type guestHost interface {
	Start(ctx context.Context, m vm.Machine) error
	Wait(ctx context.Context, name string, want vm.State) error
	Destroy(ctx context.Context, name string) error
	Versions(ctx context.Context) (vm.Version, error)
	Close(ctx context.Context) error
}

// Sealer boots sealed guests in virtual time: what they execute is in their
// initramfs, and their results come out at the end. Its methods may be called by
// several goroutines.
type Sealer struct {
	cfg   Config
	sets  map[string]images.Set // by kernel
	guest []byte                // the helper
	hv    guestHost             // nil until it is connected
	how   string                // why it is not libvirt; "" if it is
}

// OpenSealer prepares images and hypervisor. Close it.
func OpenSealer(ctx context.Context, cfg Config) (*Sealer, error) {
	s := &Sealer{cfg: cfg}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	return s, nil
}

func (s *Sealer) open(ctx context.Context) error {
	state := begun(s.cfg)
	state.Provider = plan.ProviderLibvirt
	if err := claim(s.cfg.StateDir, state); err != nil {
		return err
	}
	var err error
	if s.guest, err = os.ReadFile(s.cfg.GuestPath); err != nil {
		return fmt.Errorf("read the guest helper: %w", err)
	}
	s.sets = map[string]images.Set{}
	for _, k := range s.kernels() {
		if s.sets[k], err = s.cfg.Store.Ensure(ctx, images.Want{Kernel: k, Root: true, Endpoint: true, External: s.cfg.External, HTTP: s.cfg.HTTP, Sealed: true}); err != nil {
			return err
		}
	}
	return s.connect(ctx)
}

// connect chooses what runs the guests: libvirt, unless the experiment says otherwise or there is
// none.
func (s *Sealer) connect(ctx context.Context) error {
	cfg := vm.Config{StateDir: s.cfg.StateDir, Lab: s.cfg.Name, CacheDir: filepath.Join(s.cfg.Store.Dir(), "libvirt"), ImagesDir: s.cfg.Store.Dir()}
	switch s.cfg.Lab.Sealed {
	case plan.SealedQEMU:
		s.how = "the experiment says so"
	case "":
		s.how = vm.NoLibvirt()
	}
	if s.how != "" {
		direct, err := vm.ConnectDirect(ctx, cfg)
		if err == nil {
			s.hv = direct
		}
		return err
	}
	hypervisor, err := vm.Connect(ctx, cfg)
	if err == nil {
		s.hv = hypervisor
	}
	return err
}

// kernels lists the kernels that guests boot.
func (s *Sealer) kernels() []string {
	if len(s.cfg.Kernels) > 0 {
		return s.cfg.Kernels
	}
	return []string{s.cfg.Lab.Kernel}
}

// HelperPath is where the guest helper is in a sealed guest.
const HelperPath = "/init"

// Programs are the programs and libraries of the guests by their absolute paths, the guest helper
// included.
func (s *Sealer) Programs() (map[string][]byte, error) {
	out, err := s.sets[s.kernels()[0]].SealedPrograms() // the same with every kernel
	if err != nil {
		return nil, err
	}
	out[HelperPath] = s.guest
	return out, nil
}

// Close ends every guest on a fresh, time-limited context.
func (s *Sealer) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
	defer cancel()
	var err error
	if s.hv != nil {
		err = mayLive(s.cfg.Name, s.hv.Close(ctx))
	}
	return errors.Join(err, release(s.cfg.StateDir))
}

// mayLive is the error of a hypervisor that could not be closed: machines may still run.
func mayLive(lab string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: machines of lab %s: %w", ErrStillRuns, lab, err)
}

// Jobs is how many sealed guests this computer runs at once: one a CPU, as far
// as the memory that is free now goes round; at least one. memory is MiB a guest.
func Jobs(memory int) int {
	jobs := runtime.NumCPU()
	if free, ok := availableMiB(); ok {
		jobs = min(jobs, free/GuestMiB(memory))
	}
	return max(1, jobs)
}

// GuestMiB is what a sealed guest with so much memory takes of the computer's, in MiB.
func GuestMiB(memory int) int { return memory + guestOverhead }

// guestOverhead is what QEMU needs in addition to the guest's memory, in MiB: mostly
// its cache of translated code and the initramfs.
const guestOverhead = 512

// availableMiB reads MemAvailable (proc(5)).
func availableMiB() (int, bool) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemAvailable:" {
			kib, err := strconv.Atoi(f[1])
			return kib / 1024, err == nil
		}
	}
	return 0, false
}

// SealedBlock is what one sealed guest is given.
type SealedBlock struct {
	Number int
	Kernel string // name of its lock
	Seed   string // a UUID: the guest's randomness starts from it
	Block  bundle.Sealed
	Files  map[string]bundle.File // every file of every chunk, by SHA-256
	// Plugin observes the guest's instructions, and Watch reads what it writes while the guest runs.
	// Both or none are set. Plugin.Out is made for it. An error of Watch ends the guest; after one of
	// the guest, Watch meets the end of its stream. The results are the same as without.
	Plugin *vm.Plugin
	Watch  func(io.Reader) error
}

// Seed is what the guests of a seed get as their machine's UUID. A guest's
// entropy starts from it, so it chooses ports, hashes and initial sequence
// numbers, and nothing else does.
func Seed(experiment uint64, seed int) string {
	sum := sha256.Sum256([]byte("hookbed guest " + strconv.FormatUint(experiment, 10) + " " + strconv.Itoa(seed)))
	return formatUUID([16]byte(sum[:16]))
}

// initramfs joins the block's archive and returns its digest, from which, with
// kernel, command line, seed and QEMU, every byte of the results follows.
func (s *Sealer) initramfs(path string, b SealedBlock) (digest string, err error) {
	block, err := json.Marshal(b.Block)
	if err != nil {
		return "", fmt.Errorf("encode block: %w", err)
	}
	files := map[string][]byte{HelperPath: s.guest, bundle.SealedBlock: block}
	for sum, f := range b.Files {
		files[bundle.SealedBlobs+"/"+sum] = f.Data
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("write initramfs: %w", err)
	}
	defer f.Close()
	if err := images.Join(f, s.sets[b.Kernel].Sealed, files); err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("read initramfs: %w", err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read initramfs: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), f.Close()
}

// Run boots a guest, waits until it has executed its block, and returns its
// results as it wrote them. onReply is called for each line as it comes; it may be nil.
// A guest that ends early is an error, with the end of its console.
func (s *Sealer) Run(ctx context.Context, b SealedBlock, onReply func(bundle.SealedReply)) ([]byte, error) {
	base := filepath.Join(s.cfg.StateDir, "block"+strconv.Itoa(b.Number))
	uuid, err := randomUUID()
	if err != nil {
		return nil, err
	}
	m := vm.Machine{
		Name: fmt.Sprintf("hookbed-%s-block%d", s.cfg.Name, b.Number), UUID: uuid, VCPUs: 1, MemoryMiB: s.cfg.Lab.Memory, Accel: vm.TCG,
		Kernel: s.sets[b.Kernel].Kernel.Path, Initramfs: base + ".initramfs", Cmdline: images.SealedCmdline,
		ConsoleLog: base + ".console", Virtual: &vm.Virtual{Seed: b.Seed, Results: base + ".results"},
	}
	defer func() {
		for _, f := range []string{m.Initramfs, m.ConsoleLog, m.Virtual.Results} {
			_ = os.Remove(f)
		}
	}()
	watched, stream, err := openStream(ctx, b, base+".stream")
	if err != nil {
		return nil, err
	}
	m.Virtual.Plugin = stream.plugin
	data, err := s.boot(watched, b, m, stream, onReply)
	werr := stream.close()
	if werr != nil && (err == nil || watched.Err() != nil && ctx.Err() == nil) {
		return nil, fmt.Errorf("watch the sealed guest of block %d: %w", b.Number, werr)
	}
	return data, err
}

// boot is Run between the making and the removing of its files.
func (s *Sealer) boot(ctx context.Context, b SealedBlock, m vm.Machine, stream *stream, onReply func(bundle.SealedReply)) ([]byte, error) {
	if _, err := s.initramfs(m.Initramfs, b); err != nil {
		return nil, err
	}
	if err := s.sets[b.Kernel].Kernel.Check(); err != nil {
		return nil, err
	}
	// A file left from an earlier attempt must not be taken for this guest's.
	if err := os.WriteFile(m.Virtual.Results, nil, 0o600); err != nil {
		return nil, fmt.Errorf("make results file: %w", err)
	}
	if err := s.hv.Start(ctx, m); err != nil {
		return nil, err
	}
	stream.started()
	data, err := s.watch(ctx, m, onReply)
	if derr := s.hv.Destroy(context.WithoutCancel(ctx), m.Name); err == nil {
		err = derr
	}
	if err != nil && ctx.Err() == nil {
		if full := fullDisk(s.cfg.StateDir); full != nil && !durable.NoRoom(err) {
			err = fmt.Errorf("%w (%w)", full, err)
		}
		err = fmt.Errorf("sealed guest of block %d: %w; console: %s", b.Number, err, consoleTail(m.ConsoleLog))
	}
	return data, err
}

// room is how much a disk must have free that a guest writes to, in bytes.
const room = 16 << 10

// fullDisk is the error of a directory on whose disk nothing more can be written, and nil for others.
// QEMU says nothing about it: it drops what a serial port cannot write.
func fullDisk(dir string) error {
	path := filepath.Join(dir, "room")
	err := os.WriteFile(path, make([]byte, room), 0o600)
	_ = os.Remove(path) // it may not be there
	if !durable.NoRoom(err) {
		return nil
	}
	return fmt.Errorf("the disk of the guests' files is full: %w", err)
}

// watch follows the results file until its last line, the guest's end, a stall, or a full disk.
func (s *Sealer) watch(ctx context.Context, m vm.Machine, onReply func(bundle.SealedReply)) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if err := s.hv.Wait(ctx, m.Name, vm.Gone); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	}()
	f := follower{path: m.Virtual.Results, onReply: onReply, fed: time.Now()}
	looked := time.Now()
	for ended := false; ; {
		done, err := f.poll()
		switch {
		case err != nil:
			return nil, err
		case done:
			return f.data, nil
		case ended:
			return nil, errors.New("it ended before its last result")
		case time.Since(f.fed) > stallLimit:
			return nil, fmt.Errorf("no result for %v", stallLimit)
		case time.Since(f.fed) > quiet && time.Since(looked) > quiet:
			if err := fullDisk(s.cfg.StateDir); err != nil {
				return nil, err
			}
			looked = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-gone:
			ended = ctx.Err() == nil // what it wrote last is read once more
		case <-time.After(watchTick):
		}
	}
}

// follower reads a file that grows, line by line.
type follower struct {
	path    string
	onReply func(bundle.SealedReply)
	data    []byte // whole lines
	fed     time.Time
}

// poll reads what is new. done: the guest's last result is there.
func (f *follower) poll() (done bool, err error) {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return false, fmt.Errorf("read results: %w", err)
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	if len(whole) == len(f.data) {
		return false, nil
	}
	news, err := DecodeReplies(whole[len(f.data):])
	if err != nil {
		return false, err
	}
	f.data, f.fed = whole, time.Now()
	for _, r := range news {
		if f.onReply != nil {
			f.onReply(r)
		}
		done = done || r.Phase == bundle.SealedEnd
	}
	return done, nil
}

// DecodeReplies parses a sealed guest's results.
func DecodeReplies(data []byte) ([]bundle.SealedReply, error) {
	var out []bundle.SealedReply
	for line := range bytes.Lines(data) {
		var reply bundle.SealedReply
		if err := json.Unmarshal(line, &reply); err != nil {
			return nil, fmt.Errorf("parse results of the sealed guest, line %d: %.80q: %w", len(out)+1, line, err)
		}
		out = append(out, reply)
	}
	return out, nil
}

// Environment is what env.json has about sealed guests: with these digests, the
// experiment's plan and the QEMU version equal, every computer gets equal rows.
func (s *Sealer) Environment(ctx context.Context) (Environment, error) {
	versions, err := s.hv.Versions(ctx)
	if err != nil {
		return Environment{}, err
	}
	return s.environment(versions), nil
}

func (s *Sealer) environment(versions vm.Version) Environment {
	sum := sha256.Sum256(s.guest)
	env := Environment{
		Provider: plan.ProviderLibvirt, Accelerator: vm.TCG, AcceleratorHow: "virtual time counts emulated instructions",
		Delivery: "sealed", ICountShift: vm.ICountShift, Hypervisor: &versions,
		GuestSHA256: hex.EncodeToString(sum[:]), KernelCmdline: images.SealedCmdline,
		VCPUs: 1, MemoryMiB: s.cfg.Lab.Memory, TransparentHugepage: "never", SealedHow: s.how,
	}
	if s.how != "" {
		env.Sealed = plan.SealedQEMU
	}
	releases, digests, drift := map[string]string{}, map[string]map[string]string{}, map[string][]images.Drift{}
	for k, set := range s.sets {
		releases[k], digests[k], drift[k] = set.KernelRelease, sealedImages(set), set.Drift
	}
	if k := s.cfg.Lab.Kernel; len(s.cfg.Kernels) == 0 {
		env.KernelRelease = &ByKernel[string]{One: releases[k]}
		env.ImageSHA256 = &ByKernel[map[string]string]{One: digests[k]}
		env.ImageDrift.One = drift[k]
		return env
	}
	env.KernelRelease = &ByKernel[string]{Each: releases}
	env.ImageSHA256 = &ByKernel[map[string]string]{Each: digests}
	env.ImageDrift.Each = drift
	return env
}

// sealedImages is what a guest of a kernel boots, by digest.
func sealedImages(set images.Set) map[string]string {
	artifacts := map[string]string{set.Kernel.Name: set.Kernel.SHA256}
	for _, a := range set.Sealed {
		artifacts[a.Name] = a.SHA256
	}
	return artifacts
}

package remote

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hookbed/driver/host"
	"hookbed/driver/marker"
	"hookbed/driver/plan"
	"hookbed/images"
)

// Run is a run's directory on an existing machine.
type Run struct {
	*Computer
	keep  []string // addresses of the SSH connection, both ends
	root  string   // directory of all runs
	name  string   // of this run's directory in it
	token string   // of the markers of both
	held  *keeper  // removes the directory until an agent has it
}

// Reach logs in to a machine, finds out how to be root there, and makes the directory of
// a run, for a lab of a user of this computer. Leave it, and close its SSH. silence is Login's.
func Reach(ctx context.Context, inv *plan.Inventory, m plan.Machine, lab, user string, silence time.Duration) (_ *Run, err error) {
	r := &Run{root: inv.Directory, name: "run-" + strings.ToLower(rand.Text()[:12])}
	if r.Computer, err = Login(ctx, m, silence); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = r.SSH.Close()
		}
	}()
	if err := r.beRoot(ctx, m.User); err != nil {
		return nil, err
	}
	if r.keep, err = r.connection(ctx); err != nil {
		return nil, err
	}
	if err := r.makeDir(ctx, m.User, lab, user, max(inv.AbandonAfter, silence, leastPatience)); err != nil {
		return nil, fmt.Errorf("make %s: %w", r.Path(), err)
	}
	return r, nil
}

// connection are the addresses of the SSH connection: the machine's, and the driver's.
func (r *Run) connection(ctx context.Context) (out []string, err error) {
	connection, err := r.Output(ctx, "sh", "-c", `echo "$SSH_CONNECTION"`)
	if err != nil {
		return nil, fmt.Errorf("ask by what address it is reached: %w", err)
	}
	// sshd(8): client address and port, server address and port.
	f := strings.Fields(connection)
	if len(f) != 4 {
		return nil, fmt.Errorf("its SSH server does not say by what address it is reached (SSH_CONNECTION is %q)", connection)
	}
	for _, addr := range []string{f[2], f[0]} {
		addr, _, _ = strings.Cut(addr, "%")
		out = append(out, addr)
	}
	return out, nil
}

// leastPatience is how long nothing may come into a run's directory, at least, before it is removed:
// between two files digests are computed, and the agent is started.
const leastPatience = 30 * time.Second

// makeDir makes the run's directory, with the marker of the directory of all runs, and leaves a shell
// there that removes it if nothing comes for patience. login is the user there.
func (r *Run) makeDir(ctx context.Context, login, lab, user string, patience time.Duration) error {
	made, found := markers(lab, user)
	argv := r.RootArgv("sh", "-c", keepRunDir, "sh", r.root, r.name, login, made, found, strconv.Itoa(int(math.Ceil(patience.Seconds()))))
	r.held = keep(ctx, r.SSH, argv)
	text, err := r.held.first(ctx)
	if err != nil {
		_ = r.held.release(ctx) // its error is the one that there is already
		return err
	}
	own, err := marker.Parse(text)
	r.token = own.Token
	return err
}

// Path is that of the run's directory, or of a file below it.
func (r *Run) Path(parts ...string) string {
	return path.Join(append([]string{r.root, r.name}, parts...)...)
}

// Image is where images are kept between runs, by a name and a digest.
func (r *Run) Image(name, digest string) string {
	return path.Join(r.root, "images", name+"-"+digest[:16])
}

// PushProgram sends the helper's program and returns its path there.
func (r *Run) PushProgram(ctx context.Context, local string) (string, error) {
	program, err := os.ReadFile(local)
	if err != nil {
		return "", fmt.Errorf("read the guest helper: %w", err)
	}
	return r.Path("guest"), r.SSH.PushAll(ctx, host.File{Path: r.Path("guest"), Data: program, Mode: 0o755, Below: r.Path()})
}

// DirFlags are the helper's flags for the run's directory.
func (r *Run) DirFlags() []string {
	return []string{"--dir", r.root, "--run", r.name, "--token", r.token}
}

// KeepFlags are the helper's flags that protect the SSH connection.
func (r *Run) KeepFlags() []string {
	var out []string
	for _, addr := range r.keep {
		out = append(out, "--keep", addr)
	}
	return out
}

// PushTree sends the files below local to where they belong on the machine,
// unless an earlier run left them there, and they are what they were.
func (r *Run) PushTree(ctx context.Context, local, remote string) error {
	want, err := listing(os.DirFS(local), local)
	if err != nil {
		return err
	}
	var there bytes.Buffer
	if err := r.SSH.Run(ctx, host.Cmd{Argv: r.RootArgv("sh", "-c", listTree, "sh", remote), Stdout: &there}); err == nil && there.String() == want {
		return nil
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if err := errors.Join(images.WriteTar(z, local), z.Close()); err != nil {
		return err
	}
	archive := r.Path(path.Base(remote) + ".tar.gz")
	if err := r.SSH.PushAll(ctx, host.File{Path: archive, Data: packed.Bytes(), Mode: 0o600, Below: r.Path()}); err != nil {
		return err
	}
	if err := r.asRoot(ctx, "sh", "-c", unpackTree, "sh", archive, remote); err != nil {
		return fmt.Errorf("unpack %s: %w", remote, err)
	}
	return nil
}

// listTree lists directory $1: the digest of each file, the target of each link, and what is
// neither. What ends up on the machine's disk is executed there as root.
const listTree = `set -e; LC_ALL=C; export LC_ALL; cd "$1"
find . -type f -exec sha256sum -- {} + | sort -k 2
find . -type l -exec sh -c 'for l; do echo "$l -> $(readlink "$l")"; done' sh {} + | sort
find . ! -type f ! -type l ! -type d`

// listing is what listTree prints of a tree.
func listing(tree fs.FS, dir string) (string, error) {
	var files, links []string
	err := fs.WalkDir(tree, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil || e.IsDir():
			return err
		case e.Type() == fs.ModeSymlink:
			to, err := os.Readlink(filepath.Join(dir, name))
			links = append(links, "./"+name+" -> "+to)
			return err
		}
		data, err := fs.ReadFile(tree, name)
		files = append(files, fmt.Sprintf("%x  ./%s", sha256.Sum256(data), name))
		return err
	})
	slices.SortFunc(files, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	slices.Sort(links)
	return strings.Join(append(append(files, links...), ""), "\n"), err
}

// unpackTree unpacks archive $1 as directory $2, which is there whole or not at all. An agent that ends
// removes the run's directory, which has the archive, and images: they must not come back.
const unpackTree = `set -e; umask 022
[ -f "$1" ]
mkdir -p -m 711 "$(dirname "$2")"
rm -rf "$2.new"; mkdir "$2.new"
tar -xzpf "$1" -C "$2.new"
rm -rf "$2"; mv "$2.new" "$2"
if [ ! -f "$1" ]; then rm -rf "$2"; rmdir "$(dirname "$2")" || true; exit 1; fi
rm -f "$1"`

// Leave removes the run's directory. Where an agent runs, the agent removes it.
func (r *Run) Leave(ctx context.Context) error {
	if err := r.held.release(ctx); err == nil {
		return nil
	}
	return r.asRoot(ctx, "sh", "-c", leaveRunDir, "sh", r.root, r.name, r.token)
}

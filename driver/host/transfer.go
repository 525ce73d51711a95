package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

const (
	// transfers is the number of files of one PushAll that are sent at the same time,
	// and writesInFlight that of 32 KiB writes of one file: a round trip through an
	// emulated machine takes milliseconds.
	transfers      = 8
	writesInFlight = 64
	// digestArgs is the limit of the paths in one call of sha256sum, in bytes. Quoting
	// makes an argument at most four times as long.
	digestArgs = maxCommandLine / 5
	// tempPrefix begins the names of files that are not complete yet.
	tempPrefix = ".hookbed-push-"
)

// File is a file to push.
type File struct {
	Path string
	Data []byte
	Mode uint32 // permission bits
	// Below is a directory that must be there already: only those between it and the file are made.
	// So nothing comes back that was removed meanwhile. "": all missing ones are made.
	Below string
}

// upload is a file that is being pushed.
type upload struct {
	File
	sum  string // SHA-256 of Data in hex
	mode fs.FileMode
	temp string // the temporary file, "" if there is none
}

// Push pushes one file; see PushAll.
func (s *SSH) Push(ctx context.Context, data []byte, path string, mode uint32) error {
	return s.PushAll(ctx, File{Path: path, Data: data, Mode: mode})
}

// PushAll pushes files, several at the same time. One command computes the digests of
// the existing files of the right size, and one those of the files that were sent. A
// file gets its name only after its digest was checked. Missing directories are made.
// The error for a full disk wraps syscall.ENOSPC.
func (s *SSH) PushAll(ctx context.Context, files ...File) error {
	client, err := s.transferClient()
	if err != nil {
		return err
	}
	var todo []*upload
	for _, f := range files {
		if !path.IsAbs(f.Path) {
			return fmt.Errorf("push %q to %s: the path is not absolute", f.Path, s.addr)
		}
		sum := sha256.Sum256(f.Data)
		todo = append(todo, &upload{File: f, sum: hex.EncodeToString(sum[:]), mode: fs.FileMode(f.Mode) & fs.ModePerm})
	}
	if todo, err = s.missing(ctx, client, todo); err != nil {
		return fmt.Errorf("compare files: %w", err)
	}
	err = s.send(ctx, client, todo)
	for _, u := range todo {
		if u.temp != "" {
			_ = client.Remove(u.temp) // only after an error, which counts more
		}
	}
	return err
}

// missing returns the uploads whose content the machine does not have yet.
func (s *SSH) missing(ctx context.Context, client *sftp.Client, all []*upload) ([]*upload, error) {
	infos := make([]fs.FileInfo, len(all))
	err := each(ctx, all, func(_ context.Context, i int, u *upload) error {
		info, err := client.Stat(u.Path)
		if err == nil && info.Mode().IsRegular() && info.Size() == int64(len(u.Data)) {
			infos[i] = info
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return s.transferError(err)
	})
	if err != nil {
		return nil, err
	}
	var paths []string
	for i, u := range all {
		if infos[i] != nil {
			paths = append(paths, u.Path)
		}
	}
	sums, err := s.digests(ctx, paths)
	if err != nil {
		return nil, err
	}
	var out []*upload
	for i, u := range all {
		switch {
		case infos[i] == nil || sums[u.Path] != u.sum:
			out = append(out, u)
		case infos[i].Mode().Perm() != u.mode:
			if err := client.Chmod(u.Path, u.mode); err != nil {
				return nil, fmt.Errorf("set mode of %s: %w", u.Path, s.transferError(err))
			}
		}
	}
	return out, nil
}

// send uploads, checks and renames.
func (s *SSH) send(ctx context.Context, client *sftp.Client, todo []*upload) error {
	err := each(ctx, todo, func(ctx context.Context, _ int, u *upload) error {
		if err := s.write(ctx, client, u); err != nil {
			return fmt.Errorf("push %d B to %s on %w", len(u.Data), u.Path, s.diskError(client, u, err))
		}
		return nil
	})
	if err != nil {
		return err
	}
	var temps []string
	for _, u := range todo {
		temps = append(temps, u.temp)
	}
	sums, err := s.digests(ctx, temps)
	if err != nil {
		return fmt.Errorf("check pushed files: %w", err)
	}
	return each(ctx, todo, func(_ context.Context, _ int, u *upload) error {
		if got := sums[u.temp]; got != u.sum {
			return fmt.Errorf("push %s to %s: its SHA-256 arrived as %s, want %s", u.Path, s.addr, got, u.sum)
		}
		if err := client.PosixRename(u.temp, u.Path); err != nil {
			return fmt.Errorf("rename the pushed file to %s on %w", u.Path, s.transferError(err))
		}
		u.temp = ""
		return nil
	})
}

// write fills the upload's temporary file, in the directory of the file.
func (s *SSH) write(ctx context.Context, client *sftp.Client, u *upload) (err error) {
	temp := path.Join(path.Dir(u.Path), tempPrefix+strings.ToLower(rand.Text()))
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := client.OpenFile(temp, flags)
	if errors.Is(err, fs.ErrNotExist) {
		if err = u.makeDirs(client); err == nil {
			f, err = client.OpenFile(temp, flags)
		}
	}
	if err != nil {
		return err
	}
	u.temp = temp
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	if err := f.Chmod(u.mode); err != nil { // before the content, which may be a secret
		return err
	}
	_, err = f.ReadFromWithConcurrency(&contextReader{ctx, bytes.NewReader(u.Data)}, writesInFlight)
	return err
}

// makeDirs makes the missing directories of an upload.
func (u *upload) makeDirs(client *sftp.Client) error {
	dir := path.Dir(u.Path)
	if u.Below == "" {
		return client.MkdirAll(dir)
	}
	rest, ok := strings.CutPrefix(dir+"/", path.Clean(u.Below)+"/")
	if !ok {
		return fmt.Errorf("%s is not below %s", u.Path, u.Below)
	}
	at := path.Clean(u.Below)
	if _, err := client.Stat(at); err != nil {
		return fmt.Errorf("%s was removed: %w", at, err)
	}
	for _, part := range strings.FieldsFunc(rest, func(r rune) bool { return r == '/' }) {
		at = path.Join(at, part)
		if err := client.Mkdir(at); err != nil {
			// Another file's upload may have made it.
			if st, serr := client.Stat(at); serr != nil || !st.IsDir() {
				return err
			}
		}
	}
	return nil
}

// diskError names the machine, and reports a full disk if that is why an upload
// failed: SFTP itself does not distinguish it from other failures.
func (s *SSH) diskError(client *sftp.Client, u *upload, err error) error {
	var status *sftp.StatusError
	if !errors.As(err, &status) {
		return s.transferError(err)
	}
	disk, statErr := client.StatVFS(path.Dir(u.Path))
	if statErr != nil {
		return s.transferError(err)
	}
	free := disk.Bavail * disk.Frsize
	if free >= uint64(len(u.Data)) && disk.Favail > 0 {
		return s.transferError(err)
	}
	return fmt.Errorf("%s: %w (%d B and %d inodes free): %w", s.addr, syscall.ENOSPC, free, disk.Favail, err)
}

// digests are the SHA-256 sums of files on the machine, in hex, by path.
func (s *SSH) digests(ctx context.Context, paths []string) (map[string]string, error) {
	sums := map[string]string{}
	for len(paths) > 0 {
		n, size := 0, 0
		for n < len(paths) && (n == 0 || size+len(paths[n]) < digestArgs) {
			size += len(paths[n]) + 1
			n++
		}
		var out bytes.Buffer
		argv := append([]string{"sha256sum", "--"}, paths[:n]...)
		if err := s.Run(ctx, Cmd{Argv: argv, Stdout: &out}); err != nil {
			return nil, err
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != n {
			return nil, fmt.Errorf("%s: sha256sum gave %d lines for %d files", s.addr, len(lines), n)
		}
		for i, line := range lines {
			// A leading backslash marks a name with escapes in it.
			sum, _, _ := strings.Cut(strings.TrimPrefix(line, `\`), " ")
			sums[paths[i]] = sum
		}
		paths = paths[n:]
	}
	return sums, nil
}

// Pull reads a whole file. The error for a missing one wraps fs.ErrNotExist.
func (s *SSH) Pull(ctx context.Context, path string) ([]byte, error) {
	client, err := s.transferClient()
	if err != nil {
		return nil, err
	}
	f, err := client.Open(path)
	if err != nil {
		return nil, fmt.Errorf("pull %s from %w", path, s.transferError(err))
	}
	defer func() { _ = f.Close() }() // was only read
	var data bytes.Buffer
	if _, err := f.WriteTo(&contextWriter{ctx, &data}); err != nil {
		return nil, fmt.Errorf("pull %s from %w", path, s.transferError(err))
	}
	return data.Bytes(), nil
}

// transferClient opens SFTP on the connection, once.
func (s *SSH) transferClient() (*sftp.Client, error) {
	s.sftpMu.Lock()
	defer s.sftpMu.Unlock()
	if s.sftp != nil {
		return s.sftp, nil
	}
	client, err := sftp.NewClient(s.client)
	if err != nil {
		return nil, s.explain(fmt.Errorf("start SFTP: %w", err))
	}
	s.sftp = client
	return client, nil
}

// transferError names the machine, and reports whether the link is lost. After an
// answer of the server, or a canceled transfer, it is not.
func (s *SSH) transferError(err error) error {
	var status *sftp.StatusError
	answered := errors.As(err, &status) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
	switch {
	case err == nil:
		return nil
	case answered, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", s.addr, err)
	}
	return s.explain(err)
}

// each calls do for every upload, several at the same time, and returns the first
// error.
func each(ctx context.Context, all []*upload, do func(context.Context, int, *upload) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(transfers)
	for i, u := range all {
		group.Go(func() error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return do(ctx, i, u)
		})
	}
	return group.Wait()
}

// contextReader fails when its context has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// contextWriter fails when its context has ended.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c *contextWriter) Write(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

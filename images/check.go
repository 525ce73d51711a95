package images

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Check reads the file and refuses it if it is not what it was when it was made: size and time of
// change may be equal.
func (a Artifact) Check() error {
	sum, _, err := hashFile(a.Path)
	if err != nil {
		return fmt.Errorf("check image: %w", err)
	}
	if sum != a.SHA256 {
		return a.changed(sum)
	}
	return nil
}

func (a Artifact) changed(sum string) error {
	return fmt.Errorf("check cached image %s: its SHA-256 is %s, not %s as when it was built: remove %s to have it built again", a.Path, sum, a.SHA256, filepath.Dir(a.Path))
}

// checkedFile is where an artifact's directory has the stamps of files that were read, by name.
const checkedFile = "checked.json"

// stamp is by what the kernel shows that a file was not touched since it was read: it sets Changed
// (ctime, inode(7)) at every write, truncation, rename, link and change of the times that a program
// may set, and a file that replaces another has another number.
type stamp struct {
	SHA256  string `json:"sha256"`
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	Changed int64  `json:"ctime_ns"`
}

// checkOnce is Check, which it leaves out for a file that was read before and not touched since: a
// root image of 270 MB takes a second of CPU time. What goes bad on the disk itself is found by
// Verify.
func (a Artifact) checkOnce() error {
	before, err := a.stamp()
	if err != nil {
		return fmt.Errorf("check image: %w", err)
	}
	dir := filepath.Dir(a.Path)
	seen := readStamps(dir)
	if seen[a.Name] == before {
		return nil
	}
	if err := a.Check(); err != nil {
		return err
	}
	after, err := a.stamp()
	if err != nil {
		return fmt.Errorf("check image: %w", err)
	}
	if after != before {
		return nil // it was right when it was read, and is read again the next time
	}
	seen[a.Name] = before
	if data, err := json.Marshal(seen); err == nil {
		_ = writeFile(filepath.Join(dir, checkedFile), data, 0o644) // without it files are read each time
	}
	return nil
}

func (a Artifact) stamp() (stamp, error) {
	st, err := os.Lstat(a.Path)
	if err != nil {
		return stamp{}, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.Mode().IsRegular() {
		return stamp{}, fmt.Errorf("%s is not a regular file", a.Path)
	}
	return stamp{SHA256: a.SHA256, Device: sys.Dev, Inode: sys.Ino, Size: st.Size(), Changed: sys.Ctim.Nano()}, nil
}

// readStamps reads the stamps in a directory; what cannot be read is none.
func readStamps(dir string) map[string]stamp {
	out := map[string]stamp{}
	data, err := os.ReadFile(filepath.Join(dir, checkedFile))
	if err != nil || json.Unmarshal(data, &out) != nil {
		return map[string]stamp{}
	}
	return out
}

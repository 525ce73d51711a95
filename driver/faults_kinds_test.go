package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// diskWithRoom are the options of a try's file system (tmpfs(5)) while it has room.
const diskWithRoom = "size=256m,nr_inodes=100000"

// onDisk takes the room or the right to write away from the disk of a run, from some moment on, and
// gives it back when the driver has ended.
func (s insideSpec) onDisk(result *tried) {
	spoil := func() {
		result.Met = true
		if err := s.spoilDisk(); err != nil {
			result.Wrong = append(result.Wrong, "spoil the disk: "+err.Error())
		}
	}
	if s.Try.Fault == diskReadOnly { // the kernel refuses that while a file is open for writing
		spoil()
	}
	d := s.begin()
	if s.Try.Fault != diskReadOnly && s.await(d.cmd.Process.Pid, d.ended) {
		time.Sleep(s.Try.Delay)
		spoil()
	}
	o := d.end(result, time.Now(), faultEndLimit)
	o.refuses = true
	if s.Try.Fault == quotaFull {
		if err := s.script("btrfs qgroup limit none 0/5 ."); err != nil {
			result.Wrong = append(result.Wrong, "lift the quota: "+err.Error())
		}
	} else if err := errors.Join(unix.Mount("", s.Dir, "", unix.MS_REMOUNT|unix.MS_BIND, ""), unix.Mount("tmpfs", s.Dir, "tmpfs", unix.MS_REMOUNT, diskWithRoom)); err != nil {
		result.Wrong = append(result.Wrong, "mend the disk: "+err.Error())
	}
	s.checkEnd(result, o)
}

// mountWithQuota makes the directory of the try a disk with quotas: of btrfs, whose quotas are a part of
// it. Kernels may lack those of tmpfs (Linux 6.6), XFS and ext4 (CONFIG_TMPFS_QUOTA, XFS_QUOTA,
// QFMT_V2). The disk's file, and the loop device, end with the try.
func (s insideSpec) mountWithQuota() error {
	return s.script(`truncate -s 256M ../disk && mkfs.btrfs -q --mixed ../disk && mount -o loop ../disk "$1" && btrfs quota enable "$1" && chmod 700 "$1"`)
}

// script runs a shell's script in the directory of the try, which is its first argument.
func (s insideSpec) script(text string) error {
	cmd := exec.Command("sh", "-c", text, "sh", s.Dir)
	cmd.Dir = s.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// fillQuota leaves up to 100 KiB of the quota. What is used is known when it is on the disk.
func (s insideSpec) fillQuota() error {
	return s.script(fmt.Sprintf(`sync -f . && used=$(btrfs qgroup show --raw . | awk '$1 == "0/5" { print $2 }') && btrfs qgroup limit $((used + %d)) 0/5 .`, 4096*(s.Try.Pick/3%26+1)))
}

// spoilDisk leaves the disk up to 100 KiB or 30 inodes, or makes it read-only.
func (s insideSpec) spoilDisk() (err error) {
	if s.Try.Fault == quotaFull {
		return s.fillQuota()
	}
	for range 10 {
		var st unix.Statfs_t
		if err := unix.Statfs(s.Dir, &st); err != nil {
			return err
		}
		switch s.Try.Fault {
		case diskFull:
			used := (st.Blocks - st.Bfree) * uint64(st.Bsize) / 1024
			err = unix.Mount("tmpfs", s.Dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%dk", used+4*(s.Try.Pick%26)+4))
		case inodesFull:
			err = unix.Mount("tmpfs", s.Dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("nr_inodes=%d", st.Files-st.Ffree+s.Try.Pick%31))
		default:
			err = unix.Mount("", s.Dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
		}
		if !errors.Is(err, unix.EINVAL) { // else more was used meanwhile
			return err
		}
	}
	return err
}

// damaged kills a run in the phase, or lets it end, damages what it left, and holds the driver to
// what it may do then: go on with whole trials only, or refuse.
func (s insideSpec) damaged(result *tried) {
	killed := s
	killed.Try.Victim, killed.Try.Fault = theDriver, "KILL"
	if s.Try.Pick%3 == 0 {
		if code, out, _ := s.driver(faultEndLimit, "run", "e.toml", "--out", "run"); code != exitOK {
			result.Wrong = append(result.Wrong, fmt.Sprintf("without a fault, exit code %d: %s", code, out))
		}
	} else {
		killed.faulted(&tried{})
		_ = processesLeft()
	}
	rowsFile := filepath.Join(s.Dir, "run", "rows.csv")
	undo, refused, err := s.damage()
	switch {
	case errors.Is(err, errNothingToDamage):
		return
	case err != nil:
		result.Wrong = append(result.Wrong, "damage: "+err.Error())
		return
	}
	result.Met = true
	before, _ := os.ReadFile(rowsFile)
	start := time.Now()
	code, out, ended := s.driver(faultEndLimit, "run", "--resume", "run")
	result.Ending = time.Since(start).Seconds()
	s.checkEnd(result, outcomeOfFault{code: code, out: out, ended: ended, refuses: true})
	after, _ := os.ReadFile(rowsFile)
	if refused && code == exitOK && !s.nothingLeftToRun(before) {
		result.Wrong = append(result.Wrong, "it ran with what was damaged: "+out)
	}
	if code == exitUsage && !bytes.Equal(before, after) {
		result.Wrong = append(result.Wrong, "it refused, and changed rows.csv: "+out)
	}
	if code != exitOK || refused {
		if err := undo(); err != nil {
			result.Wrong = append(result.Wrong, "undo the damage: "+err.Error())
		}
	}
}

// nothingLeftToRun says that all trials had rows: a run that is whole uses no images.
func (s insideSpec) nothingLeftToRun(rows []byte) bool {
	return s.Try.Fault == cacheByte && bytes.Count(rows, []byte(",trial_rows,")) == 2
}

var errNothingToDamage = errors.New("there is nothing to damage")

// damage makes the damage, and returns how it is undone, and whether the driver must refuse it.
func (s insideSpec) damage() (undo func() error, refused bool, err error) {
	run := func(name string) string { return filepath.Join(s.Dir, "run", name) }
	if _, err := os.Stat(run("env.json")); err != nil {
		return nil, false, errNothingToDamage // it has not begun
	}
	switch s.Try.Fault {
	case rowsCut:
		undo, err = changeFile(run("rows.csv"), func(data []byte) []byte { return data[:s.Try.Pick%uint64(len(data))] })
	case runByte:
		name := []string{"rows.csv", "plan.json", "env.json"}[s.Try.Pick/3%3]
		undo, err = changeFile(run(name), s.flip)
		refused = name == "plan.json"
	case planField:
		undo, err = changeFile(run("plan.json"), s.changeField)
		refused = true
	case cacheByte:
		undo, err = s.damageCache()
		refused = true
	}
	return undo, refused, err
}

// changeFile changes the bytes of a file that has some.
func changeFile(path string, change func([]byte) []byte) (undo func() error, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		return nil, errNothingToDamage
	}
	if err != nil {
		return nil, err
	}
	changed := change(bytes.Clone(data))
	if bytes.Equal(changed, data) {
		return nil, errNothingToDamage
	}
	return func() error { return os.WriteFile(path, data, 0o644) }, os.WriteFile(path, changed, 0o644)
}

// flip changes a bit of a byte.
func (s insideSpec) flip(data []byte) []byte {
	data[s.Try.Pick/9%uint64(len(data))] ^= 1 << (s.Try.Pick >> 40 % 8)
	return data
}

// changeField changes one value of a JSON document.
func (s insideSpec) changeField(data []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		return data
	}
	count := 0
	eachValue(&doc, func(*any) { count++ })
	at := int(s.Try.Pick / 9 % uint64(count))
	eachValue(&doc, func(v *any) {
		if at == 0 {
			*v = other(*v)
		}
		at--
	})
	out, err := json.Marshal(doc)
	if err != nil {
		return data
	}
	return out
}

// eachValue visits the values of a document that have none within, in a fixed order.
func eachValue(v *any, visit func(*any)) {
	switch x := (*v).(type) {
	case map[string]any:
		for _, key := range sortedKeys(x) {
			child := x[key]
			eachValue(&child, visit)
			x[key] = child
		}
	case []any:
		for i := range x {
			eachValue(&x[i], visit)
		}
	default:
		visit(v)
	}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// other is another value of the same kind.
func other(v any) any {
	switch x := v.(type) {
	case string:
		return x + "x"
	case json.Number:
		n, _ := strconv.ParseInt(x.String(), 10, 64)
		return n + 1
	case bool:
		return !x
	}
	return "x"
}

// damageCache changes a byte of a program that trials execute here, in a copy of the cache that only
// this try sees, and keeps the file's time.
func (s insideSpec) damageCache() (undo func() error, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	cache = filepath.Join(cache, "hookbed")
	upper, scratch := filepath.Join(s.Dir, "others", "upper"), filepath.Join(s.Dir, "others", "scratch")
	err = errors.Join(os.Mkdir(upper, 0o700), os.Mkdir(scratch, 0o700))
	if err == nil {
		err = unix.Mount("overlay", cache, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", cache, upper, scratch))
	}
	if err != nil {
		return nil, err
	}
	undo = func() error { return unix.Unmount(cache, unix.MNT_DETACH) }
	roots, err := filepath.Glob(filepath.Join(cache, "artifacts", "endpoint-*"))
	if err != nil || len(roots) == 0 {
		return undo, errors.Join(err, errNothingToDamage)
	}
	for _, root := range roots { // one of them is used
		if err := s.flipInTree(root); err != nil {
			return undo, errors.Join(err, undo())
		}
	}
	return undo, nil
}

// flipInTree changes a byte of a file that is executed or read by programs of an endpoint.
func (s insideSpec) flipInTree(root string) error {
	var files []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !strings.Contains(path, "/usr/") {
			return err
		}
		if info, err := e.Info(); err == nil && info.Size() > 0 {
			files = append(files, path)
		}
		return nil
	})
	if err != nil || len(files) == 0 {
		return errors.Join(err, errNothingToDamage)
	}
	path := files[s.Try.Pick/9%uint64(len(files))]
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	at := int64(s.Try.Pick >> 20 % uint64(info.Size()))
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		return err
	}
	return os.Chtimes(path, info.ModTime(), info.ModTime())
}

// amongOthers puts files of others where the driver keeps its own, while it runs, and may kill it.
func (s insideSpec) amongOthers(result *tried) {
	d := s.begin()
	if s.await(d.cmd.Process.Pid, d.ended) {
		time.Sleep(s.Try.Delay)
	}
	for _, path := range s.othersFiles() {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("precious\n"), 0o600)); err != nil {
			result.Wrong = append(result.Wrong, err.Error())
		}
	}
	for _, dir := range s.othersGroups() {
		if err := os.Mkdir(dir, 0o755); err != nil {
			result.Wrong = append(result.Wrong, err.Error())
		}
	}
	result.Met = true
	if s.Try.Fault == foreignFiles {
		_ = d.cmd.Process.Kill()
	}
	o := d.end(result, time.Now(), faultEndLimit)
	o.killed = s.Try.Fault == foreignFiles
	s.checkEnd(result, o)
}

// othersFiles are where others may have put something, or where the driver once had.
func (s insideSpec) othersFiles() []string {
	if s.Try.Kind != byForeign {
		return nil
	}
	labs := filepath.Join(s.Dir, "state", "hookbed", "labs")
	return []string{
		filepath.Join(labs, "notes"), filepath.Join(labs, "theirs", "notes"), filepath.Join(labs, "broken", "lab.json"),
		filepath.Join(s.Dir, "state", "notes"), filepath.Join(s.Dir, "state", "hookbed", "notes"),
		filepath.Join(s.Dir, "tmp", "notes"), filepath.Join(s.Dir, "tmp", "theirs", "notes"),
		filepath.Join(s.Dir, "run", "notes"), filepath.Join(s.Dir, "run", "raw", "notes"), filepath.Join(s.Dir, "run", "theirs", "notes"),
	}
}

// othersGroups are control groups of others.
func (s insideSpec) othersGroups() (out []string) {
	if s.Try.Kind != byForeign {
		return nil
	}
	for mount := range s.Cgroups {
		out = append(out, filepath.Join(mount, "theirs"))
	}
	return out
}

func (s insideSpec) isOthers(path string) bool { return slices.Contains(s.othersFiles(), path) }

// checkOthers looks for what is gone of others.
func (s insideSpec) checkOthers(result *tried) {
	for _, path := range s.othersFiles() {
		if data, err := os.ReadFile(path); err != nil || string(data) != "precious\n" {
			result.Wrong = append(result.Wrong, fmt.Sprintf("%s of others is %q now: %v", path, data, err))
		}
	}
	for _, dir := range s.othersGroups() {
		if err := os.Remove(dir); err != nil {
			result.Wrong = append(result.Wrong, fmt.Sprintf("the control group of others: %v", err))
		}
	}
}

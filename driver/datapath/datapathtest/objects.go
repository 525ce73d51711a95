package datapathtest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Kinds of kernel objects.
const (
	kindProgram = "program"
	kindMap     = "map"
	kindLink    = "link"
	kindProcess = "process"
)

// object is something of the kernel's that goes away with its last user: a BPF
// program, map or link by its ID, a process by its PID and start.
type object struct {
	kind string
	id   int
	note string // of a process its start time, in which a later one of that ID differs
}

func (o object) String() string {
	if name := o.name(); name != "" {
		return fmt.Sprintf("%s %d (%s)", o.kind, o.id, name)
	}
	return fmt.Sprintf("%s %d", o.kind, o.id)
}

// name is what the kernel calls a program or map that is still there.
func (o object) name() string {
	switch o.kind {
	case kindProgram:
		if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(o.id)); err == nil {
			defer p.Close()
			if info, err := p.Info(); err == nil {
				return info.Name
			}
		}
	case kindMap:
		if m, err := ebpf.NewMapFromID(ebpf.MapID(o.id)); err == nil {
			defer m.Close()
			if info, err := m.Info(); err == nil {
				return fmt.Sprintf("%s, %s", info.Name, info.Type)
			}
		}
	}
	return ""
}

// objectsOf lists what a helper holds: itself, its descendants and the BPF
// objects of all of them, and the programs attached in the given namespaces
// with their maps. Those of other processes of this computer are not in it.
func objectsOf(h *helper, namespaces []*netns) ([]object, error) {
	found := map[object]bool{}
	for _, pid := range append(descendants(h.pid()), h.pid()) {
		if start := startTime(pid); start != "" {
			found[object{kindProcess, pid, start}] = true
		}
		for _, o := range heldObjects(pid) {
			found[o] = true
		}
	}
	for _, p := range namespaces {
		s := state{}
		for _, v := range views() {
			if !slices.Contains(programViews(), v.name) {
				continue
			}
			text, err := v.look(p)
			if err != nil {
				return nil, err
			}
			s[v.name] = text
		}
		for _, id := range attachedIDs(s) {
			found[object{kind: kindProgram, id: id}] = true
		}
	}
	for o := range maps.Clone(found) {
		for _, m := range mapsOf(o) {
			found[m] = true
		}
	}
	return slices.Collect(maps.Keys(found)), nil
}

// mapsOf lists the maps of a program.
func mapsOf(o object) (out []object) {
	if o.kind != kindProgram {
		return nil
	}
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(o.id))
	if err != nil {
		return nil
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return nil
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		out = append(out, object{kind: kindMap, id: int(id)})
	}
	return out
}

var attachedID = regexp.MustCompile(`(?:prog/\w+ id|\bxdp\w*/id:|\bprogram) ?(\d+)`)

// programViews are the views of a namespace that name programs.
func programViews() []string { return []string{viewLinks, viewFilters, viewPrograms} }

// attachedIDs finds the programs that the state of a namespace names.
func attachedIDs(s state) (out []int) {
	for _, v := range programViews() {
		for _, line := range strings.Split(s[v], "\n") {
			for _, m := range attachedID.FindAllStringSubmatch(line, -1) {
				if id, err := strconv.Atoi(m[1]); err == nil {
					out = append(out, id)
				}
			}
		}
	}
	return out
}

var heldID = regexp.MustCompile(`(?m)^(prog|map|link)_id:\s*(\d+)$`)

// heldObjects lists the BPF objects whose descriptors a process has.
func heldObjects(pid int) (out []object) {
	kinds := map[string]string{"prog": kindProgram, "map": kindMap, "link": kindLink}
	infos, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	for _, path := range infos {
		data, _ := os.ReadFile(path) // a descriptor may be closed meanwhile
		for _, m := range heldID.FindAllStringSubmatch(string(data), -1) {
			id, _ := strconv.Atoi(m[2])
			out = append(out, object{kind: kinds[m[1]], id: id})
		}
	}
	return out
}

// descendants lists the processes that a process started, and those started
// by them.
func descendants(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		if f := statFields(path); f != nil {
			parent, _ := strconv.Atoi(f[1])
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			children[parent] = append(children[parent], child)
		}
	}
	var out []int
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		out = append(out, queue[0])
		queue = append(queue, children[queue[0]]...)
	}
	return out
}

// statFields are those of /proc/PID/stat from the third, the state, on; nil if
// the process ended. A zombie has.
func statFields(path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return nil
	}
	return f
}

func startTime(pid int) string {
	if f := statFields(fmt.Sprintf("/proc/%d/stat", pid)); f != nil {
		return f[19]
	}
	return ""
}

// alive says whether an object is still there.
func (o object) alive() bool {
	var err error
	switch o.kind {
	case kindProgram:
		var p *ebpf.Program
		if p, err = ebpf.NewProgramFromID(ebpf.ProgramID(o.id)); err == nil {
			_ = p.Close()
		}
	case kindMap:
		// Not opened: a program array that is closed while the kernel is about to clear it keeps a
		// reference of the kernel's for ever (prog_array_map_clear in kernel/bpf/arraymap.c).
		next, err := ebpf.MapGetNextID(ebpf.MapID(o.id - 1))
		return err == nil && next == ebpf.MapID(o.id)
	case kindLink:
		var l link.Link
		if l, err = link.NewFromID(link.ID(o.id)); err == nil {
			_ = l.Close()
		}
	default:
		return startTime(o.id) == o.note
	}
	return !errors.Is(err, os.ErrNotExist)
}

// leftLimit is how long a busy computer's kernel may take to free what no process holds.
const leftLimit = 2 * time.Minute

// left waits until all objects are gone and names those that stay.
func left(objects []object) []string {
	var out []string
	for end := time.Now().Add(leftLimit); ; time.Sleep(20 * time.Millisecond) {
		objects = slices.DeleteFunc(objects, func(o object) bool { return !o.alive() })
		if len(objects) == 0 || time.Now().After(end) {
			break
		}
	}
	for _, o := range objects {
		out = append(out, o.String())
	}
	return out
}

// inhabitants waits until no process but this one is in one of the namespaces,
// or holds one open, and names the process. One that is just being started has
// its parent's descriptors for a moment.
func inhabitants(ids ...string) []string {
	var out []string
	for end := time.Now().Add(leftLimit); ; time.Sleep(50 * time.Millisecond) {
		if out = holders(ids); len(out) == 0 || time.Now().After(end) {
			return out
		}
	}
}

func holders(ids []string) (out []string) {
	self := fmt.Sprintf("/proc/%d/", os.Getpid())
	for _, pattern := range []string{"/proc/[0-9]*/ns/net", "/proc/[0-9]*/fd/*"} {
		links, _ := filepath.Glob(pattern)
		for _, l := range links {
			if strings.HasPrefix(l, self) {
				continue
			}
			if target, err := os.Readlink(l); err == nil && slices.Contains(ids, target) {
				out = append(out, l+" -> "+target)
			}
		}
	}
	return out
}

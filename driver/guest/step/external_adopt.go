package step

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink/nl"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/proc"
)

func doAdoptBPF(c *call, a bundle.AdoptBPF) error {
	old, taken := c.x.objects[a.Handle]
	if a.Handle == "" || taken && !c.x.external.adopted[a.Handle] {
		return fmt.Errorf("object handle %q is taken", a.Handle)
	}
	coll, err := c.adopt(a)
	if err != nil {
		return err
	}
	for _, name := range a.Maps {
		if coll.Maps[name] == nil {
			err = fault.Subject("%s loaded no map %q, only %q", a.Handle, name, slices.Sorted(maps.Keys(coll.Maps)))
		}
	}
	if err == nil && a.Link != "" {
		err = c.carriesXDP(a.Link, a.Hook)
	}
	if err != nil {
		coll.Close()
		return err
	}
	c.x.objects[a.Handle] = coll
	if taken {
		old.Close() // its undo takes the new one away
	} else {
		c.keepAdopted(a.Handle)
	}
	c.reportMemory(a.Handle)
	return nil
}

func (c *call) keepAdopted(handle string) {
	if c.x.external.adopted == nil {
		c.x.external.adopted = map[string]bool{}
	}
	c.x.external.adopted[handle] = true
	c.undoHere("adopted object "+handle, func(undoing) error {
		c.x.objects[handle].Close()
		delete(c.x.objects, handle)
		delete(c.x.external.adopted, handle)
		return nil
	})
}

// adopt opens what a daemon holds or a directory has pinned.
func (c *call) adopt(a bundle.AdoptBPF) (*ebpf.Collection, error) {
	coll := &ebpf.Collection{Programs: map[string]*ebpf.Program{}, Maps: map[string]*ebpf.Map{}}
	var err error
	switch daemon := c.x.external.daemons[a.Daemon]; {
	case a.Daemon != "" && a.Pins != "" || a.Daemon == "" && a.Pins == "":
		err = errors.New("adopt: exactly one of daemon and pins must be set")
	case a.Pins != "":
		var r *proc.Container
		if r, err = c.needContainer(&c.x.external.otherRoot, "external programs"); err == nil {
			err = adoptPinned(coll, r.Path(a.Pins))
		}
	case daemon == nil:
		err = fmt.Errorf("no daemon %q runs", a.Daemon)
	default:
		err = adoptHeld(coll, daemon.PID)
	}
	if err == nil && len(coll.Programs) == 0 {
		err = fault.Subject("%s loaded no program", a.Handle)
	}
	if err != nil {
		coll.Close()
		return nil, err
	}
	return coll, nil
}

// adoptPinned opens every map and program that is pinned below dir.
func adoptPinned(coll *ebpf.Collection, dir string) error {
	return filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if m, err := ebpf.LoadPinnedMap(file, nil); err == nil {
			coll.Maps[freeName(coll.Maps, e.Name())] = m
			return nil
		}
		p, err := ebpf.LoadPinnedProgram(file, nil)
		if err != nil {
			return fmt.Errorf("open pinned %s: %w", e.Name(), err)
		}
		coll.Programs[freeName(coll.Programs, e.Name())] = p
		return nil
	})
}

// adoptHeld opens every map and program of which a process holds a descriptor.
func adoptHeld(coll *ebpf.Collection, pid int) error {
	held, err := heldIDs(pid)
	if err != nil {
		return err
	}
	for _, id := range held["map_id"] {
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			return fmt.Errorf("open map %d: %w", id, err)
		}
		info, err := m.Info()
		if err != nil {
			return errors.Join(fmt.Errorf("read map %d: %w", id, err), m.Close())
		}
		coll.Maps[freeName(coll.Maps, info.Name)] = m
	}
	for _, id := range held["prog_id"] {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if err != nil {
			return fmt.Errorf("open program %d: %w", id, err)
		}
		info, err := p.Info()
		if err != nil {
			return errors.Join(fmt.Errorf("read program %d: %w", id, err), p.Close())
		}
		coll.Programs[freeName(coll.Programs, info.Name)] = p
	}
	return nil
}

// heldIDs lists the IDs in the fdinfo of a process, by key, each once and in the
// order in which the kernel gave them.
func heldIDs(pid int) (map[string][]uint32, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil || len(files) == 0 {
		return nil, errors.Join(fmt.Errorf("process %d has no descriptors", pid), err)
	}
	out := map[string][]uint32{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.Lines(string(data)) {
			key, value, _ := strings.Cut(line, ":")
			id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			if err == nil && (key == "map_id" || key == "prog_id") && !slices.Contains(out[key], uint32(id)) {
				out[key] = append(out[key], uint32(id))
			}
		}
	}
	for _, ids := range out {
		slices.Sort(ids)
	}
	return out, nil
}

// freeName is a name that nothing has: NAME, NAME#2, NAME#3, ...
func freeName[V any](taken map[string]V, name string) string {
	free := name
	for i := 2; ; i++ {
		if _, ok := taken[free]; !ok {
			return free
		}
		free = fmt.Sprintf("%s#%d", name, i)
	}
}

// carriesXDP checks the mode in which a link has a program. Which one it is does
// not matter: libxdp puts a dispatcher of its own before what it loads.
func (c *call) carriesXDP(name, hook string) error {
	l, err := c.link(name)
	if err != nil {
		return err
	}
	want := map[string]uint32{bundle.HookXDPNative: nl.XDP_ATTACHED_DRV, bundle.HookXDPGeneric: nl.XDP_ATTACHED_SKB}[hook]
	if got := l.Attrs().Xdp; want == 0 || got == nil || !got.Attached || got.AttachMode != want {
		return fault.Subject("XDP of %s reads back as %+v, want a program at hook %q", name, got, hook)
	}
	return nil
}

// readScript runs a script and reads the counters that it prints.
func (c *call) readScript(p bundle.Program) (counters, error) {
	out, err := c.run(c.ctx, p)
	if err != nil {
		return nil, err
	}
	got := counters{}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		return nil, fault.Subject("%s: %w: its output must be one JSON object of whole numbers, not %q", p, err, out[:min(len(out), 200)])
	}
	for _, key := range scriptCounters() {
		if _, ok := got[key]; !ok {
			return nil, fault.Subject("%s: its output has no %q: %q", p, key, out[:min(len(out), 200)])
		}
	}
	return got, nil
}

// scriptCounters are what a script has to print.
func scriptCounters() []string { return []string{"packets", "bytes", "dropped", "accepted", "entries"} }

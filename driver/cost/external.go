package cost

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
)

// Names of the projects whose programs are measured next to hookbed's.
const (
	projectXDPFilter = "xdp-filter"
	projectBPFilter  = "bpfilter"
)

// ExternalProjects lists the projects.
func ExternalProjects() []string { return []string{projectXDPFilter, projectBPFilter} }

// Environment is what the lab has.
type Environment struct {
	// NoExternal is why the programs of other projects are not there, "" if they are.
	NoExternal string
}

// errAbsent is wrapped by the error that another project's program is not there,
// or cannot hold so many policies.
var errAbsent = errors.New("not to be had")

func (e Environment) check() error {
	if e.NoExternal != "" {
		return fmt.Errorf("%w: %s", errAbsent, e.NoExternal)
	}
	return nil
}

func externalSubjects() []Subject {
	filter := func(name, features, program, doc string) Subject {
		return Subject{Name: name, Hook: HookXDP, External: projectXDPFilter, Accept: xdpPass, Doc: doc, render: xdpFilter(features, program)}
	}
	bf := func(name, hook, form, doc string) Subject {
		accept := map[string]uint32{HookTC: tcOK, HookXDP: xdpPass}[hook]
		return Subject{Name: name, Hook: hook, External: projectBPFilter, Accept: accept, Doc: doc, render: bpfilter(option{"form", form}, option{"hook", hook})}
	}
	return []Subject{
		filter("xdp-filter", "ipv4", "xdpfilt_dny_ip", "a hash of sources, as the arm xdp-filter has it; no ports"),
		filter("xdp-filter-all", "ipv4,tcp,udp", "xdpfilt_dny_all", "the same with its list of ports built in; source or port admits, so it cannot express our policies either"),
		bf("bpfilter-linear", HookTC, "linear", "the chain of the arm bpfilter, with a rule for each policy"),
		bf("bpfilter-set", HookTC, "set", "the chain of the arm bpfilter, with a set of source and port"),
		bf("bpfilter-linear-xdp", HookXDP, "linear", "the same chain of rules at XDP"),
		bf("bpfilter-set-xdp", HookXDP, "set", "the same set at XDP"),
	}
}

// Things of xdp-filter (xdp-tools 1.6): where it pins its maps, the table of IPv4
// addresses and its room, and the value that makes an entry one of a source
// (xdp-filter/common_kern_user.h, xdpfilt_prog.h).
const (
	xdpFilterPins = "/sys/fs/bpf/xdp-filter"
	xdpFilterMap  = "filter_ipv4"
	xdpFilterMax  = 10_000
	sourceFlag    = 1
)

// xdpFilter has xdp-filter load its program with a default to deny, holds the
// program and its maps, and has it unloaded from the link for the next. Its own
// command adds an address in 3 ms, so the addresses are put into its map; without
// those of neighbours, which an arm admits in addition to the policies, so that as many
// fit as the table has room for.
func xdpFilter(features, program string) func(Subject, int, Environment) (instance, error) {
	return func(s Subject, n int, env Environment) (instance, error) {
		if err := env.check(); err != nil {
			return instance{}, err
		}
		if n > xdpFilterMax {
			return instance{}, fmt.Errorf("%w: its table has room for %d addresses", errAbsent, xdpFilterMax)
		}
		cell, err := cellOf(fabricBase, projectXDPFilter, n)
		if err != nil {
			return instance{}, err
		}
		i := newInstance(s, n, cell)
		i.program = program
		i.bundle.Files["addresses"] = bundle.NewFile([]byte(sourceEntries(i.named)))
		command := func(args ...string) bundle.Program {
			// Under libxdp's own dispatcher, where the kernel can have it, the program would be an
			// extension, which cannot be run alone.
			return bundle.Program{Argv: append([]string{"xdp-filter"}, args...), Env: map[string]string{"LIBXDP_SKIP_DISPATCHER": "1"}}
		}
		i.atServer(bundle.Tool{Do: command("load", "eth0", "-m", "native", "-f", features, "-p", "deny"), Metric: bundle.MetricAttach})
		i.atServer(bundle.AdoptBPF{Handle: i.handle, Pins: xdpFilterPins, Maps: []string{xdpFilterMap}, Link: "eth0", Hook: bundle.HookXDPNative})
		i.step(bundle.FillMap{Handle: i.handle, Map: xdpFilterMap, File: "addresses"})
		i.attachNative(s, n)
		i.ends = []bundle.Step{atServer(bundle.Tool{Do: command("unload", "eth0"), Metric: metricDetach})}
		return i, nil
	}
}

// metricDetach keeps the time to end what loaded a program apart from loading it.
const metricDetach = "detach_seconds"

func (i *instance) atServer(do bundle.Action) { i.bundle.Steps = append(i.bundle.Steps, atServer(do)) }

func atServer(do bundle.Action) bundle.Step {
	return bundle.Step{Node: datapath.NodeAt(1).Name, Phase: bundle.Apply, In: datapath.Server, Do: do}
}

func sourceEntries(addrs []netip.Addr) string {
	var b strings.Builder
	for _, a := range addrs {
		fmt.Fprintf(&b, "%s %02x00000000000000\n", hex.EncodeToString(a.AsSlice()), sourceFlag)
	}
	return b.String()
}

const bpfilterProgram = "bf_prog" // as its daemon names every one

// bpfilter has its daemon load the very chain of an arm, holds the program and
// its maps, and ends the daemon.
func bpfilter(options ...option) func(Subject, int, Environment) (instance, error) {
	return func(s Subject, n int, env Environment) (instance, error) {
		if err := env.check(); err != nil {
			return instance{}, err
		}
		cell, err := cellOf(fabricBase, projectBPFilter, n, options...)
		if err != nil {
			return instance{}, err
		}
		setup, err := datapath.Render(cell)
		if err != nil {
			return instance{}, err
		}
		if setup.Unsupported != "" {
			return instance{}, fmt.Errorf("%w: %s", errAbsent, setup.Unsupported)
		}
		i := newInstance(s, n, cell)
		i.program, i.bundle.Files = bpfilterProgram, setup.Files
		i.bundle.Steps, i.ends = holding(setup.Apply, i.handle)
		if s.Hook == HookXDP {
			i.attachNative(s, n) // bpfilter's own link is generic
		}
		return i, nil
	}
}

// holding are the steps by which an arm has an external program loaded, under
// another handle, and those that end what loaded it.
func holding(apply []bundle.Step, handle string) (load, ends []bundle.Step) {
	for _, st := range apply {
		end := st
		switch do := st.Do.(type) {
		case bundle.Daemon:
			end.Do = bundle.Stop{Handle: do.Handle}
			ends = append(ends, end)
		case bundle.Tool:
			if do.Metric != "" || do.Undo == nil {
				continue // an update of the policies
			}
			end.Do, do.Undo = bundle.Tool{Do: *do.Undo, Metric: metricDetach}, nil
			ends = append(ends, end)
			st.Do = do
		case bundle.AdoptBPF:
			do.Handle = handle
			st.Do = do
		default:
			continue
		}
		load = append(load, st)
	}
	// An update adopts the program anew each time; here there is none.
	load = slices.CompactFunc(load, func(a, b bundle.Step) bool { return isAdopt(a) && isAdopt(b) })
	slices.Reverse(ends)
	return load, ends
}

func isAdopt(st bundle.Step) bool {
	_, ok := st.Do.(bundle.AdoptBPF)
	return ok
}

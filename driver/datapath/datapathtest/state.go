package datapathtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"

	"hookbed/driver/netdump"
)

// state is everything that a datapath can leave in a network namespace: one
// text for each view, normalised so that what changes by itself is not in it.
type state map[string]string

// view is one way to look at a namespace.
type view struct {
	name string
	look func(p *netns) (string, error)
}

// views lists all. Tools that a machine lacks left nothing there.
func views() []view {
	tool := func(argv ...string) view {
		return view{strings.Join(argv, " "), func(p *netns) (string, error) {
			out, err := p.run(argv...)
			if err != nil && !toolExists(argv[0]) {
				return "", nil
			}
			return out, err
		}}
	}
	// One process for all that ip can show.
	ip := func(name, family string, commands ...string) view {
		return view{name, func(p *netns) (string, error) {
			return p.feed(strings.Join(commands, "\n")+"\n", "ip", "-d", "-o", family, "-batch", "-")
		}}
	}
	return []view{
		ip(viewLinks, "-0", "link show"),
		// What the kernel learned of its neighbours by itself is its own.
		ip("ip", "-4", "addr show", "route show table all", "rule show", "neigh show nud permanent", "neigh show proxy"),
		ip("ip -6", "-6", "addr show", "route show table all", "rule show", "neigh show nud permanent", "neigh show proxy"),
		{viewFilters, tcObjects},
		tool("nft", "-s", "list", "ruleset"),
		tool("iptables-legacy-save"),
		tool("ip6tables-legacy-save"),
		tool("ipset", "save"),
		{viewPrograms, attachedPrograms},
		{"offloads", offloads},
		{"sysctl", sysctls},
	}
}

// Views in which programs are named.
const (
	viewLinks    = "ip link"
	viewFilters  = "tc"
	viewPrograms = "tcx"
)

func toolExists(name string) bool {
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// look takes the state of a namespace.
func look(p *netns) (state, error) {
	s := state{}
	for _, v := range views() {
		text, err := v.look(p)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", p.name, err)
		}
		s[v.name] = normalise(text)
	}
	return s, nil
}

// volatile is what differs between two looks at an unchanged namespace: timers,
// counters, the time of saving.
var volatile = regexp.MustCompile(`(?m)^#.*\n|\b\w+_timer +[0-9.]+ ?|\[\d+:\d+\]|(valid_lft|preferred_lft) \w+|\bexpires \d+sec ?`)

func normalise(text string) string {
	lines := strings.Split(volatile.ReplaceAllString(text, ""), "\n")
	slices.Sort(lines)
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

// differences lists what one state has and the other lacks, one line each.
func differences(before, after state) []string {
	var out []string
	for _, v := range views() {
		was, is := strings.Split(before[v.name], "\n"), strings.Split(after[v.name], "\n")
		for _, line := range is {
			if line != "" && !slices.Contains(was, line) {
				out = append(out, v.name+": + "+line)
			}
		}
		for _, line := range was {
			if line != "" && !slices.Contains(is, line) {
				out = append(out, v.name+": - "+line)
			}
		}
	}
	return out
}

// tcObjects lists qdiscs and the filters at both hooks of every link.
func tcObjects(p *netns) (string, error) {
	links, err := p.links()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = p.do(func() error {
		for _, l := range links {
			qdiscs, err := netdump.Whole(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(l) })
			if err != nil {
				return fmt.Errorf("list qdiscs of %s: %w", l.Attrs().Name, err)
			}
			for _, q := range qdiscs {
				if q.Attrs().LinkIndex == l.Attrs().Index {
					fmt.Fprintf(&b, "%s qdisc %s\n", l.Attrs().Name, q.Type())
				}
			}
			for hook, parent := range map[string]uint32{"ingress": netlink.HANDLE_MIN_INGRESS, "egress": netlink.HANDLE_MIN_EGRESS} {
				filters, err := netdump.Whole(func() ([]netlink.Filter, error) { return netlink.FilterList(l, parent) })
				if err != nil {
					return fmt.Errorf("list filters of %s: %w", l.Attrs().Name, err)
				}
				for _, f := range filters {
					fmt.Fprintf(&b, "%s %s filter %s\n", l.Attrs().Name, hook, describeFilter(f))
				}
			}
		}
		return nil
	})
	return b.String(), err
}

func describeFilter(f netlink.Filter) string {
	if bpf, ok := f.(*netlink.BpfFilter); ok {
		return fmt.Sprintf("bpf %s program %d", bpf.Name, bpf.Id)
	}
	return fmt.Sprintf("%s priority %d", f.Type(), f.Attrs().Priority)
}

func (p *netns) links() (links []netlink.Link, err error) {
	err = p.do(func() error {
		links, err = netdump.Whole(netlink.LinkList)
		return err
	})
	return links, err
}

// attachedPrograms lists programs that the tools of older distributions do not
// show: those of tcx and netkit hooks (Linux 6.6, 6.7).
func attachedPrograms(p *netns) (string, error) {
	// Before, the kernel has no such hooks, and calls the question invalid.
	if v, err := features.LinuxVersionCode(); err != nil || v < 6<<16|6<<8 {
		return "", err
	}
	links, err := p.links()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = p.do(func() error {
		for _, l := range links {
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				r, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: at})
				if errors.Is(err, ebpf.ErrNotSupported) {
					return nil
				}
				if err != nil {
					return fmt.Errorf("ask for programs of %s: %w", l.Attrs().Name, err)
				}
				for _, prog := range r.Programs {
					fmt.Fprintf(&b, "%s %s program %d\n", l.Attrs().Name, at, prog.ID)
				}
			}
		}
		return nil
	})
	return b.String(), err
}

func offloads(p *netns) (string, error) {
	links, err := p.links()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = p.do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		for _, l := range links {
			features, err := e.Features(l.Attrs().Name)
			if err != nil {
				return fmt.Errorf("read offloads of %s: %w", l.Attrs().Name, err)
			}
			for name, on := range features {
				fmt.Fprintf(&b, "%s %s %v\n", l.Attrs().Name, name, on)
			}
		}
		return nil
	})
	return b.String(), err
}

// ownSysctls are sysctls that the kernel changes by itself.
func ownSysctls() []string {
	return []string{"nf_conntrack_count", "stable_secret", "tcp_fastopen_key", "random", "flush"}
}

// sysctls reads those of the namespace.
func sysctls(p *netns) (string, error) {
	var b strings.Builder
	err := p.do(func() error {
		for _, dir := range []string{"ipv4", "ipv6", "bridge", "core"} {
			// Files of /proc/sys/net are those of the thread that opens them.
			if err := readSysctls(&b, filepath.Join("/proc/sys/net", dir)); err != nil {
				return err
			}
		}
		return nil
	})
	return b.String(), err
}

// readSysctls reads a tree of them in the calling thread's namespace.
func readSysctls(b *strings.Builder, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a module that is not there, or a link that went
	}
	if err != nil {
		return fmt.Errorf("read sysctls: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			if err := readSysctls(b, path); err != nil {
				return err
			}
			continue
		}
		if slices.Contains(ownSysctls(), e.Name()) {
			continue
		}
		if data, err := os.ReadFile(path); err == nil { // some are write-only
			fmt.Fprintf(b, "%s = %s\n", path, strings.TrimSpace(string(data)))
		}
	}
	return nil
}

package cost

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
)

// Names of the projects whose programs are measured beside ours.
const (
	PeerXDPFilter = "xdp-filter"
	PeerBPFilter  = "bpfilter"
)

// Peers lists the projects.
func Peers() []string { return []string{PeerXDPFilter, PeerBPFilter} }

// Environment is where the programs of other projects are.
type Environment struct {
	// PeersDir is a root file system with them, or Debian's packages unpacked side
	// by side; "" looks on PATH.
	PeersDir string
}

// errAbsent is wrapped by the error that another project's program is not there.
var errAbsent = errors.New("not installed")

func peers() []Subject {
	filter := func(name, features, doc string) Subject {
		return Subject{Name: name, Hook: HookXDP, Foreign: PeerXDPFilter, Accept: xdpPass, Doc: doc, render: xdpFilter(features)}
	}
	bf := func(name, hook, doc string, set bool) Subject {
		accept := map[string]uint32{HookTC: tcOK, HookXDP: xdpPass}[hook]
		return Subject{Name: name, Hook: hook, Foreign: PeerBPFilter, Accept: accept, Doc: doc, render: bpfilter(set)}
	}
	return []Subject{
		filter("xdp-filter", "ipv4,tcp,udp", "sources in a hash, then ports in an array; either admits, so it cannot express our policies"),
		filter("xdp-filter-ip", "ipv4", "the same project's program for sources only"),
		bf("bpfilter-linear", HookTC, "a chain with a rule for each policy", false),
		bf("bpfilter-set", HookTC, "a chain with one set of source and port", true),
		bf("bpfilter-linear-xdp", HookXDP, "the same chain at XDP", false),
		bf("bpfilter-set-xdp", HookXDP, "the same set at XDP", true),
	}
}

// find says whether a program is where scripts will look for it.
func (e Environment) find(program string) error {
	if e.PeersDir == "" {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: no %s on PATH; give a directory with it by --peers-dir", errAbsent, program)
		}
		return nil
	}
	if _, err := os.Stat(filepath.Join(e.PeersDir, "usr/sbin", program)); err != nil {
		return fmt.Errorf("%w: no usr/sbin/%s under %s", errAbsent, program, e.PeersDir)
	}
	return nil
}

// vars are the environment variables of scripts.
func (e Environment) vars() map[string]string {
	if e.PeersDir == "" {
		return nil
	}
	lib, _ := filepath.Glob(filepath.Join(e.PeersDir, "usr/lib/*-linux-gnu"))
	return map[string]string{
		"PEERS": e.PeersDir, "LIBXDP_OBJECT_PATH": filepath.Join(strings.Join(lib, ":"), "bpf"),
		"PEERS_LIB": strings.Join(lib, ":"),
	}
}

// scriptHead defines `peer PROGRAM ARGUMENTS...`: by chroot where the directory
// has a C library of its own, else with its other libraries. Rules go by /run,
// which is one and the same inside and outside.
const scriptHead = `
if [ -z "${PEERS:-}" ]; then
	peer() { "$@"; }
elif [ -e "$PEERS/lib64" ]; then
	for dir in proc run dev sys/fs/bpf; do mount --bind "/$dir" "$PEERS/$dir"; done
	unset LIBXDP_OBJECT_PATH
	peer() { program=$1; shift; chroot "$PEERS" "/usr/sbin/$program" "$@"; }
else
	peer() { program=$1; shift; LD_LIBRARY_PATH=$PEERS_LIB "$PEERS/usr/sbin/$program" "$@"; }
fi
`

// newPeer renders what every peer needs: a link of its own, and the script.
func newPeer(s Subject, n int, env Environment, script string) (instance, bundle.Peer, error) {
	cell, err := cellOf("bridge", "xdp-hash", n)
	if err != nil {
		return instance{}, bundle.Peer{}, err
	}
	i := newInstance(s, n, cell)
	i.program = bundle.PeerProgram
	i.bundle.Files["script"] = bundle.NewFile([]byte(scriptHead + script))
	link := linkName(s, n)
	i.step(bundle.Veth{Link: link, Peer: link + "p", PeerIn: ""})
	return i, bundle.Peer{Handle: i.handle, Script: "script", Env: env.vars(), Link: link, Hook: hookOf(s), Timeout: 120}, nil
}

func hookOf(s Subject) string {
	if s.Hook == HookXDP {
		return bundle.HookXDPNative
	}
	return bundle.HookTCIngress
}

// xdpFilterMap is xdp-filter's table of IPv4 addresses, and sourceFlag its
// value that makes an entry one of a source (xdp-tools, xdp-filter/common_kern_user.h).
const (
	xdpFilterMap = "filter_ipv4"
	sourceFlag   = 1
	xdpFilterMax = 10_000 // entries of the table
)

// xdpFilter loads xdp-filter with its default to deny. Its command adds one
// address in 3 ms, so it adds the first and the rest are put into its map.
func xdpFilter(features string) func(Subject, int, Environment) (instance, error) {
	return func(s Subject, n int, env Environment) (instance, error) {
		if err := env.find("xdp-filter"); err != nil {
			return instance{}, err
		}
		i, peer, err := newPeer(s, n, env, "")
		if err != nil {
			return i, err
		}
		if n > xdpFilterMax {
			return i, fmt.Errorf("%w: its table holds %d addresses", errAbsent, xdpFilterMax)
		}
		script := scriptHead + fmt.Sprintf(`
peer xdp-filter load -m native -f %s -p deny %s >&2
peer xdp-filter ip -m src %s >&2
echo ready
read line
`, features, peer.Link, i.named[0])
		i.bundle.Files["script"] = bundle.NewFile([]byte(script))
		i.step(peer)
		if n > 1 {
			i.bundle.Files["addresses"] = bundle.NewFile([]byte(sourceEntries(i.named[1:])))
			i.step(bundle.FillMap{Handle: i.handle, Map: xdpFilterMap, File: "addresses"})
		}
		return i, nil
	}
}

func sourceEntries(addrs []netip.Addr) string {
	var b strings.Builder
	for _, a := range addrs {
		fmt.Fprintf(&b, "%s %02x00000000000000\n", hex.EncodeToString(a.AsSlice()), sourceFlag)
	}
	return b.String()
}

// bpfilter loads a chain that drops by default through bpfilter's daemon.
func bpfilter(set bool) func(Subject, int, Environment) (instance, error) {
	return func(s Subject, n int, env Environment) (instance, error) {
		for _, program := range []string{"bpfilter", "bfcli"} {
			if err := env.find(program); err != nil {
				return instance{}, err
			}
		}
		link := linkName(s, n)
		i, peer, err := newPeer(s, n, env, fmt.Sprintf(`
index=$(ip -o link show %s | cut -d: -f1)
sed "s/INDEX/$index/" chain > /run/chain
mkdir -p /run/bpfilter
peer bpfilter --transient --bpffs-path=/sys/fs/bpf/bf >&2 &
for try in $(seq 100); do
	[ -S /run/bpfilter/daemon.sock ] && break
	sleep 0.05
done
peer bfcli ruleset set --from-file /run/chain >&2
echo ready
read line
`, link))
		if err != nil {
			return i, err
		}
		hook := "BF_HOOK_TC_INGRESS"
		if s.Hook == HookXDP {
			hook = "BF_HOOK_XDP"
		}
		i.bundle.Files["chain"] = bundle.NewFile([]byte(chain(hook, i.named, set)))
		peer.Files = []string{"chain"}
		i.step(peer)
		if s.Hook == HookXDP {
			i.attachNative(s, n) // bpfilter's own link is generic
		}
		return i, nil
	}
}

// chain is a bpfilter chain of the policies.
func chain(hook string, sources []netip.Addr, set bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "chain policies %s{ifindex=INDEX} DROP\n", hook)
	if set {
		b.WriteString("    rule\n        (ip4.saddr, tcp.dport) in {\n")
		for k, a := range sources {
			sep := ";"
			if k == len(sources)-1 {
				sep = ""
			}
			fmt.Fprintf(&b, "            %s,%d%s\n", a, datapath.ServicePort, sep)
		}
		b.WriteString("        }\n        ACCEPT\n")
		return b.String()
	}
	for _, a := range sources {
		fmt.Fprintf(&b, "    rule\n        ip4.saddr eq %s\n        tcp.dport eq %d\n        ACCEPT\n", a, datapath.ServicePort)
	}
	return b.String()
}

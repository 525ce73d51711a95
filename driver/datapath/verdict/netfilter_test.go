package verdict_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/policy"
	"hookbed/driver/policy/policytest"
)

// netfilterSets is how many random sets TestNetfilterAnswersAsTheReference has.
var netfilterSets = flag.Int("netfilter-sets", 20, "number of random sets of policies for the rules in the kernel")

// TestNetfilterAnswersAsTheReference loads the rendered rules and sets with iptables, nft and
// ipset into a network namespace, and sends a packet of each flow into it. What INPUT admits,
// a raw socket of the namespace receives.
func TestNetfilterAnswersAsTheReference(t *testing.T) {
	answers := map[string][2]int{} // denied, allowed
	for seed := range uint64(*netfilterSets) {
		s := policytest.Generate(seed)
		c, own := read(t, s)
		for _, d := range enforcing() {
			if d.Mechanism != "netfilter" || d.External != "" {
				continue
			}
			setup, err := datapath.Render(datapath.OwnCell(d, own, s.IPv6))
			if errors.Is(err, datapath.ErrCannotHold) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			err = inNamespace(setup.Topology.Server.Addr, func(n *namespace) error {
				if err := n.load(setup); err != nil {
					return err
				}
				for _, f := range s.Flows {
					if !f.From.IsGlobalUnicast() {
						continue // IP drops what comes from such an address before INPUT
					}
					want := c.Decide(f).Allowed
					got, err := n.admits(f)
					if err != nil {
						return err
					}
					if got != want {
						return fmt.Errorf("%+v: the kernel admits it: %v, the reference: %v\n%s\n%s", f, got, want, s.Inventory, s.Policies)
					}
					n := answers[d.Filter]
					n[map[bool]int{true: 1}[got]]++
					answers[d.Filter] = n
				}
				return nil
			})
			if err != nil {
				t.Fatalf("seed %d, %s: %v", seed, d.Name, err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		n := answers[name]
		t.Logf("%-16s %7d packets dropped by the kernel, %7d admitted", name, n[0], n[1])
		if n[0] == 0 || n[1] == 0 {
			t.Errorf("%s: nothing was compared", name)
		}
	}
	if len(answers) < 6 {
		t.Errorf("%d filters were asked, want those of netfilter", len(answers))
	}
}

// namespace is a network namespace with one link, through which packets to its address come.
type namespace struct {
	addr netip.Addr
	link *os.File
	raw  map[uint8]int // by protocol
	port uint16        // of sources: each packet begins a connection of its own
}

// inNamespace calls f on a thread of a new network namespace, and ends both.
func inNamespace(addr netip.Addr, f func(*namespace) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		n := &namespace{addr: addr, raw: map[uint8]int{}, port: 1024}
		if err == nil {
			err = n.open()
		}
		if err == nil {
			err = f(n)
		}
		done <- errors.Join(err, n.close())
	}()
	return <-done
}

func (n *namespace) open() error {
	var err error
	if n.link, err = os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		return err
	}
	ifr, err := unix.NewIfreq("in0")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(int(n.link.Fd()), unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("make a link: %w", err)
	}
	family, tool, flags := unix.AF_INET, "ip -4 -batch -", ""
	if n.addr.Is6() {
		family, tool, flags = unix.AF_INET6, "ip -6 -batch -", " nodad"
	}
	setup := fmt.Sprintf("link set lo up\nlink set in0 up\naddr add %s dev in0%s\nroute add default dev in0\n",
		netip.PrefixFrom(n.addr, n.addr.BitLen()), flags)
	if err := run(tool, setup); err != nil {
		return err
	}
	for _, proto := range []uint8{policy.ProtoTCP, policy.ProtoUDP} {
		if n.raw[proto], err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(proto)); err != nil {
			return fmt.Errorf("open a raw socket: %w", err)
		}
	}
	return n.awaitReady()
}

// awaitReady waits until the namespace, which has no rules yet, receives packets: of IPv6 it
// does so when the link's carrier has been noticed.
func (n *namespace) awaitReady() error {
	from := n.addr.Next()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok, err := n.admits(policy.Flow{From: from, Proto: policy.ProtoUDP, Port: 1}); ok || err != nil {
			return err
		}
	}
	return errors.New("a namespace without rules receives nothing")
}

func (n *namespace) close() (err error) {
	for _, fd := range n.raw {
		err = errors.Join(err, unix.Close(fd))
	}
	if n.link != nil {
		err = errors.Join(err, n.link.Close())
	}
	return err
}

// run gives a program its standard input, in the calling thread's namespace.
func run(command, in string) error {
	argv := strings.Fields(command)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s\n%s", command, err, out, in)
	}
	return nil
}

// load loads the setup's rules and sets with the tools that they are for.
func (n *namespace) load(s datapath.Setup) error {
	loaded := 0
	for _, st := range s.Apply {
		rules, ok := st.Do.(bundle.Rules)
		if !ok || rules.Metric == bundle.MetricUpdate {
			continue
		}
		if st.In != datapath.Server {
			return fmt.Errorf("rules of %q, want those of the server", st.In)
		}
		command, ok := map[string]string{"nft": "nft -f -", "ipset": "ipset restore"}[rules.Tool]
		if !ok {
			command = rules.Tool + "-restore"
		}
		if err := run(command, string(s.Files[rules.File].Data)); err != nil {
			return err
		}
		loaded++
	}
	if loaded == 0 {
		return errors.New("no rules were rendered")
	}
	return nil
}

// admits sends a packet of a flow in. The kernel delivers it, or does not, before the write
// returns.
func (n *namespace) admits(f policy.Flow) (bool, error) {
	n.port++
	const ethernet = 14
	if _, err := n.link.Write(packet(f, n.addr, n.port)[ethernet:]); err != nil {
		return false, fmt.Errorf("send a packet: %w", err)
	}
	buf := make([]byte, 256)
	for {
		size, _, err := unix.Recvfrom(n.raw[f.Proto], buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("receive a packet: %w", err)
		}
		header := 0 // raw(7) has it, the socket of IPv6 does not
		if n.addr.Is4() {
			header = 20
		}
		if size >= header+4 && binary.BigEndian.Uint16(buf[header:]) == n.port && binary.BigEndian.Uint16(buf[header+2:]) == f.Port {
			return true, nil
		}
	}
}

package step

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/computer"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
	"hookbed/driver/guest/sysfs"
)

const (
	factLimit = 30 * time.Second // for one tool to print its version; only one that hangs takes it
)

// MachineFacts are the facts of the machine as a helper without a session finds them.
func MachineFacts(ctx context.Context) (map[string]string, error) {
	x, err := newExecutor()
	if err != nil {
		return nil, err
	}
	facts, err := x.facts(ctx)
	// The processes that printed their versions end with their namespace.
	return facts, errors.Join(err, x.undoTo(0))
}

// facts is what the environment record of a run needs to know of a node. A
// fact that cannot be learned is left out. But what is not there and what was killed before it could
// say its version are not the same: an arm whose tool is missing is not supported, for good.
func (x *executor) facts(ctx context.Context) (map[string]string, error) {
	f := map[string]string{}
	kernelFacts(f)
	cpuFacts(f)
	maps.Copy(f, netns.HostSysctls())
	_ = fillJIT(f) // what cannot be learned is left out
	err := x.node.WithNetlink(func(h *netlink.Handle) error {
		sysfs.SysctlFacts(f, namespaceSysctls())
		congestionFacts(f)
		linkFacts(f, h)
		return nil
	})
	if err != nil {
		return nil, err
	}
	x.heldLinkFacts(f)
	return f, x.toolFacts(ctx, f)
}

// heldLinkFacts describes the data link of the first node that the helper
// holds as a namespace, if it holds any.
func (x *executor) heldLinkFacts(f map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(x.endpoints)) {
		if f["link."+netns.DataLink+".mtu"] != "" {
			return
		}
		// What cannot be learned is left out.
		_ = x.endpoints[name].WithNetlink(func(h *netlink.Handle) error {
			linkFacts(f, h)
			return nil
		})
	}
}

func kernelFacts(f map[string]string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return
	}
	release := unix.ByteSliceToString(u.Release[:])
	sysfs.SetFact(f, "kernel.release", release)
	sysfs.SetFact(f, "kernel.version", unix.ByteSliceToString(u.Version[:]))
	sysfs.SetFact(f, "kernel.config_sha256", configDigest(release))
	sysfs.SetFact(f, "clocksource", sysfs.ReadLine("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
}

// configDigest is the SHA-256 of the kernel's configuration as text.
func configDigest(release string) string {
	data, err := os.ReadFile("/proc/config.gz")
	if err == nil {
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(data)); err == nil {
			data, err = io.ReadAll(z)
		}
	}
	if err != nil {
		data, err = os.ReadFile("/boot/config-" + release)
	}
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func cpuFacts(f map[string]string) {
	sysfs.SetFact(f, "cpu.count", strconv.Itoa(runtime.NumCPU()))
	sysfs.SetFact(f, "cpu.pinnable", computer.List(computer.CPUs()))
	data, _ := os.ReadFile("/proc/cpuinfo")
	sysfs.SetFact(f, "cpu.model", cpuModel(string(data)))
	files, _ := filepath.Glob("/sys/devices/system/cpu/vulnerabilities/*")
	var out []string
	for _, path := range files {
		if state := sysfs.ReadLine(path); state != "Not affected" {
			out = append(out, filepath.Base(path)+"="+state)
		}
	}
	sysfs.SetFact(f, "mitigations", strings.Join(out, "; "))
}

// cpuModel finds the model in /proc/cpuinfo (x86; other architectures name it
// differently or not at all).
func cpuModel(cpuinfo string) string {
	for _, line := range strings.Split(cpuinfo, "\n") {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// namespaceSysctls are those of the node's own network namespace.
func namespaceSysctls() []string {
	return []string{
		"net.ipv4.tcp_congestion_control", "net.ipv4.tcp_available_congestion_control",
		"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem", "net.ipv4.ip_forward", "net.core.somaxconn",
		"net.bridge.bridge-nf-call-iptables", "net.netfilter.nf_conntrack_max",
	}
}

// congestionFacts are the congestion controls that endpoints may have; nothing where the
// kernel does not show them.
func congestionFacts(f map[string]string) {
	usable, restricted := computer.Congestion()
	sysfs.SetFact(f, "congestion.usable", strings.Join(usable, " "))
	sysfs.SetFact(f, "congestion.restricted", strings.Join(restricted, " "))
}

// linkFacts describes the node's data link.
func linkFacts(f map[string]string, h *netlink.Handle) {
	l, err := h.LinkByName(netns.DataLink)
	if err != nil {
		return
	}
	prefix := "link." + netns.DataLink + "."
	a := l.Attrs()
	sysfs.SetFact(f, prefix+"mtu", strconv.Itoa(a.MTU))
	sysfs.SetFact(f, prefix+"queues", fmt.Sprintf("%d rx, %d tx", a.NumRxQueues, a.NumTxQueues))
	et, err := ethtool.NewEthtool()
	if err != nil {
		return
	}
	defer et.Close()
	if driver, err := et.DriverName(netns.DataLink); err == nil {
		sysfs.SetFact(f, prefix+"driver", driver)
	}
	if ch, err := et.GetChannels(netns.DataLink); err == nil {
		sysfs.SetFact(f, prefix+"channels", fmt.Sprintf("%d of %d", ch.CombinedCount, ch.MaxCombined))
	}
	features, err := et.Features(netns.DataLink)
	if err != nil {
		return
	}
	maps.DeleteFunc(features, func(_ string, on bool) bool { return !on })
	sysfs.SetFact(f, prefix+"offloads", strings.Join(slices.Sorted(maps.Keys(features)), " "))
}

// toolFacts are the versions of the tools on the node, and of the workloads in the
// endpoint root. The error is that of a tool that was interrupted.
func (x *executor) toolFacts(ctx context.Context, f map[string]string) error {
	flags := map[string]string{
		"iptables-legacy": "--version", "iptables-nft": "--version", "nft": "--version",
		"ip6tables-legacy": "--version", "ip6tables-nft": "--version",
		"ipset": "--version", "ip": "-Version", "ethtool": "--version", "dockerd": "--version",
	}
	inside := &proc.Endpoint{Namespace: x.node.Namespace, Root: x.root}
	of := func(name string, at *proc.Endpoint, argv ...string) error {
		version, err := x.versionOf(ctx, at, argv...)
		sysfs.SetFact(f, name, version)
		return err
	}
	for _, tool := range slices.Sorted(maps.Keys(flags)) {
		if err := of("tool."+tool, x.node, tool, flags[tool]); err != nil {
			return err
		}
	}
	return errors.Join(of("endpoint.iperf3", inside, "iperf3", "--version"), of("endpoint.netperf", inside, "netperf", "-V"))
}

var hasDigit = regexp.MustCompile(`\d`)

// versionOf runs a tool and returns the first line it prints that has a number in
// it, "" when there is none. The error is that of a tool that was interrupted.
func (x *executor) versionOf(ctx context.Context, at *proc.Endpoint, argv ...string) (string, error) {
	if _, err := proc.LookIn(at.Root, argv[0]); err != nil {
		return "", nil //nolint:nilerr // it is not there
	}
	out := &proc.Head{Limit: 4096}
	p, err := x.launcher.Start(at, proc.Program{Argv: argv, Stdout: out, Stderr: out})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOEXEC):
		return "", nil // what is there is not a program that works
	case err != nil:
		return "", fmt.Errorf("learn the version: %w", err)
	}
	late := false
	select {
	case <-p.Done:
	case <-time.After(factLimit):
		late = true
	case <-ctx.Done():
		return "", errors.Join(fmt.Errorf("learn the version of %s: %w", argv[0], ctx.Err()), p.End(ctx))
	}
	if err := p.End(ctx); err != nil || late {
		return "", err
	}
	if killed := (*exec.ExitError)(nil); errors.As(p.Err, &killed) && killed.ProcessState.ExitCode() < 0 {
		return "", fmt.Errorf("learn the version of %s: it ended by %s", argv[0], killed.ProcessState)
	}
	for _, line := range strings.Split(string(out.Data), "\n") {
		if hasDigit.MatchString(line) {
			return strings.Join(strings.Fields(line), " "), nil
		}
	}
	return "", nil
}

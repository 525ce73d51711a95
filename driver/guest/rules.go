package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/tail"
)

// ruleToolLimit bounds one call of a rule-set tool; 10 000 rules through
// iptables-nft take a few seconds under emulation.
const ruleToolLimit = 120 * time.Second

// Tools that load rule sets, besides the variants of iptables.
const (
	toolNft   = "nft"
	toolIPSet = "ipset"
)

func isIPTables(tool string) bool {
	switch tool {
	case "iptables-legacy", "iptables-nft", "ip6tables-legacy", "ip6tables-nft":
		return true
	default:
		return false
	}
}

// quoteLimit bounds what is quoted of an offending line, in bytes.
const quoteLimit = 200

// restoreArgv is the command that loads a rule set from its standard input.
func restoreArgv(tool string) ([]string, error) {
	switch {
	case isIPTables(tool):
		return []string{tool + "-restore", "--noflush", "-w", "5"}, nil
	case tool == toolNft:
		return []string{toolNft, "-f", "-"}, nil
	case tool == toolIPSet:
		return []string{toolIPSet, "restore"}, nil
	default:
		return nil, fmt.Errorf("unknown rule-set tool %q", tool)
	}
}

func doRules(c *call, a bundle.Rules) error {
	data, err := c.file(a.File)
	if err != nil {
		return err
	}
	var undo []byte
	if a.Undo != "" {
		if undo, err = c.file(a.Undo); err != nil {
			return err
		}
	}
	argv, err := restoreArgv(a.Tool)
	if err != nil {
		return err
	}
	if a.Tool == toolNft {
		if data, err = fillHandles(c.ctx, data); err != nil {
			return fmt.Errorf("load %s: %w", a.File, err)
		}
	}
	load := func(in *memoryCgroup) error { return c.timedLoad(a, in, argv, data) }
	var left xtChains
	var table legacyTable
	if a.Undo != "" {
		if left, err = c.noteXTChains(a.Tool); err != nil {
			return fmt.Errorf("load %s: %w", a.File, err)
		}
		if table, err = c.loadLegacyTable(a.Tool); err != nil {
			return fmt.Errorf("load %s: %w", a.File, err)
		}
	}
	if a.Metric == "" || a.Metric == bundle.MetricLoad {
		err = c.weigh(load)
	} else {
		err = load(nil)
	}
	if err != nil {
		return fmt.Errorf("load %s: %w", a.File, err)
	}
	if a.Undo != "" {
		c.undoHere("rules of "+a.File, func(u undoing) error {
			return errors.Join(restore(u.ctx, nil, argv, undo), left.clear(u.ctx), table.unload())
		})
	}
	if a.Tool == toolIPSet {
		return c.addIPSets(data)
	}
	return nil
}

// timedLoad loads a rule set and records how long the tool took.
func (c *call) timedLoad(a bundle.Rules, in *memoryCgroup, argv []string, data []byte) error {
	start := time.Now()
	err := restore(c.ctx, in, argv, data)
	c.value(cmp.Or(a.Metric, bundle.MetricLoad), time.Since(start).Seconds())
	return err
}

// handlePlace is the text that stands for a rule's handle: family, table and
// chain, and the rule's comment.
var handlePlace = regexp.MustCompile(`\{handle:(\w+) (\w+) (\w+) ([^{}]+)\}`)

// fillHandles puts the handles of rules, as the kernel numbers them now, in
// the places of a file for nft.
func fillHandles(ctx context.Context, data []byte) ([]byte, error) {
	var failed error
	out := handlePlace.ReplaceAllFunc(data, func(place []byte) []byte {
		m := handlePlace.FindStringSubmatch(string(place))
		handle, err := findHandle(ctx, m[1], m[2], m[3], m[4])
		failed = errors.Join(failed, err)
		return strconv.AppendUint(nil, handle, 10)
	})
	return out, failed
}

// findHandle finds the one rule of a chain with a comment.
func findHandle(ctx context.Context, family, table, chain, comment string) (uint64, error) {
	objects, err := listNft(ctx, "chain", family, table, chain)
	if err != nil {
		return 0, err
	}
	var handles []uint64
	for _, o := range objects {
		if o.Rule != nil && o.Rule.Comment == comment {
			handles = append(handles, o.Rule.Handle)
		}
	}
	if len(handles) != 1 {
		return 0, fmt.Errorf("chain %s %s %s has %d rules with the comment %q, want one", family, table, chain, len(handles), comment)
	}
	return handles[0], nil
}

// restore runs a rule-set tool in the thread's namespace, in a cgroup if one is
// given.
func restore(ctx context.Context, in *memoryCgroup, argv []string, input []byte) error {
	_, err := runToolIn(ctx, in, argv, input)
	if err == nil {
		return nil
	}
	if line := offendingLine(err.Error(), input); line != "" {
		return fmt.Errorf("%w: %s", err, line)
	}
	return err
}

// runTool runs a tool of the node in the thread's namespace and returns its
// standard output. A missing tool, or one that says that the kernel lacks what
// it needs, is an unsupported fault.
func runTool(ctx context.Context, argv []string, input []byte) ([]byte, error) {
	return runToolIn(ctx, nil, argv, input)
}

// runToolIn is runTool in a memory cgroup. Of version 1 the calling thread is
// in it already.
func runToolIn(ctx context.Context, in *memoryCgroup, argv []string, input []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, ruleToolLimit)
	defer cancel()
	path, err := lookIn("", argv[0])
	if err != nil {
		return nil, unsupported("%w", err)
	}
	stdout, err := memoryFile()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	stderr := tail.NewBuffer(2048)
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Env = processEnv()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), stdout, stderr
	cmd.WaitDelay = time.Second
	// A Ctrl-C at the terminal must not end the tool in the middle of an undo.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	leave, err := in.startInside(cmd.SysProcAttr)
	if err != nil {
		return nil, err
	}
	defer leave()
	err = cmd.Run()
	if err == nil {
		return readFrom(stdout)
	}
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	err = fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(stderr.String()))
	if feature := lackedFeature(stderr.String()); feature != "" {
		return nil, unsupported("kernel %s lacks %s: %w", kernelRelease(), feature, err)
	}
	return nil, err
}

// memoryFile makes a file in memory for what a tool prints. nft writes every few
// bytes, and through a pipe each of 10 000 rules would wake the reader many
// times over.
func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "output"), nil
}

// readFrom reads a file from its beginning.
func readFrom(f *os.File) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// lack is what a tool prints when the kernel lacks what it needs.
type lack struct{ says, feature string }

// lacks lists what iptables, nft and ipset print when the kernel has no support
// for a table, an expression or a type of set.
func lacks() []lack {
	return []lack{
		{"Table does not exist", "the table (modules ip_tables, ip6_tables, iptable_filter, ip6table_filter)"},
		{"table does not exist", "the table (modules ip_tables, ip6_tables, iptable_filter, ip6table_filter)"},
		{"do you need to insmod", "the table (modules ip_tables, ip6_tables, iptable_filter, ip6table_filter)"},
		{"missing kernel module", "a match or target (modules xt_*)"},
		{"Protocol error", "connection tracking of bridged packets (nf_conntrack_bridge, since Linux 5.3)"},
		{"Protocol not supported", "nf_tables, or a family of it"},
		{"Operation not supported", "a set, map or expression of nf_tables (concatenated ranges: since Linux 5.6)"},
		{"Cannot open session to kernel", "IP sets (module ip_set)"},
		{"open socket to ipset", "IP sets (module ip_set)"},
		{"set type not supported", "the type of IP set (modules ip_set_*)"},
	}
}

// lackedFeature names the feature that the kernel lacks according to a tool's
// message, "" if the message is about something else.
func lackedFeature(stderr string) string {
	for _, l := range lacks() {
		if strings.Contains(stderr, l.says) {
			return l.feature
		}
	}
	return ""
}

// kernelRelease is that of uname -r.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// offendingLine quotes the line of the input that a message names, like
// `line 3 failed` or `Error occurred at line: 3`; "" if it names none.
func offendingLine(msg string, input []byte) string {
	m := regexp.MustCompile(`(?:\bline:? |/dev/stdin:|-:)(\d+)`).FindStringSubmatch(msg)
	if m == nil {
		return ""
	}
	n, err := strconv.Atoi(m[1])
	lines := strings.Split(string(input), "\n")
	if err != nil || n < 1 || n > len(lines) {
		return ""
	}
	line := lines[n-1]
	if len(line) > quoteLimit {
		line = line[:quoteLimit] + "..."
	}
	return fmt.Sprintf("line %d is %q", n, line)
}

// Package ruleset loads netfilter rule sets with the tools of iptables, nftables and ipset,
// reads their counters and the kernel memory they take, and removes what tools leave.
package ruleset

import (
	"bytes"
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

	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/proc"
	"hookbed/driver/tail"
)

// ruleToolLimit bounds one call of a rule-set tool; 10 000 rules through
// iptables-nft take a few seconds under emulation.
const ruleToolLimit = 120 * time.Second

// Tools that load rule sets, in addition to the variants of iptables.
const (
	ToolNft   = "nft"
	ToolIPSet = "ipset"
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

// RestoreArgv is the command that loads a rule set from its standard input.
func RestoreArgv(tool string) ([]string, error) {
	switch {
	case isIPTables(tool):
		return []string{tool + "-restore", "--noflush", "-w", "5"}, nil
	case tool == ToolNft:
		return []string{ToolNft, "-f", "-"}, nil
	case tool == ToolIPSet:
		return []string{ToolIPSet, "restore"}, nil
	default:
		return nil, fmt.Errorf("unknown rule-set tool %q", tool)
	}
}

// Restore runs a rule-set tool in the thread's namespace, in a cgroup if one is
// given.
func Restore(ctx context.Context, in *MemoryCgroup, argv []string, input []byte) error {
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
func runToolIn(ctx context.Context, in *MemoryCgroup, argv []string, input []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, ruleToolLimit)
	defer cancel()
	path, err := proc.LookIn("", argv[0])
	if err != nil {
		return nil, fault.Unsupported("%w", err)
	}
	stdout, err := memoryFile()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	stderr := tail.NewBuffer(2048)
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Env = proc.ProcessEnv()
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
	if feature := LackedFeature(stderr.String()); feature != "" {
		return nil, fault.Unsupported("kernel %s lacks %s: %w", fault.KernelRelease(), feature, err)
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

// LackedFeature names the feature that the kernel lacks according to a tool's
// message, "" if the message is about something else.
func LackedFeature(stderr string) string {
	for _, l := range lacks() {
		if strings.Contains(stderr, l.says) {
			return l.feature
		}
	}
	return ""
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

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hookbed/driver/bundle"
)

// ruleToolLimit bounds one call of a rule-set tool; 10 000 rules through
// iptables-nft take a few seconds under emulation.
const ruleToolLimit = 120 * time.Second

// restoreArgv is the command that loads a rule set from its standard input.
func restoreArgv(tool string) ([]string, error) {
	switch tool {
	case "iptables-legacy", "iptables-nft":
		return []string{tool + "-restore", "--noflush", "-w", "5"}, nil
	case "nft":
		return []string{"nft", "-f", "-"}, nil
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
	start := time.Now()
	err = restore(c.ctx, argv, data)
	c.value(cmp.Or(a.Metric, bundle.MetricLoad), time.Since(start).Seconds())
	if err != nil {
		return fmt.Errorf("load %s: %w", a.File, err)
	}
	if a.Undo != "" {
		c.undoHere("rules of "+a.File, func(u undoing) error { return restore(u.ctx, argv, undo) })
	}
	return nil
}

// restore runs a rule-set tool in the thread's namespace.
func restore(ctx context.Context, argv []string, input []byte) error {
	_, err := runTool(ctx, argv, input)
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
	ctx, cancel := context.WithTimeout(ctx, ruleToolLimit)
	defer cancel()
	path, err := lookIn("", argv[0])
	if err != nil {
		return nil, unsupported("%w", err)
	}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Env = processEnv()
	cmd.Stdin = bytes.NewReader(input)
	var stdout bytes.Buffer
	stderr := &tail{limit: 2048}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	cmd.WaitDelay = time.Second
	// A Ctrl-C at the terminal must not end the tool in the middle of an undo.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	err = fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(stderr.String()))
	if lacksKernel(stderr.String()) {
		return nil, unsupported("%w", err)
	}
	return nil, err
}

// lacksKernel recognises what iptables and nft print when the kernel has no
// support for a table or an expression.
func lacksKernel(stderr string) bool {
	for _, s := range []string{"Table does not exist", "table does not exist", "do you need to insmod", "Protocol not supported", "Operation not supported"} {
		if strings.Contains(stderr, s) {
			return true
		}
	}
	return false
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
	return fmt.Sprintf("line %d is %q", n, lines[n-1])
}

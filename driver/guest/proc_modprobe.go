package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// modprobe loads a kernel module, or does what its flags say, with the machine's own
// modprobe. An error has what it printed.
func modprobe(ctx context.Context, args ...string) error {
	path, err := lookIn("", "modprobe")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = processEnv()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

package proc

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Modprobe loads a kernel module, or does what its flags say, with the machine's own
// Modprobe. An error has what it printed.
func Modprobe(ctx context.Context, args ...string) error {
	path, err := LookIn("", "modprobe")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = ProcessEnv()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Package remote logs in to other computers by SSH and takes directories there into use:
// those of runs on existing machines, and of labs on hypervisors. A directory is used
// only if it carries hookbed's marker or is empty, and removed only with its marker.
package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hookbed/driver/host"
	"hookbed/driver/plan"
)

// Computer is one that the driver is logged in to. Close its SSH.
type Computer struct {
	SSH     *host.SSH
	HostKey string
	become  []string // before the argv of what root is to run
}

// Login dials a machine with the key, and the host key, that the experiment names. A machine that does
// not answer for silence is taken for unreachable; 0 is 10 s.
func Login(ctx context.Context, m plan.Machine, silence time.Duration) (*Computer, error) {
	addr := net.JoinHostPort(m.Host, strconv.Itoa(m.Port))
	known, err := ExpandHome(m.KnownHosts)
	if err != nil {
		return nil, err
	}
	c := new(Computer)
	if c.HostKey, err = host.KnownKey(known, addr); err != nil {
		return nil, err
	}
	file, err := ExpandHome(m.Key)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the login key: %w", err)
	}
	if c.SSH, err = host.DialSSH(ctx, host.SSHConfig{Addr: addr, User: m.User, PrivateKey: key, HostKey: c.HostKey, Silence: silence}); err != nil {
		return nil, err
	}
	return c, nil
}

// ExpandHome makes "~/x" a path in the home directory of this user.
func ExpandHome(p string) (string, error) {
	rest, ok := strings.CutPrefix(p, "~/")
	if !ok {
		return p, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home directory of %s: %w", p, err)
	}
	return filepath.Join(home, rest), nil
}

// ErrNotRoot is wrapped when the login is not root and cannot become it.
var ErrNotRoot = errors.New("needs root")

// beRoot finds out how commands are run as root: as they are, or by sudo. user is that
// of the login.
func (c *Computer) beRoot(ctx context.Context, user string) error {
	id, err := c.Output(ctx, "id", "-u")
	if err != nil {
		return fmt.Errorf("ask who we are: %w", err)
	}
	if id == "0" {
		return nil
	}
	c.become = []string{"sudo", "-n", "--"}
	if err := c.asRoot(ctx, "true"); err != nil {
		return fmt.Errorf("%w: user %s is not root, and may not sudo without a password: %w", ErrNotRoot, user, err)
	}
	return nil
}

// Output runs a command and returns what it prints, without space around it.
func (c *Computer) Output(ctx context.Context, argv ...string) (string, error) {
	var out bytes.Buffer
	err := c.SSH.Run(ctx, host.Cmd{Argv: argv, Stdout: &out})
	return strings.TrimSpace(out.String()), err
}

// asRoot runs a command as root.
func (c *Computer) asRoot(ctx context.Context, argv ...string) error {
	return c.SSH.Run(ctx, host.Cmd{Argv: c.RootArgv(argv...)})
}

// RootArgv is the argv that runs a command as root.
func (c *Computer) RootArgv(argv ...string) []string {
	return append(append([]string{}, c.become...), argv...)
}

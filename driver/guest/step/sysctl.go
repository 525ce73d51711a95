package step

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/sysfs"
)

func doSysctl(c *call, a bundle.Sysctl) error {
	path, err := sysfs.SysctlPath(a.Key)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if a.Optional {
			c.note("absent")
			return nil
		}
		return fault.Unsupported("this kernel has no sysctl %s", a.Key)
	}
	if err != nil {
		return fmt.Errorf("read sysctl %s: %w", a.Key, err)
	}
	if err := sysfs.WriteSysctl(path, a.Value); err != nil {
		return refusedSysctl(a, err)
	}
	c.undoHere("sysctl "+a.Key, func(undoing) error { return sysfs.WriteSysctl(path, strings.TrimSpace(string(old))) })
	return nil
}

// refusedSysctl classifies a value that the kernel does not take. A congestion
// control may be there and yet not for network namespaces.
func refusedSysctl(a bundle.Sysctl, err error) error {
	congestion := strings.HasSuffix(a.Key, "tcp_congestion_control")
	switch {
	case errors.Is(err, unix.ENOENT):
		return fault.Unsupported("this kernel has no %q for sysctl %s", a.Value, a.Key)
	case congestion && errors.Is(err, unix.EPERM):
		return fault.Unsupported("this kernel keeps %q from network namespaces: it is not in net.ipv4.tcp_allowed_congestion_control, and sysctl %s takes no other", a.Value, a.Key)
	}
	return fmt.Errorf("set sysctl %s to %q: %w", a.Key, a.Value, err)
}

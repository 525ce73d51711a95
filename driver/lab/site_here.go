package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"hookbed/driver/plan"
	"hookbed/driver/vm"
	"hookbed/images"
)

// firstHere is from the driver's address to the first node's in labs on this computer.
const firstHere = 10

// thisComputer is the hypervisor on which the driver runs.
type thisComputer struct {
	dir string // state directory of the lab
}

func (c *thisComputer) title() string { return "this computer" }

func (c *thisComputer) reach(ctx context.Context, cfg vm.Config, accel string, _ plan.NIC) (*vm.Hypervisor, error) {
	cfg.StateDir = c.dir
	hv, err := vm.Connect(ctx, cfg)
	if err != nil {
		return hv, fmt.Errorf("use libvirt of %s: %w", c.title(), err)
	}
	return hv, hv.Supports(ctx, accel)
}

func (c *thisComputer) networks(ctx context.Context, hv *vm.Hypervisor, lab string, mtu int) (netip.Prefix, error) {
	mgmt := netip.MustParsePrefix(mgmtCIDR)
	if err := hv.CreateNetwork(ctx, mgmtNetworkOf(lab, mgmt)); err != nil {
		return mgmt, err
	}
	return mgmt, hv.CreateNetwork(ctx, dataNetworkOf(lab, mtu))
}

func (c *thisComputer) close(ctx context.Context, hv *vm.Hypervisor) error {
	if hv == nil {
		return nil
	}
	return hv.Close(ctx)
}

func (c *thisComputer) detach(hv *vm.Hypervisor) error { return hv.Detach() }

func (c *thisComputer) imagePath(a images.Artifact) string { return a.Path }

func (c *thisComputer) bring(context.Context, images.Artifact) (copied bool, err error) {
	return false, nil
}

func (c *thisComputer) file(_ context.Context, name string, data []byte) (string, error) {
	path := filepath.Join(c.dir, name)
	return path, os.WriteFile(path, data, 0o600)
}

func (c *thisComputer) consoleFile(_ context.Context, name string) (string, error) {
	return filepath.Join(c.dir, name), nil
}

func (c *thisComputer) console(_ context.Context, log string) string { return consoleTail(log) }

package step

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
)

func doNetns(c *call, a bundle.Netns) error {
	if _, ok := c.x.endpoints[a.Name]; ok || a.Name == "" {
		return fmt.Errorf("endpoint %q exists already", a.Name)
	}
	ns, err := netns.New(c.x.node.Namespace, a.Name)
	if err != nil {
		return err
	}
	c.x.endpoints[a.Name] = &proc.Endpoint{Namespace: ns, Root: c.x.root}
	c.undoHere("drop namespace "+a.Name, func(undoing) error {
		delete(c.x.endpoints, a.Name)
		return ns.Close()
	})
	return nil
}

// bind makes a container an endpoint, or forgets one when the PID is 0.
func (x *executor) bind(b bundle.Bind) error {
	if b.Endpoint == "" {
		return errors.New("bind: endpoint without a name")
	}
	if old, ok := x.endpoints[b.Endpoint]; ok {
		if old.Root == x.root {
			return fmt.Errorf("bind %q: a bare namespace has that name", b.Endpoint)
		}
		_ = old.Close()
		delete(x.endpoints, b.Endpoint)
	}
	if b.PID == 0 {
		return nil
	}
	dir := fmt.Sprintf("/proc/%d", b.PID)
	ns, err := netns.Open(b.Endpoint, dir+"/ns/net")
	if err != nil {
		return fmt.Errorf("bind %q to process %d: %w", b.Endpoint, b.PID, err)
	}
	x.endpoints[b.Endpoint] = &proc.Endpoint{Namespace: ns, Root: dir + "/root", Cgroup: cgroupOf(dir)}
	return nil
}

// cgroupOf finds the cgroup v2 directory of a process by its directory in /proc, "" when there
// is none.
func cgroupOf(dir string) string {
	data, err := os.ReadFile(dir + "/cgroup")
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(data), "\n") {
		path, ok := strings.CutPrefix(line, "0::")
		if !ok {
			continue
		}
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			dir := filepath.Join(mount, path)
			if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
				return dir
			}
		}
	}
	return ""
}

// endpointOf resolves the In of a step.
func (x *executor) endpointOf(in string) (*proc.Endpoint, error) {
	if in == "" {
		return x.node, nil
	}
	ep, ok := x.endpoints[in]
	if !ok {
		return nil, fmt.Errorf("no endpoint %q on this node", in)
	}
	return ep, nil
}

// where names the namespace that a step of a node means by in. One helper may
// hold several nodes as namespaces (the local provider): then "on the node" is
// in that one.
func (x *executor) where(node, in string) string {
	if _, held := x.endpoints[node]; held && in == "" {
		return node
	}
	return in
}

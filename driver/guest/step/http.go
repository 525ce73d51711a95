package step

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"hookbed/driver/guest/proc"
)

// place is where a step's program runs: in the step's endpoint, or, if it is one of HTTP, in
// the root file system of those, with the endpoint's network namespace and cgroup.
func (c *call) place(http bool) (*proc.Endpoint, error) {
	if !http {
		return c.at, nil
	}
	r, err := c.needContainer(&c.x.http, "HTTP programs")
	if err != nil {
		return nil, err
	}
	return &proc.Endpoint{Namespace: c.at.Namespace, Root: c.x.http.root, Cgroup: c.at.Cgroup, Container: r}, nil
}

// lay writes files of the bundle into /run of the HTTP programs' root.
func (c *call) lay(names []string) error {
	if len(names) > 0 && c.x.http.container == nil {
		return errors.New("files are for programs of HTTP only")
	}
	for _, name := range names {
		data, err := c.file(name)
		if err == nil {
			err = os.WriteFile(c.x.http.container.Path(filepath.Join("run", filepath.Base(name))), data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("lay out %s: %w", name, err)
		}
	}
	return nil
}

package remote

import (
	"context"
	"path"
	"strconv"

	"hookbed/driver/host"
	"hookbed/driver/marker"
)

// LabDir is a lab's directory on a hypervisor.
type LabDir struct {
	Root  string // the directory that hypervisors have for hookbed, with images
	Path  string // of the lab's directory in it, whose last part is the lab's name there
	Token string // of its marker
}

func (d LabDir) lab() string { return path.Base(d.Path) }

// Make makes the directory, for a user of this computer.
func (d LabDir) Make(ctx context.Context, c *Computer, user string) error {
	made, found := markers(d.lab(), user)
	mine := marker.Marker{Token: d.Token, Made: true, Lab: d.lab(), Owner: owner(user)}
	return c.SSH.Run(ctx, host.Cmd{Argv: []string{"sh", "-c", makeLabDir, "sh", d.Root, d.Path, made, found, mine.Text()}})
}

// LetPass lets a group pass the directory, of which nothing else may be in the way.
func (d LabDir) LetPass(ctx context.Context, c *Computer, group int) error {
	return c.SSH.Run(ctx, host.Cmd{Argv: []string{"sh", "-c", letPass, "sh", d.Path, strconv.Itoa(group)}})
}

// Leave removes the directory, and what libvirt keeps of the lab's machines and networks.
func (d LabDir) Leave(ctx context.Context, c *Computer) error {
	return c.SSH.Run(ctx, host.Cmd{Argv: []string{"sh", "-c", leaveLabDir, "sh", d.Path, d.lab(), d.Token}})
}

// FreeBytes is the space where directory root is, or would be made, as digits. It
// refuses a directory that Make refuses.
func FreeBytes(ctx context.Context, c *Computer, root string) (string, error) {
	return c.Output(ctx, "sh", "-c", inspectDirectory, "sh", root)
}

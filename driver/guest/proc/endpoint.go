package proc

import "hookbed/driver/guest/netns"

// Endpoint is where steps happen: a network namespace, and the root file system and
// Cgroup of the processes started in it.
type Endpoint struct {
	*netns.Namespace
	Root      string     // directory to chroot into, "" for none
	Cgroup    string     // directory in cgroup v2, "" for the helper's own
	Container *Container // whose root the above is, nil for none
}

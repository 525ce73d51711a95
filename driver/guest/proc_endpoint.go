package main

import "hookbed/driver/guest/netns"

// endpoint is where steps happen: a network namespace, and the root file system and
// cgroup of the processes started in it.
type endpoint struct {
	*netns.Namespace
	root      string     // directory to chroot into, "" for none
	cgroup    string     // directory in cgroup v2, "" for the helper's own
	container *container // whose root the above is, nil for none
}

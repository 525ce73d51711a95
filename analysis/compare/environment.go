package compare

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"hookbed/analysis/runs"
)

// Difference is an entry of the environment that the two runs do not share.
type Difference struct {
	What string `json:"what"`
	Old  string `json:"old"`
	New  string `json:"new"`
}

// UnlikeError says that two runs were made in environments that must not be
// taken for one.
type UnlikeError struct{ Differences []Difference }

func (e *UnlikeError) Error() string {
	var parts []string
	for _, d := range e.Differences {
		parts = append(parts, fmt.Sprintf("%s was %s, is %s", d.What, d.Old, d.New))
	}
	return "the environments differ: " + strings.Join(parts, "; ")
}

// notRecorded stands for an entry that a run does not have.
const notRecorded = "not recorded"

// environmentDiffers lists what differs of what results depend on.
func environmentDiffers(before, after runs.Run) []Difference {
	if before.Env == nil && after.Env == nil {
		return []Difference{{runs.EnvFile, notRecorded, notRecorded}}
	}
	virtual := before.Clock() == runs.ClockVirtual
	keys := map[string]bool{}
	for _, r := range []runs.Run{before, after} {
		for key := range r.Env {
			if matters(key, virtual) {
				keys[key] = true
			}
		}
	}
	var out []Difference
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		a, b := entry(before, key), entry(after, key)
		if a != b {
			out = append(out, Difference{key, a, b})
		}
	}
	return out
}

func entry(r runs.Run, key string) string {
	if v := r.Env[key]; v != "" {
		return v
	}
	return notRecorded
}

// matters says whether results depend on an entry of env.json: the kernel and
// its configuration, images and the guest helper, the accelerator, QEMU, the
// machine's shape. Virtual time counts instructions, so it does not depend on
// the CPU of the host.
func matters(key string, virtual bool) bool {
	parts := strings.Split(strings.ToLower(key), ".")
	last := strings.Join(parts[max(0, len(parts)-2):], ".")
	switch parts[0] {
	case "kernel_release", "kernel_cmdline", "endpoint_sha256", "guest_sha256", "image_sha256", "accelerator",
		"icount_shift", "vcpus", "memory_mib", "data_nic_queues":
		return true
	case "hypervisor":
		return parts[len(parts)-1] == "qemu"
	case "hypervisors": // of each node that is not on this computer
		return parts[len(parts)-1] == "qemu" || parts[len(parts)-1] == "cpu"
	case "host_cpu":
		return !virtual
	case "nodes":
		return last == "kernel.release" || last == "kernel.config_sha256" || last == "cpu.model" && !virtual
	}
	return false
}

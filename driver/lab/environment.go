package lab

import (
	"encoding/json"
	"reflect"
	"strings"

	"hookbed/driver/vm"
	"hookbed/images"
)

// Environment describes a lab, as its provider fills it in. It is a part of env.json.
// What a provider does not have is left out.
type Environment struct {
	Provider       string `json:"provider"`
	Accelerator    string `json:"accelerator"`
	AcceleratorHow string `json:"accelerator_how,omitempty"` // how it was chosen
	// Delivery is how bundles get to the nodes, where not by a helper that is reached.
	Delivery string `json:"delivery,omitempty"`
	// Sealed is what started sealed guests where it was not libvirt, and SealedHow why.
	Sealed    string `json:"sealed,omitempty"`
	SealedHow string `json:"sealed_how,omitempty"`

	// What the nodes boot and run, by SHA-256.
	KernelRelease *ByKernel[string]            `json:"kernel_release,omitempty"`
	KernelCmdline string                       `json:"kernel_cmdline,omitempty"`
	ImageSHA256   *ByKernel[map[string]string] `json:"image_sha256,omitempty"` // by file
	// ImageDrift are packages that are not the pinned ones; null where all are.
	ImageDrift     ByKernel[[]images.Drift] `json:"image_drift"`
	EndpointSHA256 *string                  `json:"endpoint_sha256,omitempty"`
	ExternalSHA256 *string                  `json:"peers_sha256,omitempty"`
	HTTPSHA256     *string                  `json:"http_sha256,omitempty"`
	// Cilium is the image of the agent, where an arm needs it.
	Cilium      *Cilium `json:"cilium,omitempty"`
	GuestSHA256 string  `json:"guest_sha256,omitempty"` // of the helper

	// About VMs.
	Hypervisor          *vm.Version `json:"hypervisor,omitempty"`
	ICountShift         int         `json:"icount_shift,omitempty"` // an instruction takes 2^shift ns
	VCPUs               int         `json:"vcpus,omitempty"`
	MemoryMiB           int         `json:"memory_mib,omitempty"`
	DataNIC             string      `json:"data_nic,omitempty"` // where it is not the default
	DataNICQueues       int         `json:"data_nic_queues,omitempty"`
	TransparentHugepage string      `json:"transparent_hugepages,omitempty"`

	// By node.
	Machines    map[string]Machine           `json:"machines,omitempty"`
	Hypervisors map[string]map[string]string `json:"hypervisors,omitempty"` // on other computers
	Nodes       map[string]map[string]string `json:"nodes,omitempty"`       // facts of the helpers
}

// Machine is what a node runs on: an existing machine, or QEMU by its command line.
type Machine struct {
	DataNIC     string   `json:"data_nic,omitempty"` // that it lends to the node
	Host        string   `json:"host,omitempty"`
	HostKey     string   `json:"host_key,omitempty"` // fingerprint
	Port        string   `json:"port,omitempty"`
	CommandLine []string `json:"qemu_command_line,omitempty"`
}

// ByKernel is one value, or where kernels are compared one for each, by the kernel's
// name.
type ByKernel[T any] struct {
	One  T
	Each map[string]T
}

// MarshalJSON writes the one value, or an object of all.
func (v ByKernel[T]) MarshalJSON() ([]byte, error) {
	if v.Each != nil {
		return json.Marshal(v.Each)
	}
	return json.Marshal(v.One)
}

// Entries are the environment's by their keys of env.json, for a file that has more.
func (e Environment) Entries() map[string]any {
	out := map[string]any{}
	v := reflect.ValueOf(e)
	for i := range v.NumField() {
		key, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		f := v.Field(i)
		if option == "omitempty" && (f.IsZero() || f.Kind() == reflect.Map && f.Len() == 0) {
			continue
		}
		out[key] = f.Interface()
	}
	return out
}

package vm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// Accelerators of QEMU.
const (
	KVM = "kvm" // hardware virtualization
	TCG = "tcg" // emulation
)

// Machine is a virtual machine that boots a kernel directly and keeps no state.
type Machine struct {
	Name       string // "hookbed-LAB-node1"
	UUID       string
	VCPUs      int
	MemoryMiB  int
	Accel      string // KVM or TCG
	Kernel     string // path
	Initramfs  string // path
	Cmdline    string
	Disks      []Disk // /dev/vda, vdb, ... in this order
	NICs       []NIC  // in this order on the PCI bus
	ConsoleLog string // path of the file that the serial console is written to
	// Virtual makes the machine's time advance with the instructions that it
	// executes; nil is the computer's time.
	Virtual *Virtual
}

// Virtual is a machine in virtual time (QEMU: docs/devel/tcg-icount.rst). It
// has no device that answers in the host's time: no disk, no network card, no
// source of randomness. Booted twice with equal files, command line and Seed it
// executes the same instructions, to the last one.
type Virtual struct {
	// Seed is a UUID that the guest sees as the machine's own, in the firmware's
	// tables: its kernel's randomness starts from it. The domain has another UUID,
	// since libvirt requires different ones of machines that run at the same time.
	Seed    string
	Results string // path of the file that the second serial port is written to
	// Plugin watches the machine's instructions; nil is none. It changes nothing of what the guest
	// sees.
	Plugin *Plugin
}

// Plugin is a shared object that QEMU loads (QEMU: docs/devel/tcg-plugins.rst).
type Plugin struct {
	Path string
	Out  string   // path of the FIFO that it writes to, which must have a reader; its argument "out"
	Args []string // further arguments, "name=value"
}

// option is the value of QEMU's option -plugin.
func (p Plugin) option() string {
	var parts []string
	for _, part := range append([]string{"file=" + p.Path, "out=" + p.Out}, p.Args...) {
		parts = append(parts, escaped(part))
	}
	return strings.Join(parts, ",")
}

// escaped is a text within the value of one of QEMU's options, in which a comma is written twice.
func escaped(text string) string { return strings.ReplaceAll(text, ",", ",,") }

// arguments are QEMU's of virtual time, for which libvirt has no description.
func (v Virtual) arguments() []string {
	out := []string{"-icount", fmt.Sprintf("shift=%d,sleep=off,%s", ICountShift, oneAtATime), "-smbios", "type=1,uuid=" + v.Seed}
	if v.Plugin != nil {
		out = append(out, "-plugin", v.Plugin.option())
	}
	return out
}

const (
	// ICountShift: one instruction takes 2^ICountShift ns of virtual time.
	ICountShift = 3
	// virtualStart is the wall clock of a machine in virtual time when it boots, in
	// seconds since 1970: 2017-07-04 00:00 UTC.
	virtualStart = 1499126400
	// oneAtATime lets QEMU's main loop and its processor run in turns. A halted processor counts
	// its last instructions without the lock that the main loop holds to move an idle machine's
	// clock to the next timer, so that the clock would rarely go too far by what was not counted
	// yet: by some us, once in some 60 boots of a busy computer. Recording has a lock of its own
	// around both, and the record itself is of no use. (QEMU 10.0: icount_start_warp_timer in
	// accel/tcg/icount-common.c, icount_prepare_for_run in accel/tcg/tcg-accel-ops-icount.c,
	// docs/devel/replay.rst.)
	oneAtATime = "rr=record,rrfile=/dev/null"
	// virtualCPU has no instruction with a random result.
	virtualCPU = "qemu64"
)

// Disk is a raw image file.
type Disk struct {
	Path     string
	ReadOnly bool   // other machines may use the file, too
	Serial   string // serial number that the guest sees, at most 20 characters; optional
}

// Models of network cards.
const (
	Virtio  = "virtio"
	VMXNet3 = "vmxnet3"
	E1000E  = "e1000e"
)

// NIC is a network card.
type NIC struct {
	Network string // name of a Network
	MAC     string
	Model   string // Virtio, VMXNet3, E1000E; "" is Virtio
	MTU     int    // bytes; 0 is the kernel's 1500
	// NoOffloads removes segmentation and receive offloads of a virtio card on both
	// sides; with other models, the guest's driver switches them off.
	NoOffloads bool
	Queues     int // of Virtio: receive and transmit queue pairs; 0 is 1. Native XDP needs 2 per virtual CPU
}

// xml is the machine as a libvirt domain, on a host with the given security models, whose QEMU runs
// as a user.
// It has only the devices that a lab node uses: no graphics, USB, sound, balloon,
// firmware for the network cards or boot menu.
func (m Machine) xml(models []string, as User) (*libvirtxml.Domain, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	d := &libvirtxml.Domain{
		Type: "kvm", Name: m.Name, UUID: m.UUID,
		Memory: &libvirtxml.DomainMemory{Value: uint(m.MemoryMiB), Unit: "MiB"},
		VCPU:   &libvirtxml.DomainVCPU{Value: uint(m.VCPUs), Placement: "static"},
		OS: &libvirtxml.DomainOS{
			Type:   &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"},
			Kernel: m.Kernel, Initrd: m.Initramfs, Cmdline: m.Cmdline,
		},
		Features:   &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		CPU:        &libvirtxml.DomainCPU{Mode: "host-passthrough", Check: "none", Migratable: "off"},
		Clock:      &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff: "destroy", OnReboot: "destroy", OnCrash: "destroy",
		Devices:  m.devices(),
		SecLabel: labels(models, as),
	}
	if m.Accel == TCG {
		// QEMU itself emulates an x86 guest on an x86 computer with one thread per
		// virtual CPU; libvirt has no option for it.
		d.Type = "qemu"
		d.CPU = &libvirtxml.DomainCPU{Mode: "maximum", Check: "none"}
	}
	if m.Virtual != nil {
		m.virtual(d)
	}
	// One socket, or the guest's scheduler would treat the CPUs as far apart.
	d.CPU.Topology = &libvirtxml.DomainCPUTopology{Sockets: 1, Cores: m.VCPUs, Threads: 1}
	return d, nil
}

// virtual changes a domain to virtual time.
func (m Machine) virtual(d *libvirtxml.Domain) {
	d.CPU = &libvirtxml.DomainCPU{Mode: "custom", Match: "exact", Check: "none", Model: &libvirtxml.DomainCPUModel{Fallback: "forbid", Value: virtualCPU}}
	d.Clock = &libvirtxml.DomainClock{Offset: "absolute", Start: virtualStart,
		Timer: []libvirtxml.DomainTimer{{Name: "rtc", Track: "guest"}}}
	d.Devices.RNGs = nil
	port := uint(1)
	d.Devices.Serials = append(d.Devices.Serials, libvirtxml.DomainSerial{
		Source: &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: m.Virtual.Results, Append: "off"}},
		Target: &libvirtxml.DomainSerialTarget{Type: "isa-serial", Port: &port},
	})
	d.QEMUCommandline = &libvirtxml.DomainQEMUCommandline{}
	for _, arg := range m.Virtual.arguments() {
		d.QEMUCommandline.Args = append(d.QEMUCommandline.Args, libvirtxml.DomainQEMUCommandlineArg{Value: arg})
	}
}

func (m Machine) check() error {
	switch {
	case m.Virtual != nil && (m.Accel != TCG || m.VCPUs != 1 || len(m.Disks)+len(m.NICs) > 0 || m.Virtual.Results == "" || m.Virtual.Seed == ""):
		return errors.New("a machine in virtual time is emulated, has one CPU, a seed and a results file, and neither disks nor network cards")
	case m.Virtual != nil && m.Virtual.Plugin != nil && (m.Virtual.Plugin.Path == "" || m.Virtual.Plugin.Out == ""):
		return errors.New("a plugin has a path and writes to a FIFO")
	case m.Accel != KVM && m.Accel != TCG:
		return fmt.Errorf("accelerator is %q (allowed: %s, %s)", m.Accel, KVM, TCG)
	case m.VCPUs < 1:
		return fmt.Errorf("%d virtual CPUs, want at least 1", m.VCPUs)
	case m.MemoryMiB < 1:
		return fmt.Errorf("%d MiB of memory, want at least 1", m.MemoryMiB)
	case m.Kernel == "" || m.Initramfs == "" || m.ConsoleLog == "":
		return errors.New("kernel, initramfs and console log must be given")
	case slices.ContainsFunc(m.NICs, func(n NIC) bool { return n.Queues > 1 && cmp.Or(n.Model, Virtio) != Virtio }):
		return fmt.Errorf("a network card other than %s has one queue", Virtio)
	case len(m.Disks)+len(m.NICs) > lastSlot-firstSlot:
		return fmt.Errorf("%d disks and %d network cards, want at most %d together", len(m.Disks), len(m.NICs), lastSlot-firstSlot)
	}
	return nil
}

// Slots of the root bus that q35 leaves free: 0 is the host bridge, libvirt keeps 1
// for a video card, and the chip set uses those from 0x1a on.
const firstSlot, lastSlot = 2, 0x19

// slot is an address on the root bus itself. By default libvirt puts each device
// behind its own root port, for hot plugging; firmware and kernel would then probe
// twice as many devices.
func slot(n int) *libvirtxml.DomainAddress {
	domain, bus, function, number := uint(0), uint(0), uint(0), uint(n)
	return &libvirtxml.DomainAddress{PCI: &libvirtxml.DomainAddressPCI{Domain: &domain, Bus: &bus, Slot: &number, Function: &function}}
}

func (m Machine) devices() *libvirtxml.DomainDeviceList {
	port, next := uint(0), firstSlot
	nextSlot := func() *libvirtxml.DomainAddress { next++; return slot(next - 1) }
	l := &libvirtxml.DomainDeviceList{
		Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
		Serials: []libvirtxml.DomainSerial{{
			Source: &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: m.ConsoleLog, Append: "off"}},
			Target: &libvirtxml.DomainSerialTarget{Type: "isa-serial", Port: &port},
		}},
		Videos:     []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "none"}}},
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "none"},
	}
	for i, d := range m.Disks {
		l.Disks = append(l.Disks, d.xml(i, nextSlot()))
	}
	for _, n := range m.NICs {
		l.Interfaces = append(l.Interfaces, n.xml(nextSlot()))
	}
	l.RNGs = []libvirtxml.DomainRNG{{
		Model:   "virtio",
		Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
		Address: nextSlot(),
	}}
	return l
}

func (d Disk) xml(i int, at *libvirtxml.DomainAddress) libvirtxml.DomainDisk {
	x := libvirtxml.DomainDisk{
		Device:  "disk",
		Driver:  &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
		Source:  &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: d.Path}},
		Target:  &libvirtxml.DomainDiskTarget{Dev: "vd" + string(rune('a'+i)), Bus: "virtio"},
		Serial:  d.Serial,
		Address: at,
	}
	if d.ReadOnly {
		x.ReadOnly, x.Shareable = &libvirtxml.DomainDiskReadOnly{}, &libvirtxml.DomainDiskShareable{}
	}
	return x
}

func (n NIC) xml(at *libvirtxml.DomainAddress) libvirtxml.DomainInterface {
	x := libvirtxml.DomainInterface{
		MAC:     &libvirtxml.DomainInterfaceMAC{Address: n.MAC},
		Source:  &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: n.Network}},
		Model:   &libvirtxml.DomainInterfaceModel{Type: cmp.Or(n.Model, Virtio)},
		ROM:     &libvirtxml.DomainROM{Enabled: "no"},
		Address: at,
	}
	if n.Queues > 1 {
		x.Driver = &libvirtxml.DomainInterfaceDriver{Queues: uint(n.Queues)}
	}
	if n.MTU > 0 {
		x.MTU = &libvirtxml.DomainInterfaceMTU{Size: uint(n.MTU)}
	}
	if n.NoOffloads && x.Model.Type == Virtio {
		if x.Driver == nil {
			x.Driver = &libvirtxml.DomainInterfaceDriver{}
		}
		x.Driver.Host = &libvirtxml.DomainInterfaceDriverHost{GSO: "off", TSO4: "off", TSO6: "off", ECN: "off", UFO: "off"}
		x.Driver.Guest = &libvirtxml.DomainInterfaceDriverGuest{TSO4: "off", TSO6: "off", ECN: "off", UFO: "off"}
	}
	return x
}

// labels keep libvirt from changing owners and labels of image files, and say whom QEMU runs as: the
// owner of the machine's own files.
func labels(models []string, as User) []libvirtxml.DomainSecLabel {
	var out []libvirtxml.DomainSecLabel
	for _, model := range models {
		switch model {
		case "dac":
			out = append(out, libvirtxml.DomainSecLabel{Type: "static", Model: model, Relabel: "no", Label: fmt.Sprintf("+%d:+%d", as.UID, as.GID)})
		case "none":
			// the placeholder for no security driver takes no label
		default:
			out = append(out, libvirtxml.DomainSecLabel{Type: "none", Model: model})
		}
	}
	return out
}

package ftrace

import (
	"errors"
	"path/filepath"

	"hookbed/driver/guest/fault"
)

// dropEvent is the event of a packet that is given up (include/trace/events/skb.h).
const dropEvent = "events/skb/kfree_skb"

// Filters of a family's packets by their EtherType, which the event has in the host's order.
const (
	ofIPv4 = "protocol == 2048"
	ofIPv6 = "protocol == 34525"
)

// DropRecording records the IP packets that the machine drops.
type DropRecording struct {
	t      *tree
	dir    string
	family string // filter
	ended  bool
}

// RecordDrops begins a recording of IPv4 or IPv6 packets in an instance, which every kernel has for
// events.
func RecordDrops(ipv6 bool) (*DropRecording, error) {
	t, err := openTree()
	if err != nil {
		return nil, err
	}
	r := &DropRecording{t: t, family: ofIPv4}
	if ipv6 {
		r.family = ofIPv6
	}
	if r.dir, err = t.makeInstance("drops"); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if err := r.begin(); err != nil {
		return nil, errors.Join(err, r.leave())
	}
	return r, nil
}

func (r *DropRecording) begin() error {
	event := filepath.Join(r.dir, dropEvent)
	if !r.t.has(event) {
		return fault.Unsupported("this kernel (%s) has no event skb:kfree_skb", fault.KernelRelease())
	}
	// The option hash-ptr stays on: off, Linux 6.1 has an empty reason (trace_check_vprintf in
	// kernel/trace/trace.c works on the buffer in which trace_event_format has put the format).
	files := []setting{{filepath.Join(event, "filter"), r.family}, {filepath.Join(r.dir, "options/stacktrace"), "1"}, {filepath.Join(event, "enable"), "1"}}
	for _, f := range files {
		if err := r.t.write(f.file, f.value); err != nil {
			return err
		}
	}
	return nil
}

// Add does nothing: the event is recorded whatever process causes it.
func (r *DropRecording) Add(int) error { return nil }

// End reads what was recorded and removes the instance.
func (r *DropRecording) End() (Record, error) {
	if r.ended {
		return Record{}, nil
	}
	got, err := r.collect()
	return got, errors.Join(err, r.leave())
}

func (r *DropRecording) collect() (Record, error) {
	if err := r.t.write(filepath.Join(r.dir, dropEvent, "enable"), "0"); err != nil {
		return Record{}, err
	}
	return r.t.recorded(r.dir)
}

func (r *DropRecording) leave() error {
	r.ended = true
	return errors.Join(r.t.removeInstance(r.dir), r.t.Close())
}

package cilium

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Pins is where the agent pins its maps.
const Pins = "/sys/fs/bpf/tc/globals"

// policyMaps are the names of an endpoint's policy map: since 1.17, and before.
func policyMaps(id int) []string {
	return []string{fmt.Sprintf("cilium_policy_v2_%05d", id), fmt.Sprintf("cilium_policy_%05d", id)}
}

// PolicyEntries counts the entries of an endpoint's policy map. pins is the directory as this
// process sees it. An agent that has no such map enforces nothing that could be counted.
func PolicyEntries(pins string, id int) (uint64, error) {
	for _, name := range policyMaps(id) {
		m, err := ebpf.LoadPinnedMap(filepath.Join(pins, name), &ebpf.LoadPinOptions{ReadOnly: true})
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("open policy map %s: %w", name, err)
		}
		defer m.Close()
		return countKeys(m)
	}
	return 0, fmt.Errorf("endpoint %d has no policy map: neither %v is pinned", id, policyMaps(id))
}

// countKeys walks a map's keys, whatever they are.
func countKeys(m *ebpf.Map) (n uint64, err error) {
	key, next := []byte(nil), make([]byte, m.KeySize())
	for {
		if key == nil {
			err = m.NextKey(nil, &next)
		} else {
			err = m.NextKey(key, &next)
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return n, nil
		}
		if err != nil {
			return 0, fmt.Errorf("walk the policy map: %w", err)
		}
		if n++; n > uint64(m.MaxEntries()) {
			return 0, errors.New("the policy map changes while it is walked")
		}
		key = append(key[:0], next...)
	}
}

// metricsMap counts packets by why they were dropped, on all programs of the node
// (bpf/lib/metrics.h).
const metricsMap = "cilium_metrics"

// Of the metrics' key: the first byte is the reason, the two low bits of the second the direction.
const (
	reasonForwarded = 0
	reasonPolicy    = 133 // DROP_POLICY, no policy admits it
	reasonDeny      = 181 // DROP_POLICY_DENY, a policy denies it
	ingress         = 1
)

// Packets are those that came to endpoints of a node.
type Packets struct {
	Forwarded, ForwardedBytes uint64
	// Denied are those that policies did not admit; Other were dropped for other reasons.
	Denied, Other uint64
}

type metric struct{ Count, Bytes uint64 }

// ReadPackets reads the node's metrics of incoming packets.
func ReadPackets(pins string) (Packets, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, metricsMap), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return Packets{}, fmt.Errorf("open the agent's metrics: %w", err)
	}
	defer m.Close()
	if m.Type() != ebpf.PerCPUHash || m.KeySize() != 8 || m.ValueSize() != 16 {
		return Packets{}, fmt.Errorf("the agent's metrics are a %v with keys of %d and values of %d bytes, which this version does not know", m.Type(), m.KeySize(), m.ValueSize())
	}
	var p Packets
	var key [8]byte
	var each []metric
	all := m.Iterate()
	for all.Next(&key, &each) {
		if key[1]&3 == ingress {
			p.add(key[0], each)
		}
	}
	return p, all.Err()
}

func (p *Packets) add(reason byte, each []metric) {
	for _, m := range each {
		switch reason {
		case reasonForwarded:
			p.Forwarded += m.Count
			p.ForwardedBytes += m.Bytes
		case reasonPolicy, reasonDeny:
			p.Denied += m.Count
		default:
			p.Other += m.Count
		}
	}
}

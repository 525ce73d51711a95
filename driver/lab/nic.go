package lab

import (
	"context"
	"fmt"
	"strconv"

	"hookbed/driver/datapath"
	"hookbed/driver/host"
	"hookbed/driver/plan"
	"hookbed/driver/vm"
)

// dataNIC is the card by which node i, from 0, joins the data network.
func (p *virtual) dataNIC(i int) vm.NIC {
	l := p.cfg.Lab
	return vm.NIC{
		Network: p.network("data"), MAC: macOf(p.name, dataNetwork, i),
		Model: l.NIC.Model, MTU: l.NIC.MTU, NoOffloads: l.NIC.Offloads == plan.OffloadsOff, Queues: l.Queues,
	}
}

// joinData brings up a data card that is not the default, and holds the kernel
// to what the experiment pins: driver, MTU and offloads. The guest's own init
// does the same, by its one line, for the default.
func (p *virtual) joinData(ctx context.Context, n *virtualNode, i int) error {
	nic := p.cfg.Lab.NIC
	if nic.Plain() {
		return nil
	}
	argv := []string{"sh", "-c", joinDataScript, "sh", nicModule(nic.Card()), p.dataNIC(i).MAC, datapath.DataLink, n.DataCIDR(),
		strconv.Itoa(nic.Bytes()), nic.Offloads}
	if err := n.ssh.Run(ctx, host.Cmd{Argv: argv}); err != nil {
		return fmt.Errorf("join %s to the data network by its %s: %w", n.Name, nic, err)
	}
	return nil
}

// nicModule is the kernel's name of the driver of a card.
func nicModule(model string) string {
	if model == plan.NICVirtio {
		return "virtio_net"
	}
	return model
}

// joinDataScript takes the driver, the card's address, the link's name, its
// network address, the MTU and whether offloads are "off". Offloads that a
// driver lacks, or calls fixed, are off already: what counts is what is on in the end.
const joinDataScript = `set -e
modprobe "$1"
tries=0
until link=$(grep -l "^$2$" /sys/class/net/*/address); do
	tries=$((tries + 1))
	[ $tries -lt 100 ] || { echo "no network card has the address $2" >&2; exit 1; }
	sleep 0.1
done
link=${link%/address}
link=${link##*/}
ip link set "$link" name "$3" mtu "$5"
link=$3
driver=$(readlink "/sys/class/net/$link/device/driver")
[ "${driver##*/}" = "$1" ] || { echo "the driver of $link is ${driver##*/}, not $1" >&2; exit 1; }
if [ "$6" = off ]; then
	for feature in tso gso gro lro; do ethtool -K "$link" $feature off 2>/dev/null || :; done
	on=$(ethtool -k "$link" | grep -E "^(tcp-segmentation|generic-segmentation|generic-receive|large-receive)-offload: on" || :)
	[ -z "$on" ] || { echo "$link keeps $on" >&2; exit 1; }
fi
ip address add "$4" dev "$link"
ip link set "$link" up
[ "$(cat /sys/class/net/$link/mtu)" = "$5" ] || { echo "the MTU of $link is $(cat /sys/class/net/$link/mtu), not $5" >&2; exit 1; }
`

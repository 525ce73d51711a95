# First process of a private libvirtd's PID, mount and network namespaces:
# separates them from the host, then becomes tini.
# Arguments: the daemon's directory, a cache directory or "", the state directory.
set -eu

mount --make-rprivate /
# /proc and /sys show the namespaces they were mounted in. The host's control
# groups, below /sys, are out of reach.
mount -t proc proc /proc
if mountpoint -q /sys; then
	umount -R -l /sys
fi
mount -t sysfs sysfs /sys

# The state directory may be below one of the directories that are hidden.
exec 4<"$3" 5<"$1"
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir /run/libvirt
mount -t tmpfs -o mode=0755 tmpfs /var/lib/libvirt
mkdir /var/lib/libvirt/dnsmasq # where libvirt lists the addresses of network cards
mount --bind /proc/self/fd/5/etc /etc/libvirt
mount --bind /proc/self/fd/5/log /var/log/libvirt
if [ -n "$2" ]; then
	mount --bind "$2" /var/cache/libvirt
else
	mount -t tmpfs -o mode=0755 tmpfs /var/cache/libvirt
fi
mkdir -p "$3"
mount --bind /proc/self/fd/4 "$3"
exec 4<&- 5<&-

ip link set lo up
# The guests' network carries only their own traffic, and no firewall handles it.
for switch in /proc/sys/net/ipv6/conf/*/disable_ipv6; do
	[ ! -e "$switch" ] || echo 1 >"$switch"
done
for switch in /proc/sys/net/bridge/bridge-nf-call-*; do
	[ ! -e "$switch" ] || echo 0 >"$switch"
done

# Nothing starts before the driver has recorded that this process exists; if the
# driver dies, the line does not come.
read -r _ <&3
exec 3<&-
exec tini -- libvirtd

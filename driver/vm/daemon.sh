# First process of a private libvirtd's PID, mount and network namespaces:
# separates them from the host, then becomes tini.
# Arguments: the daemon's directory, a cache directory or "", the state directory, and the directory
# of images or "".
set -eu
umask 022

# What machines read is where QEMU's user, who is not root, can get at it: a directory on the way
# that is root's alone is hidden, here and nowhere else, by an empty one. $1 is the path, $2 a
# descriptor of the directory.
publish() {
	dir=$1 hide=
	while [ "$dir" != / ]; do
		dir=$(dirname "$dir")
		[ -e "$dir" ] || continue # it was in one that is hidden already, and is made below
		case $(stat -c %A "$dir") in *[xt]) ;; *) hide=$dir ;; esac
	done
	[ -z "$hide" ] || mount -t tmpfs -o mode=0711 tmpfs "$hide"
	mkdir -p "$1"
	mount --no-canonicalize --bind "/proc/self/fd/$2" "$1" # else it looks the name up again
}

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
[ -z "$4" ] || exec 6<"$4"
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
publish "$3" 4
[ -z "$4" ] || publish "$4" 6
exec 4<&- 5<&- 6<&-

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

#!/bin/bash
# Installs what hookbed needs in addition to Go, on Debian 12 and 13. Prints and
# changes nothing when all of it is there.
set -euo pipefail

# What each package is for:
packages=(
	apt-utils             # index of the local package repository
	btrfs-progs           # the fault suite's disk with quotas
	chromium              # tests of reports
	dpkg-dev              # package tools
	ethtool               # offloads of links
	gcc                   # the plugin that observes instructions
	ipset                 # address sets
	iproute2              # links and namespaces
	iptables              # both backends
	kmod                  # index of the guest's modules
	libc6-dev             # what gcc needs
	libvirt-daemon-system # machines
	mmdebstrap            # root image
	munge                 # tests of batch systems
	nftables              # nft rules
	nodejs                # tests of reports
	npm                   # the tests' packages
	openssh-client        # driver ssh
	openssh-server        # tests of the SSH host
	qemu-system-x86       # machines
	parallel              # tests of batch systems
	slurm-client          # tests of batch systems
	slurmctld             # tests of batch systems
	slurmd                # tests of batch systems
	squashfs-tools        # images
	sudo                  # tests of logins that are not root
	tini                  # reaps processes in namespaces
	xz-utils              # kernel modules
)
# Older versions corrupt CPU flags under emulation: kernels crash at random.
qemu_min=8.2
backports=/etc/apt/sources.list.d/hookbed-backports.sources
policy=/usr/sbin/policy-rc.d

die() {
	echo "deps: $*" >&2
	exit 1
}

# at_least HAVE WANT compares dotted versions.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

check_go() {
	local want have
	want=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' "$(dirname "$0")/../go.mod")
	command -v go >/dev/null || die "Go $want or newer is missing: install it from https://go.dev/dl/ and put its bin directory into PATH"
	have=$(go env GOVERSION)
	at_least "${have#go}" "$want" || die "Go is ${have#go}, $want or newer is needed: install it from https://go.dev/dl/"
}

# find_missing sets missing and old_qemu with one question to dpkg.
find_missing() {
	local status name version rest
	declare -A have=()
	while read -r status name version rest; do
		[ "$status" != ii ] || have[${name%%:*}]=$version
	done < <(dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\n' "${packages[@]}" 2>/dev/null)
	missing=()
	for name in "${packages[@]}"; do
		# Some builds of nodejs bring npm with them.
		[ -n "${have[$name]:-}" ] || { [ "$name" = npm ] && command -v npm >/dev/null; } || missing+=("$name")
	done
	version=${have[qemu-system-x86]:-}
	version=${version#*:}
	old_qemu=
	if [ -n "$version" ] && ! at_least "$version" "$qemu_min"; then
		old_qemu=yes
		missing+=(qemu-system-x86)
	fi
}

# add_backports makes Debian's backports known, from the mirror in use here.
add_backports() {
	local release=$1 uri
	if [[ $'\n'$(apt-get indextargets --format '$(RELEASE)')$'\n' == *$'\n'"$release-backports"$'\n'* ]]; then
		return
	fi
	uri=$(apt-get indextargets --format '$(CREATED_BY) $(RELEASE) $(REPO_URI) $(ORIGIN)' |
		awk -v release="$release" '$1 == "Packages" && $2 == release && $4 == "Debian" && uri == "" { uri = $3 } END { print uri }')
	[ -n "$uri" ] || die "no Debian archive for $release in apt's configuration: add one, then run this again"
	cat >"$backports" <<EOF
# Written by hookbed's "make deps" for QEMU $qemu_min or newer.
Types: deb
URIs: $uri
Suites: $release-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
	apt-get update -q >&2 || die "apt-get update failed after adding $backports"
}

# forbid_daemons keeps package scripts from starting services: a libvirtd of
# its own accord would make a bridge and firewall rules on this computer.
forbid_daemons() {
	[ ! -e "$policy" ] || return 0
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
}

install_missing() {
	local release=$1 name others=()
	echo "deps: install ${missing[*]}" >&2
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >&2 || die "apt-get update failed: is there a network?"
	forbid_daemons
	if [ "$release" = bookworm ] && [[ " ${missing[*]} " == *" qemu-system-x86 "* ]]; then
		add_backports "$release"
		# First all but QEMU, so that only QEMU comes from backports: what it
		# shares with the others would not fit them from there.
		for name in "${missing[@]}"; do
			[ "$name" = qemu-system-x86 ] || others+=("$name")
		done
		[ ${#others[@]} = 0 ] || install_packages "${others[@]}"
		missing=({qemu-system-x86,qemu-system-common,qemu-system-data,seabios}/"$release-backports")
	fi
	install_packages "${missing[@]}"
}

install_packages() {
	apt-get install -q -y --no-install-recommends "$@" >&2 || die "installing $* failed"
}

# find_modules puts the packages of the tests that use a browser into the cache, by their lock.
find_modules() {
	local from=$1/experiments/browser to=$1/.cache/browser
	cmp -s "$from/package-lock.json" "$to/installed.json" && return
	echo "deps: install the packages of $from/package-lock.json" >&2
	mkdir -p "$to"
	cp "$from"/package{,-lock}.json "$to"
	npm ci --prefix "$to" --ignore-scripts --no-audit --no-fund --loglevel error >&2 || die "npm ci in $to failed: is there a network?"
	cp "$from/package-lock.json" "$to/installed.json"
}

main() {
	local ID=unknown VERSION_ID='' VERSION_CODENAME='' qemu
	check_go
	[ ! -r /etc/os-release ] || . /etc/os-release
	case $ID-$VERSION_ID in
	debian-12 | debian-13) ;;
	*)
		echo "deps: this is $ID $VERSION_ID, not Debian 12 or 13; install these (Debian's names), with QEMU $qemu_min or newer:" >&2
		printf '  %s\n' "${packages[@]}" >&2
		exit 1
		;;
	esac
	find_missing
	if [ ${#missing[@]} -gt 0 ]; then
		[ "$(id -u)" = 0 ] || die "missing: ${missing[*]}${old_qemu:+ (too old)}; run \"make deps\" as root"
		install_missing "$VERSION_CODENAME"
	fi
	qemu=$(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
	at_least "$qemu" "$qemu_min" || die "QEMU is $qemu, $qemu_min or newer is needed"
	find_modules "$(realpath "$(dirname "$0")/..")"
}

main

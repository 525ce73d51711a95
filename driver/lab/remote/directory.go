package remote

import (
	"os"

	"hookbed/driver/marker"
)

// Foreign is in the message about a directory that something else uses.
const Foreign = "no run of hookbed made it"

// claimDirectory defines claim DIRECTORY MODE MADE FOUND, which makes a directory, or
// takes one that is empty, by writing marker MADE or FOUND into it, and leaves the
// marker's text in $text. A directory with a marker already is hookbed's, too. Any
// other is refused before anything is written, and so is one that every user may write to, or
// put another in the place of. If another run is just writing or
// removing the marker, claim waits.
const claimDirectory = `set -e
refuse() { echo "$1" >&2; exit 1; }
marked() { [ ! -L "$1" ] && [ ! -L "$1/` + marker.File + `" ] && [ "$(head -n 1 "$1/` + marker.File + `" 2>/dev/null)" = "` + marker.Head + `" ]; }
carries() { marked "$1" && grep -qx "token $2" "$1/` + marker.File + `"; }
home() { cut -d: -f6 /etc/passwd | grep -qxF -- "$1"; }
private() {
	if [ -d "$1" ]; then case $(ls -ldL -- "$1") in ????????w*) refuse "every user may write to $1: take that away by chmod o-w, or give another directory";; esac; fi
	up=$(dirname -- "$1")
	while :; do
		case $(ls -ldL -- "$up" 2>/dev/null) in
		????????w[tT]*) ;;
		????????w*) refuse "every user may write to $up, and so put something in the place of $1: give another directory";;
		esac
		[ "$up" != / ] && [ "$up" != . ] || break
		up=$(dirname -- "$up")
	done
}
mark() {
	if (set -C; : >"$1/` + marker.File + `") 2>/dev/null; then printf '%s' "$2" >"$1/` + marker.File + `" || { rm -f "$1/` + marker.File + `"; return 1; }
	else marked "$1"; fi
}
claim() {
	[ ! -L "$1" ] || refuse "$1 is a symbolic link; give the directory itself"
	if home "$1"; then refuse "$1 is the home of a user; give a directory of its own"; fi
	private "$1"
	for try in 1 2 3 4 5; do
		text=$4
		if [ ! -d "$1" ]; then mkdir -m "$2" "$1" && text=$3 || { [ -d "$1" ] || exit 1; }; fi
		[ -w "$1" ] || refuse "$1 cannot be written to: its file system is read-only, or it is not this user's; give another one"
		if marked "$1" && own=$(cat "$1/` + marker.File + `" 2>/dev/null && echo .); then text=${own%.}; return 0; fi
		if [ -z "$(ls -A "$1")" ] && mark "$1" "$text"; then return 0; fi
		sleep 0.2 2>/dev/null || sleep 1
	done
	refuse "$1 is not empty, and ` + Foreign + `: give a directory that is not there yet, or an empty one. If a release of hookbed before markers left it, remove it there"
}
`

// owner names a user of this computer, on other computers.
func owner(user string) string {
	name, err := os.Hostname()
	if err != nil {
		name = "a computer without a name"
	}
	return user + " on " + name
}

// markers are the texts of a marker of a lab of a user: where the directory is made, and
// where it was there.
func markers(lab, user string) (made, found string) {
	m := marker.New(lab, owner(user))
	found = m.Text()
	m.Made = true
	return m.Text(), found
}

// leaveDir defines leave DIRECTORY RUN TOKEN, which removes the directory of a run in DIRECTORY, both
// of which carry TOKEN, unless an attendant has it, and DIRECTORY when only its marker is left. It
// renames first: what is still being sent then finds no directory, and cannot come back.
const leaveDir = `
leave() {
	[ ! -e "$1/$2/` + marker.Attended + `" ] || return 0
	if carries "$1/$2" "$3"; then mv -- "$1/$2" "$1/$2.gone" && rm -rf -- "$1/$2.gone"; fi
	carries "$1" "$3" || return 0
	[ "$(ls -A "$1")" = ` + marker.File + ` ] || return 0
	made=$(grep -x "made yes" "$1/` + marker.File + `" || true)
	rm -f -- "$1/` + marker.File + `"
	[ -z "$made" ] || rmdir -- "$1" 2>/dev/null || true
}
`

// keepRunDir makes directory $2 in $1 for user $3; only root can be in the way. $4 and
// $5 are the markers. It prints the one that $1 has, which the run's directory gets, too, and an empty
// line. Another run may just be removing $1 because it became empty; the new run's directory
// must not go with it.
//
// Then it stays until an attendant has the directory, and removes it where its input ends, or nothing
// comes into it for $6 s. A link that was cut does not end the input for hours. While it looks it
// forks a few times a second, which is over before anything is measured.
const keepRunDir = claimDirectory + leaveDir + `umask 077
over= token= bare=
trap 'over=yes' HUP INT TERM
trap '' PIPE
finish() {
	[ -n "$token" ] || return 0
	[ -z "$bare" ] || rm -rf -- "$1/$2"
	leave "$1" "$2" "$token"
}
trap 'finish "$1" "$2"' EXIT
for again in 1 2 3 4 5; do
	claim "$1" 711 "$4" "$5"
	token=$(printf '%s\n' "$text" | sed -n 's/^token //p')
	! mkdir "$1/$2" || { bare=yes; break; }
done
[ -n "$bare" ]
marked "$1" || mark "$1" "$text"
printf '%s' "$text" >"$1/$2/` + marker.File + `"; chown "$3" "$1/$2"
bare=
printf '%s\n\n' "$text" || true
exec 3<&0 </dev/null
(while read -r line; do :; done) <&3 >/dev/null 2>&1 &
input=$!
exec 3<&-
pause=1; times=$6
if sleep 0.2 2>/dev/null; then pause=0.2; times=$((5 * $6)); fi
still=0; was=
while [ -z "$over" ] && [ "$still" -lt "$times" ] && [ -d "$1/$2" ] && [ ! -e "$1/$2/` + marker.Attended + `" ] && kill -s 0 "$input" 2>/dev/null; do
	now=$(ls -lnA "$1/$2" 2>/dev/null) || now=
	if [ "$now" = "$was" ]; then still=$((still + 1)); else still=0; was=$now; fi
	sleep "$pause" || true
done
kill "$input" 2>/dev/null || true`

// leaveRunDir removes the directory $2 of a run in $1, both of which carry token $3,
// and $1 when only its marker is left.
const leaveRunDir = claimDirectory + leaveDir + `leave "$1" "$2" "$3"`

// makeLabDir makes directory $2 of a lab, with marker $5, in $1, whose markers are $3
// and $4. Others cannot enter a lab's directory.
const makeLabDir = claimDirectory + `umask 022
mkdir -p "$(dirname "$1")"
claim "$1" 755 "$3" "$4"
mkdir -p "$1/images"; mkdir -p -m 711 "$1/labs"
[ -w "$1/images" ] && [ -w "$1/labs" ] || { echo "$1 is not this user's to write to" >&2; exit 1; }
mkdir -m 700 "$2"; printf '%s' "$5" >"$2/` + marker.File + `"`

// letPass lets group $2 pass directory $1. QEMU opens its files by their names, so every directory on
// the way must let it pass.
const letPass = `set -e
chgrp "$2" "$1"; chmod 710 "$1"
up=$(dirname -- "$1")
while :; do
	case $(ls -ldL -- "$up") in
	?????????[xt]*) ;;
	*) echo "QEMU, which is not root, cannot pass $up: give the hypervisor's directory another place, or: chmod o+x $up" >&2; exit 1;;
	esac
	[ "$up" != / ] || break
	up=$(dirname -- "$up")
done`

// leaveLabDir removes directory $1 of lab $2 if it carries token $3, and what libvirt
// keeps of each machine and network for good, which only root may remove: a log and a
// directory in /run. Labs of releases before markers have no token.
const leaveLabDir = claimDirectory + `
if [ -z "$3" ] || carries "$1" "$3"; then rm -rf -- "$1"; else rmdir -- "$1" 2>/dev/null || true; fi
rm -rf -- /var/log/libvirt/qemu/hookbed-"$2"-node[0-9].log /run/libvirt/network/hookbed-"$2"-mgmt /run/libvirt/network/hookbed-"$2"-data 2>/dev/null || true
[ ! -e "$1" ]`

// inspectDirectory prints the bytes free where directory $1 is, or would be made, and
// refuses what claim does.
const inspectDirectory = claimDirectory + `dir=$1
while [ ! -e "$dir" ]; do dir=$(dirname "$dir"); done
[ -d "$dir" ] && [ -w "$dir" ] || { echo "$dir is not this user's to write to" >&2; exit 1; }
if home "$1"; then refuse "$1 is the home of a user"; fi
private "$1"
if [ -d "$1" ] && [ -n "$(ls -A "$1")" ] && ! marked "$1"; then refuse "$1 is not empty, and ` + Foreign + `"; fi
for sub in images labs; do [ ! -e "$1/$sub" ] || [ -w "$1/$sub" ] || { echo "$1/$sub is not this user's to write to" >&2; exit 1; }; done
echo $(($(stat -f -c '%a * %S' "$dir")))`

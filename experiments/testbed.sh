#!/usr/bin/env bash
# The steps of `make testbed`: the study's questions in virtual time, the whole rig on
# two VMs, and one report of both. Usage: experiments/testbed.sh DIR
#
# It continues in a directory that an earlier call has begun. The exit code is that of
# the first run of the driver that failed. The report is made of all runs with rows.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?"usage: experiments/testbed.sh DIR"}

parts=() status=0 began=$SECONDS

# part NAME COMMAND... runs a command and records its time.
part() {
	local name=$1 start=$SECONDS code=0
	shift
	printf '\n== %s\n' "$name" >&2
	"$@" || code=$?
	parts+=("$name $((SECONDS - start)) s")
	return $code
}

# must is part for a command without which the rest cannot run.
must() {
	part "$@" || exit $?
}

# measure NAME FILE runs an experiment, or continues it.
measure() {
	local name=$1 dir=$out/$1 args=() code=0
	args=("$2" --out "$dir")
	[ ! -e "$dir/plan.json" ] || args=("$2" --resume "$dir")
	part "$name" bin/driver run "${args[@]}" || code=$?
	if [ $code = 130 ]; then
		echo "go on with: make testbed TESTBED_OUT=$out" >&2
		exit $code
	fi
	[ $status != 0 ] || status=$code
}

must packages make --no-print-directory deps
must build make --no-print-directory build
must images bin/driver images build
measure answer experiments/answer.toml
measure rig experiments/smoke.toml
dirs=()
for dir in "$out"/answer "$out"/rig; do
	[ ! -s "$dir/rows.csv" ] || dirs+=("$dir")
done
[ ${#dirs[@]} -gt 0 ] || exit $status
must report bin/driver report "${dirs[@]}" --out "$out"
printf -v spent '%s, ' "${parts[@]}"
echo "time $((SECONDS - began)) s: ${spent%, }"
exit $status

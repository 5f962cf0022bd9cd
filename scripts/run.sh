#!/usr/bin/env bash
# make run: from a fresh Debian or Ubuntu machine to two warm virtual machines.
# Everything it makes lies in .run/ and bin/ and is used again the next time.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
need_go
mkdir -p .run
# Another folder and pool file are for tests of this very script.
data=${RUN_DIR:-$PWD/.run}
mkdir -p "$data"
pool_file=${POOL_FILE:-examples/pool.yml}
started=$SECONDS

say "This builds the runner, makes a small image, and keeps two real virtual machines warm on this host."
say "It needs no account, and touches nothing outside $PWD but the packages it names."

packages=$(missing "$qemu_program=$qemu_package" qemu-img=qemu-utils xz=xz-utils curl=curl)
if [ -n "$packages" ]; then
	say "1. Missing on this host: $packages"
	# Root's packages come while the programs are built; others are told what to run.
	# shellcheck disable=SC2086 # one word per package
	if [ "$(id -u)" -eq 0 ]; then install $packages & installing=$!; else install $packages || exit 1; fi
else
	say "1. All packages are there."
fi

say "2. Building bin/drone-runner-aws and bin/runner-agent (the first time takes two minutes or three)."
# Without cgo no C compiler is needed.
code=0
CGO_ENABLED=0 scripts/build.sh || code=$?
[ -z "${installing:-}" ] || wait "$installing" || code=$?
[ "$code" -eq 0 ] || exit "$code"

say "3. The image \"tiny\": a Debian kernel, busybox and the agent."
[ -e "$data/images/tiny/manifest.json" ] || image_lists
bin/drone-runner-aws image build tiny --data-dir "$data" --agent bin/runner-agent

say "4. Serving $pool_file on ${DRONE_HTTP_BIND:-:3000}; data in $data. Stop with Ctrl-C: machines live on, and the next start finds them."
# In a process group of its own, so that Ctrl-C reaches it once, through here.
set -m
bin/drone-runner-aws delegate --pool "$pool_file" --data-dir "$data" &
set +m
runner=$!
trap 'kill -TERM "$runner" 2>/dev/null || true' TERM INT HUP

# ready: every pool of the file has its warm machines.
ready() {
	bin/drone-runner-aws pool ls --json --socket "$data/admin.sock" 2>/dev/null >"$data/pools.json" || return 1
	awk '
		/"min":/      { gsub(/[^0-9]/, ""); want += $0 }
		/"(warm|hibernated|leased)":/ { gsub(/[^0-9]/, ""); have += $0 }
		END           { exit !(want > 0 && have >= want) }
	' "$data/pools.json"
}

# Ctrl-C also ends what this script runs just now: that is no failure of its own.
for _ in $(seq 900); do
	sleep 0.2 || true
	kill -0 "$runner" 2>/dev/null || break
	if ready; then
		scripts/walk.sh print "$((SECONDS - started))" || true
		break
	fi
done

code=0
wait "$runner" || code=$?
# A signal ends the first wait; the runner then ends by itself.
if [ "$code" -gt 128 ]; then
	code=0
	wait "$runner" || code=$?
fi
exit "$code"

#!/usr/bin/env bash
# make chaos: builds the runner, and does to it what a bad day does. "chaos.sh
# short" is the run of make test, with the race detector; "chaos.sh soak" is
# make soak. Everything after that goes to the program: scripts/chaos.sh long -h
. "$(dirname "$0")/lib.sh"
set -euo pipefail
need_go
mkdir -p .run
what=${1:-long}
shift || true
dir=$(mktemp -d "${TMPDIR:-/tmp}/chaos.XXXXXX")
pg=
# shellcheck disable=SC2317 # called by the trap
finish() {
	[ -z "$pg" ] || scripts/postgres.sh stop "$pg"
	# What a failed run has left is worth looking at; the programs are not.
	rm -rf "$dir/bin"
	rmdir "$dir" 2>/dev/null || true
}
trap finish EXIT
race=()
modes=()
case $what in
	short)
		race=(-race)
		flags=(-kills 12 -cuts 1 -stopped 30s -watch 12s -parallel 3)
		;;
	long) flags=(-kills "${KILLS:-100}" -parallel "${PARALLEL:-2}") ;;
	soak)
		flags=(-soak "$(awk "BEGIN{printf \"%d\", ${HOURS:-1} * 3600}")s")
		modes=(soak)
		;;
	*) die "chaos.sh: $what is none of short, long, soak" ;;
esac
[ -z "${SEED:-}" ] || flags+=(-seed "$SEED")
[ -z "${JSON:-}" ] || flags+=(-json)
# shellcheck disable=SC2206 # one word per mode
[ -z "${MODES:-}" ] || modes=($MODES)
mkdir "$dir/bin"
go build ${race[@]+"${race[@]}"} -o "$dir/bin/drone-runner-aws" ./cmd/drone-runner-aws
CGO_ENABLED=0 go build -o "$dir/bin/static" ./cmd/drone-runner-aws
CGO_ENABLED=0 go build -o "$dir/bin/chaos" ./internal/chaos/cmd
flags+=(-runner "$dir/bin/drone-runner-aws" -dir "$dir/data")

# The power cuts need QEMU and the image; without them they are skipped by name.
if [ "$what" != soak ] && command -v "$qemu_program" >/dev/null; then
	if [ ! -e .run/images/tiny/initramfs ]; then
		CGO_ENABLED=0 go build -o "$dir/bin/runner-agent" ./cmd/runner-agent
		"$dir/bin/static" image build tiny --data-dir .run --agent "$dir/bin/runner-agent" || say "no image: the power cuts are skipped"
	fi
	flags+=(-static "$dir/bin/static" -images .run/images)
fi
if [ -n "${TEST_POSTGRES_DSN:-}" ]; then
	flags+=(-postgres "$TEST_POSTGRES_DSN")
elif [ -n "$(pg_bin)" ] && [ -x "$(pg_bin)/initdb" ]; then
	pg=$(mktemp -d "${TMPDIR:-/tmp}/runner-pg.XXXXXX")
	chmod 755 "$pg"
	flags+=(-postgres "$(scripts/postgres.sh start "$pg")")
fi
"$dir/bin/chaos" "${flags[@]}" "$@" ${modes[@]+"${modes[@]}"}

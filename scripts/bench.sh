#!/usr/bin/env bash
# make bench: measures and writes docs/performance.md. ONLY=engine measures what
# needs no virtual machine and prints it instead, ONLY=agent the agent alone. COUNT=n has each benchmark run
# n times, for benchstat; once is enough to look. Leave the host alone meanwhile.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
count=${COUNT:-1}
only=${ONLY:-}
case $only in '' | engine | agent) ;; *) die "ONLY=$only is not known; leave it out, or say ONLY=engine or ONLY=agent" ;; esac
need_go
mkdir -p .run

need=(initdb=postgresql dockerd=docker.io iptables=iptables busybox=busybox-static unshare=util-linux)
[ -n "$only" ] || need+=("$qemu_program=$qemu_package" qemu-img=qemu-utils xz=xz-utils)
packages=$(missing "${need[@]}")
# shellcheck disable=SC2086 # one word per package
install $packages
scripts/build.sh
pg=$(mktemp -d "${TMPDIR:-/tmp}/runner-pg.XXXXXX")
trap 'scripts/postgres.sh stop "$pg"' EXIT
dsn=$(scripts/postgres.sh durable "$pg")
chmod 755 "$pg"

# stolen prints the processor's time of this guest so far: what it used, and
# what its host gave to others meanwhile, in hundredths of a second.
stolen() { awk '$1 == "cpu" { print $2 + $3 + $4 + $7 + $8, $9 }' /proc/stat 2>/dev/null || echo 0 0; }

# program PATTERN FILE measures the built program from outside.
program() { BENCH_OUT=$PWD/$2 go test -tags bench -run "$1" -count=1 -timeout 30m ./cmd/drone-runner-aws; }

# benchmarks PACKAGE PATTERN TIME runs benchmarks and keeps their lines. What is
# left out by the patterns takes minutes: the store's rows by size fill tables of
# 100,000 rows (go test ./store/sqlite -bench size).
benchmarks() {
	go test ${TAGS:+-tags "$TAGS"} -run '^$' -bench "$2" -benchtime "${BENCHTIME:-$3}" -count "$count" -timeout 60m "$1" | tee -a .run/benchmarks.raw |
		grep -E '^(goos|goarch|pkg|cpu|Benchmark)' >>.run/benchmarks.txt
}
parts() {
	local before
	before=$(stolen)
	rm -f .run/benchmarks.raw .run/benchmarks.txt
	[ "$only" = agent ] || engine
	benchmarks ./cmd/runner-agent Start 20x
	benchmarks ./internal/agent 'Step|Flood|Output' 1s
	benchmarks ./internal/agent Paced 5x
	TAGS=docker benchmarks ./internal/agent ContainerStep 50x
	stolen=$(printf '%s %s' "$before" "$(stolen)" | awk '{ used = $3 - $1; lost = $4 - $2; printf "%.0f", used + lost ? 100 * lost / (used + lost) : 0 }')
}
engine() {
	benchmarks ./pool . 2s
	benchmarks ./server . 1s
	benchmarks ./store/sqlite 'Store/(claim|cycle|open)' 2s
	# Their machines are made first, by transactions of their own.
	TEST_POSTGRES_DSN=$dsn benchmarks ./store/postgres 'Store/claim' 3000x
	TEST_POSTGRES_DSN=$dsn benchmarks ./store/postgres 'Store/cycle' 1000x
	TEST_POSTGRES_DSN=$dsn benchmarks ./store/postgres 'Store/open/rate=1000$' 1x
}

# goal WHAT GOAL PACKAGE BENCHMARK UNIT prints a row of the table of goals: the
# median and the ends of all runs of a benchmark.
goal() {
	awk -v pkg="$3" -v name="$4" -v unit="$5" '
		$1 == "pkg:" { here = $2 ~ "/" pkg "$" }
		here && $1 ~ "^Benchmark" name "(-[0-9]+)?$" { for (i = 3; i < NF; i += 2) if ($(i + 1) == unit) print $i }
	' .run/benchmarks.txt | sort -g | awk -v what="$1" -v goal="$2" -v all="${only:+no}" '
		{ v[NR] = $1 }
		END {
			if (NR) printf "| %s | %s | %s | %s to %s | %d |\n", what, goal, v[int((NR + 1) / 2)], v[1], v[NR], NR
			else if (!all) printf "| %s | %s | not measured | | 0 |\n", what, goal
		}'
}
goals() {
	local n
	printf '| what | goal | median | from, to | runs |\n|---|---|---|---|---|\n'
	for n in 10 100 1000; do
		goal "cycles a second of the engine, $n warm, 64 clients" "at least 1,000" pool "Cycle/pool=$n/clients=64" cycles/s
	done
	goal "durable claims a second, SQLite, 64 claimers" "at least 10,000" sqlite Store/claim/claimers=64 claims/s
	goal "p99 at 5,000 claims a second, SQLite, ms" "at most 5" sqlite Store/open/rate=5000 p99-ms
	goal "p99 at 1,000 claims a second, Postgres over loopback with fsync, ms" "at most 10" postgres Store/open/rate=1000 p99-ms
	for n in 10 1000; do
		goal "claim to the intent of its refill, $n warm, worst of a run, µs" "at most 50,000" pool "RefillAfterClaim/pool=$n" µs-worst
	done
	goal "plan of 10,000 machines, ns" "at most 1,000,000" pool Plan/machines=10000/ordinary ns/op
	goal "plan of 10,000 machines, all missing, ns" "at most 1,000,000" pool Plan/machines=10000/all_missing ns/op
	goal "idle pass over 10,000 warm machines, SQLite, nothing written, ms" "at most 10" pool IdlePass/pass ms
	goal "the same once a minute, with what the pool has spent, ms" "at most 10" pool IdlePass/pass_of_a_minute ms
	for n in false true; do
		goal "step \`true\` of the agent above the bare command, working_dir $n, ms" "at most 2" agent Step/working_dir=$n above-ms
	done
	goal "step \`true\` in a container above docker run, ms" "at most 30" agent ContainerStep above-ms
	goal "agent, start to healthy, ms" "at most 20" runner-agent Start p50-ms
	goal "agent, memory for itself (RssAnon), MB" "at most 15" runner-agent Start RssAnon-MB
	goal "agent, stripped, MB" "at most 12" runner-agent Start file-MB
	goal "output at 50 MB/s, longer than unkept, %" "no longer" agent Paced slower-%
	goal "output at 50 MB/s, heap of the agent at most, MB" "at most 64" agent Paced heap-MB
	goal "output of a step, flat out, MB/s" "at least 100" agent Flood/agent MB/s
}

table() {
	printf '\n## Goals\n\nEach benchmark was run %s; one run of an open loop lasts two seconds. Of the time the\nprocessors were wanted, the host gave %s %% to its other guests meanwhile: the ends of what is measured tell of that.\n\n' "$([ "$count" = 1 ] && echo once || echo "$count times")" "$stolen"
	goals
	printf '\n## The parts\n\nBenchmarks beside the code.'
	if [ "$count" -gt 1 ]; then
		printf ' By benchstat, over %d runs each.\n\n```\n' "$count"
		go tool benchstat .run/benchmarks.txt
	else
		printf ' `make bench COUNT=10` has them run ten times; compare two revisions with `go tool benchstat`.\n\n```\n'
		grep -E '^(pkg|Benchmark)' .run/benchmarks.txt
	fi
	printf '```\n'
}

if [ "$only" = agent ]; then
	parts
	table
	exit
fi
if [ -n "$only" ]; then
	say "Measuring the program"
	program '^TestBench$/^(memory|throughput|open_loop)$' .run/performance.md
	say "Measuring the parts"
	parts
	cat .run/performance.md
	table
	exit
fi
[ -e .run/images/tiny/manifest.json ] || image_lists
bin/drone-runner-aws image build tiny --data-dir .run --agent bin/runner-agent
say "Measuring the program (some minutes)"
program '^TestBench$' .run/performance.md
say "A hundred thousand leases in fake time"
many=$(go test ./pool -run '^TestManyLeasesLeaveNothingBehind$' -leases=100000 -count=1 -v -timeout 60m | sed -n 's/.*scale_test.go:[0-9]*: //p')
say "Measuring the parts"
parts
{
	cat .run/performance.md
	printf '\n## Many leases\n\nIn fake time, one engine, after a tenth of them and at the end: %s.\n' "$many"
	table
} >docs/performance.md.new
mv docs/performance.md.new docs/performance.md
say "Written: docs/performance.md"

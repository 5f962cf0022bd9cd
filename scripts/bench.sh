#!/usr/bin/env bash
# make bench: measures the built program and writes docs/performance.md.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
need_go
mkdir -p .run
packages=$(missing "$qemu_program=$qemu_package" qemu-img=qemu-utils xz=xz-utils)
# shellcheck disable=SC2086 # one word per package
install $packages
scripts/build.sh
[ -e .run/images/tiny/manifest.json ] || image_lists
bin/drone-runner-aws image build tiny --data-dir .run --agent bin/runner-agent
say "Measuring the program (some minutes; leave the host alone meanwhile)"
BENCH_OUT=$PWD/.run/performance.md go test -tags bench -run '^TestBench$' -count=1 -timeout 30m ./cmd/drone-runner-aws
say "A hundred thousand leases in fake time"
many=$(go test ./pool -run '^TestManyLeasesLeaveNothingBehind$' -leases=100000 -count=1 -v -timeout 60m | sed -n 's/.*scale_test.go:[0-9]*: //p')
say "Measuring the parts"
# The store's rows by size make 100,000 rows each time and take minutes: run
# them by themselves (go test ./store/sqlite -bench size).
{
	go test -run '^$' -bench . ${BENCHTIME:+-benchtime=$BENCHTIME} ./pool ./server
	go test -run '^$' -bench 'Store/(claim|cycle|open)' -benchtime "${BENCHTIME:-2s}" ./store/sqlite
} | grep -E '^(pkg|Benchmark)' >.run/benchmarks.txt
{
	cat .run/performance.md
	printf '\n## Many leases\n\nIn fake time, one engine, after a tenth of them and at the end: %s.\n' "$many"
	printf '\n## The parts\n\nBenchmarks beside the code; compare two revisions with `go tool benchstat`.\n\n```\n'
	cat .run/benchmarks.txt
	printf '```\n'
} >docs/performance.md
say "Written: docs/performance.md"

#!/usr/bin/env bash
# Fuzzes every target for the given time each. Inputs that fail are written to
# testdata/fuzz of the package: commit them.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
time=${1:-30s}
failed=0 count=0
while IFS=: read -r file target; do
	count=$((count + 1))
	say "$target in $(dirname "$file")"
	go test -run='^$' -fuzz="^$target\$" -fuzztime="$time" "./$(dirname "$file")" >.run/fuzz.log 2>&1 || {
		cat .run/fuzz.log
		failed=1
	}
done < <(mkdir -p .run; grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' cmd drivers internal pool server store | sed 's/func //' | sort)
say "$count fuzz targets, $time each"
[ "$count" -gt 0 ] || die "no fuzz target was found"
exit "$failed"

#!/usr/bin/env bash
# The simulation with more seeds than the unit tests take.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
packages=$(grep -rlE --include='*_test.go' '^func TestSim' cmd internal pool store 2>/dev/null | xargs -r -n1 dirname | sort -u | sed 's|^|./|')
[ -n "$packages" ] || die "no simulation was found"
# shellcheck disable=SC2086 # one word per package
exec go test -run '^TestSim' -count=1 -timeout 30m -v $packages -args -sim.seeds="${SIM_SEEDS:-200}"

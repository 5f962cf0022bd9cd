#!/usr/bin/env bash
# The simulation by hand: SEEDS=n seeds from FIRST on, or one SEED=k, perhaps
# with its whole story (VERBOSE=1), those with one KIND of trouble, the race detector (RACE=1), on a real Postgres
# (POSTGRES=1), or on the drivers of clouds and their fakes (CLOUDS=1). It tells of its progress every few seconds.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
need_go
test=TestSimulation
if [ -n "${POSTGRES:-}" ]; then
	test=TestSimulationOnPostgres
	if [ -z "${TEST_POSTGRES_DSN:-}" ]; then
		pg=$(mktemp -d "${TMPDIR:-/tmp}/runner-pg.XXXXXX")
		trap 'scripts/postgres.sh stop "$pg"' EXIT
		TEST_POSTGRES_DSN=$(scripts/postgres.sh start "$pg")
		export TEST_POSTGRES_DSN
		chmod 755 "$pg"
	fi
fi
[ -z "${CLOUDS:-}" ] || test=TestSimulationOnClouds
flags=(-sim.first="${FIRST:-1}" -sim.report=5s)
if [ -n "${SEED:-}" ]; then
	flags+=(-sim.seed="$SEED")
else
	flags+=(-sim.seeds="${SEEDS:-2000}")
fi
[ -z "${KIND:-}" ] || flags+=(-sim.kind="$KIND")
[ -z "${VERBOSE:-}" ] || flags+=(-sim.verbose -test.v)
# Many seeds: a night must not end because of a default.
go test ${RACE:+-race} -run "^$test\$" -count=1 -timeout 24h ./internal/sim -args "${flags[@]}"

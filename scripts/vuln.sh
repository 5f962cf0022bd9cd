#!/usr/bin/env bash
# govulncheck; a database that cannot be reached is said and is no failure.
. "$(dirname "$0")/lib.sh"
set -uo pipefail
mkdir -p .run
go tool govulncheck ./... >.run/vuln.log 2>&1
code=$?
cat .run/vuln.log
if [ "$code" -ne 0 ] && grep -qiE 'fetching vulnerabilities|dial tcp|no such host|connection refused|timeout|Forbidden' .run/vuln.log; then
	say "The vulnerability database cannot be reached from here: nothing was checked."
	exit 0
fi
exit "$code"

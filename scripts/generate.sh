#!/usr/bin/env bash
# Runs every test that has an -update flag with it, then go generate.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
go generate ./...
grep -rlE --include='*_test.go' 'flag\.Bool\("update"' cmd drivers internal pool server store | xargs -n1 dirname | sort -u | while read -r dir; do
	say "$dir"
	go test "./$dir" -update >/dev/null
done
git status --short

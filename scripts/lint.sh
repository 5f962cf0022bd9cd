#!/usr/bin/env bash
# golangci-lint at one version: an installed one if it is that, else through the
# module proxy. It is a linter of its own release cycle, so it is not in go.mod.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
need_go
version=$1
# Every finding, not the first of each kind.
run=(run --max-same-issues 0 --max-issues-per-linter 0 ./...)
built=$(go env GOPATH)/bin/golangci-lint
for program in golangci-lint "$built"; do
	if "$program" version 2>/dev/null | grep -qF "version ${version#v} "; then
		exec "$program" "${run[@]}"
	fi
done
mkdir -p .run
say "golangci-lint $version is not installed; building it from the module proxy (minutes, once)"
if ! GOFLAGS=-mod=mod GOBIN=${built%/*} go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version" </dev/null >.run/lint.log 2>&1; then
	tail -n 5 .run/lint.log >&2
	say "golangci-lint could not be built here; go vet and staticcheck run instead." >&2
	go vet ./...
	exec go tool staticcheck ./...
fi
exec "$built" "${run[@]}"

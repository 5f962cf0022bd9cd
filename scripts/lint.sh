#!/usr/bin/env bash
# golangci-lint at one version: an installed one if it is that, else through the
# module proxy. It is a linter of its own release cycle, so it is not in go.mod.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
version=$1
if command -v golangci-lint >/dev/null && golangci-lint version 2>/dev/null | grep -qF "${version#v}"; then
	exec golangci-lint run ./...
fi
mkdir -p .run
say "golangci-lint $version is not installed; building it from the module proxy (minutes, once)"
if ! GOFLAGS=-mod=mod go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version" >.run/lint.log 2>&1; then
	tail -n 5 .run/lint.log >&2
	say "golangci-lint could not be built here; go vet and staticcheck run instead." >&2
	go vet ./...
	exec go tool staticcheck ./...
fi
exec "$(go env GOPATH)/bin/golangci-lint" run ./...

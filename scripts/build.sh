#!/usr/bin/env bash
# Builds both programs into bin/. The agent is static, for the machines of this
# host; the runner is built with cgo if there is a C compiler, else without.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
need_go
mkdir -p bin
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo development)}
if [ -z "${CGO_ENABLED:-}" ] && ! command -v gcc >/dev/null; then
	export CGO_ENABLED=0
fi
go build -trimpath -ldflags "-X main.version=$version" -o bin/drone-runner-aws ./cmd/drone-runner-aws
# Without the documentation writer of the command line's library, which compiles
# its patterns at every start of the agent.
CGO_ENABLED=0 GOOS=linux go build -tags urfave_cli_no_docs -trimpath -ldflags "-s -w -X main.version=$version" -o bin/runner-agent ./cmd/runner-agent

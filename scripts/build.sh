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
# What the clouds' SDKs generate is most of the work: it compiles in half the time
# without inlining, and its calls take as long as the network does.
generated=()
for package in github.com/aws/aws-sdk-go-v2/service/ec2 cloud.google.com/go/compute/apiv1 cloud.google.com/go/compute/apiv1/computepb; do
	generated+=("-gcflags=$package=-l")
done
go build -trimpath "${generated[@]}" -ldflags "-X main.version=$version" -o bin/drone-runner-aws ./cmd/drone-runner-aws
# Without the documentation writer of the command line's library, which compiles
# its patterns at every start of the agent.
CGO_ENABLED=0 GOOS=linux go build -tags urfave_cli_no_docs -trimpath -ldflags "-s -w -X main.version=$version" -o bin/runner-agent ./cmd/runner-agent

# syntax=docker/dockerfile:1
# The runner in a container. Root is not needed: it runs as user 1000.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=development
RUN go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/drone-runner-aws ./cmd/drone-runner-aws \
 && CGO_ENABLED=0 go build -tags urfave_cli_no_docs -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/runner-agent ./cmd/runner-agent

FROM debian:bookworm-slim
# QEMU and the tools of images are for pools of local machines. They end with
# the container: for machines that outlive it, run the program on the host.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates qemu-system-x86 qemu-utils xz-utils zstd \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home --home-dir /runner runner
COPY --from=build /out/drone-runner-aws /out/runner-agent /bin/
COPY LICENSE NOTICE /usr/share/doc/drone-runner-aws/
USER 1000
WORKDIR /runner
EXPOSE 3000
# Docker sends SIGTERM and waits 10 s unless told otherwise; a step that runs
# is found again by the next start either way.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/bin/drone-runner-aws"]
CMD ["delegate", "--pool", "/runner/pool.yml"]

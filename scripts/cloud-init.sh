#!/usr/bin/env bash
# make cloud-init: builds the images debian and debian-docker, unless
# TEST_DEBIAN_IMAGE and TEST_DEBIAN_DOCKER_IMAGE name the folders of some, and boots
# machines of them: by cloud-init with the user data of a cloud, as local machines,
# and for a step in a container. Takes about fifteen minutes where they are emulated.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
need_go
mkdir -p .run
if [ -z "${TEST_DEBIAN_IMAGE:-}" ] || [ -z "${TEST_DEBIAN_DOCKER_IMAGE:-}" ]; then
	# shellcheck disable=SC2046 # one word per package
	install $(missing "$qemu_program=$qemu_package" qemu-img=qemu-utils mke2fs=e2fsprogs debugfs=e2fsprogs mmdebstrap=mmdebstrap xz=xz-utils)
	go build -o .run/cloud-init/ ./cmd/drone-runner-aws
	CGO_ENABLED=0 go build -tags urfave_cli_no_docs -trimpath -ldflags '-s -w' -o .run/cloud-init/ ./cmd/runner-agent
	for name in debian debian-docker; do
		.run/cloud-init/drone-runner-aws image build "$name" --data-dir "$PWD/.run/cloud-init"
	done
	TEST_DEBIAN_IMAGE=$PWD/.run/cloud-init/images/debian
	TEST_DEBIAN_DOCKER_IMAGE=$PWD/.run/cloud-init/images/debian-docker
fi
export TEST_DEBIAN_IMAGE TEST_DEBIAN_DOCKER_IMAGE CI=${CI:-true}
failed=0
go test -tags e2e,debian -count=1 -timeout 30m -run 'Rendered|Debian' -v ./internal/e2e || failed=1
go test -tags debian -count=1 -timeout 30m -run 'Debian|CloudInit' -v ./drivers/qemu || failed=1
exit "$failed"

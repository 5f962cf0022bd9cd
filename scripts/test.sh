#!/usr/bin/env bash
# make test: installs what the tests need, runs every stage, prints a table, and
# fails if a stage did. A stage that fails does not keep the others from running.
# "test.sh quick" leaves out what needs installing and what takes minutes: real
# machines, Postgres, the race detector, all but a few seeds.
. "$(dirname "$0")/lib.sh"
set -uo pipefail
need_go
mkdir -p .run
mode=${1:-full}
# Everything the tests need is there: what would be skipped elsewhere fails here.
[ "$mode" = quick ] || export CI=${CI:-true}
names=() results=() times=()
failed=0

# stage NAME COMMAND… runs it without standard input and notes how it went.
stage() {
	local name=$1 start=$SECONDS result=ok
	shift
	say
	say "=== $name"
	if ! "$@" </dev/null; then
		result=FAILED
		failed=1
	fi
	names+=("$name") results+=("$result") times+=($((SECONDS - start)))
}

packages() {
	local need
	need=$(missing "$qemu_program=$qemu_package" qemu-img=qemu-utils gcc=gcc,libc6-dev initdb=postgresql xz=xz-utils zstd=zstd openssl=openssl bash=bash setsid=util-linux python3=python3 shellcheck=shellcheck cloud-init=cloud-init systemd-analyze=systemd blkid=util-linux mkfs.ext4=e2fsprogs dockerd=docker.io iptables=iptables busybox=busybox-static unshare=util-linux podman=podman netavark=netavark aardvark-dns=aardvark-dns)
	if [ -z "$need" ]; then
		say "all packages are there"
	else
		# The tests call cloud-init by hand: it must not act on this host's next boot.
		case " $need " in *" cloud-init "*) [ "$(id -u)" -ne 0 ] || { mkdir -p /etc/cloud && touch /etc/cloud/cloud-init.disabled; } ;; esac
		# Nor must the packages start servers on this host: the tests have their own.
		local policy=/usr/sbin/policy-rc.d made=
		[ "$(id -u)" -ne 0 ] || [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made=1; }
		local result=0
		# shellcheck disable=SC2086 # one word per package
		install $need || result=1
		[ -z "$made" ] || rm -f "$policy"
		[ $result -eq 0 ] || return 1
	fi
	image_lists
}

formatted() {
	local list
	list=$(go tool gofumpt -l $(git ls-files '*.go' 2>/dev/null || find . -name '*.go')) || return 1
	[ -z "$list" ] || { say "not formatted as gofumpt does (go tool gofumpt -w):"; say "$list"; return 1; }
}

# tagged: the packages with tests behind build tags.
tagged=(./cmd/drone-runner-aws ./internal/e2e)

vet() {
	go vet ./... && go vet -tags e2e "${tagged[@]}" && go vet -tags bench "${tagged[@]}" && go vet -tags e2e,debian ./internal/e2e ./drivers/qemu && go vet -tags nextschema ./store/... && go vet -tags docker ./internal/agent/... ./internal/hostrunner ./cmd/runner-agent || return 1
	local os
	for os in darwin windows; do
		GOOS=$os CGO_ENABLED=0 go vet ./cmd/runner-agent ./internal/agent/... ./internal/hostrunner/... || return 1
	done
}

static() { go tool staticcheck ./... && go tool staticcheck -tags e2e "${tagged[@]}" && go tool staticcheck -tags e2e,debian ./internal/e2e ./drivers/qemu && go tool staticcheck -tags bench ./cmd/drone-runner-aws && go tool staticcheck -tags docker ./internal/agent/... ./internal/hostrunner ./cmd/runner-agent; }

# unit FLAGS…: everything that has no stage of its own. Two packages have:
# simulated hours take minutes under the race detector, and so do real machines.
unit() {
	local list
	# pool's bubbles have one processor with -race: it comes first, beside the others.
	list=$(go list ./pool ./... | grep -vE '/(internal/sim|drivers/qemu)$' | awk '!seen[$0]++') || return 1
	# shellcheck disable=SC2086 # one word per package
	go test -timeout 20m "$@" $list
}

# simulation: many seeds, fewer with the race detector, fewest on a real server.
simulation() {
	local out seed rare=0
	out=$(mktemp)
	go test -count=1 -timeout 20m -run '^TestSimulation(OnClouds)?Bites$' ./internal/sim || return 1
	go test -count=1 -timeout 20m -run '^TestSimulationOnClouds$' ./internal/sim -sim.seeds="${SIM_CLOUD_SEEDS:-200}" || return 1
	# A seed does not fix the order of goroutines, so that a rare interleaving
	# fails one run of a seed and not the next. It is a defect to look at all
	# the same, and told; what fails again, or more than three, fails the stage.
	if ! go test -count=1 -timeout 30m -run '^TestSimulation$' ./internal/sim -sim.seeds="${SIM_SEEDS:-2000}" -sim.report=20s >"$out" 2>&1; then
		cat "$out"
		for seed in $(sed -n 's/^seed \([0-9]*\) FAILED.*/\1/p' "$out"); do
			rare=$((rare + 1))
			go test -count=5 -run '^TestSimulation$' ./internal/sim -sim.seed="$seed" || return 1
			say "SEED $seed FAILED ONCE and passed five times since: a rare interleaving, see above"
		done
		[ "$rare" -ge 1 ] && [ "$rare" -le 3 ] || return 1
	fi
	tail -n 3 "$out"
	rm -f "$out"
	go test -race -count=1 -timeout 20m -run '^TestSimulation$' ./internal/sim -sim.seeds="${SIM_RACE_SEEDS:-100}" -sim.report=20s &&
		go test -count=1 -timeout 20m -run '^TestSimulationOnPostgres$' ./internal/sim -sim.seeds="${SIM_POSTGRES_SEEDS:-50}" -sim.report=20s
}

# driver: the conformance suite and more on real machines.
driver() {
	# One copy of the image's packages serves these tests and make run.
	mkdir -p .run/images/.cache .run/test-images && ln -sfn ../images/.cache .run/test-images/packages || return 1
	TEST_IMAGE_DIR=$PWD/.run/test-images go test -count=1 -timeout 20m ./drivers/qemu
}

# cgoless: the runner without a C compiler, and the store on its other library.
cgoless() { CGO_ENABLED=0 go build -o /dev/null ./cmd/drone-runner-aws && CGO_ENABLED=0 go test -timeout 15m ./store/...; }

# agents: every platform of the agent, static, stripped, at most 12 MB.
agents() {
	local os arch file size
	for os in linux darwin windows; do
		for arch in amd64 arm64; do
			file=.run/agent-$os-$arch
			CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -tags urfave_cli_no_docs -trimpath -ldflags '-s -w' -o "$file" ./cmd/runner-agent || return 1
			size=$(wc -c <"$file")
			printf 'runner-agent %s/%s: %.1f MB\n' "$os" "$arch" "$(awk "BEGIN{print $size/1e6}")"
			[ "$size" -le 12000000 ] || { say "more than 12 MB"; return 1; }
			rm -f "$file"
		done
	done
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 go build -o /dev/null ./cmd/drone-runner-aws
}

# machines: both programs from outside, on real virtual machines of this host.
machines() {
	command -v "$qemu_program" >/dev/null || { say "$qemu_program is missing"; return 1; }
	go test -tags e2e -count=1 -timeout 25m -run '^TestE2E' -v ./cmd/drone-runner-aws && TEST_IMAGE_DIR=$PWD/.run/test-images go test -tags e2e -count=1 -timeout 25m -v ./internal/e2e
}

# containers: steps in containers of a real daemon, which needs root and namespaces.
containers() { go test -race -tags docker -count=1 -timeout 10m -run '^TestDocker' ./internal/agent/... ./internal/hostrunner ./cmd/runner-agent; }

finish() {
	[ -z "${pg:-}" ] || scripts/postgres.sh stop "$pg"
}
trap finish EXIT

[ "$mode" = quick ] || stage "packages" packages
stage "modules" go mod download
stage "go vet" vet
stage "gofumpt" formatted
stage "staticcheck" static
stage "tree (imports, docs)" go test -count=1 ./internal/archtest
stage "go mod tidy -diff" go mod tidy -diff
if [ "$mode" = quick ]; then
	stage "unit tests" unit
	stage "simulation" go test -run '^TestSimulation' ./internal/sim -sim.seeds=40
else
	pg=$(mktemp -d "${TMPDIR:-/tmp}/runner-pg.XXXXXX")
	if dsn=$(scripts/postgres.sh start "$pg"); then
		export TEST_POSTGRES_DSN=$dsn
		chmod 755 "$pg"
	else
		stage "postgres server" false
	fi
	stage "unit tests, race" unit -race -shuffle=on
	stage "containers" containers
	stage "simulation" simulation
	stage "local machines" driver
	stage "without cgo" cgoless
	stage "agent, all platforms" agents
	# So many inputs, not so long: a fuzzing that is ended by the clock is
	# sometimes taken for a failure ("context deadline exceeded").
	stage "fuzz, briefly" scripts/fuzz.sh "${FUZZTIME:-300x}"
	stage "chaos, short" scripts/chaos.sh short
	stage "end to end" machines
fi

say
printf '%-24s %-7s %8s\n' stage result seconds
for i in "${!names[@]}"; do
	printf '%-24s %-7s %8d\n' "${names[$i]}" "${results[$i]}" "${times[$i]}"
done
printf '%-24s %-7s %8d\n' all "$([ $failed -eq 0 ] && echo ok || echo FAILED)" "$SECONDS"
exit $failed

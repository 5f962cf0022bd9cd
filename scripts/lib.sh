# Shared by the scripts: sourced, not run.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

need_go() {
	command -v go >/dev/null || die "Go is missing: install Go $(awk '$1=="go"{print $2}' go.mod) or later and put it on the PATH."
}

case "$(uname -m)" in
	aarch64 | arm64) qemu_program=qemu-system-aarch64 qemu_package=qemu-system-arm ;;
	*) qemu_program=qemu-system-x86_64 qemu_package=qemu-system-x86 ;;
esac

# missing PROGRAM=PACKAGE… prints the packages whose programs are not there.
missing() {
	local pair
	for pair in "$@"; do
		PATH="$PATH:$(pg_bin):/usr/lib/podman" command -v "${pair%%=*}" >/dev/null || printf '%s\n' "${pair#*=}" | tr ',' '\n'
	done | sort -u | tr '\n' ' ' | sed 's/ $//'
}

# pg_bin is where Debian keeps the programs of a Postgres server.
pg_bin() {
	local dirs=(/usr/lib/postgresql/*/bin)
	printf '%s' "${dirs[-1]}"
}

# install PACKAGES… installs them as root; else it prints the one line to run
# and fails.
install() {
	[ $# -gt 0 ] || return 0
	if ! command -v apt-get >/dev/null; then
		say "Missing, and this is not Debian or Ubuntu: please install what these Debian packages hold: $*" >&2
		return 1
	fi
	if [ "$(id -u)" -ne 0 ]; then
		{
			say "Missing: $*. Installing needs root. Please run this one line, then the same command again:"
			say
			say "    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
			say
		} >&2
		return 1
	fi
	say "Installing with apt-get: $*"
	refresh_lists && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" </dev/null >.run/apt.log 2>&1 || {
		tail -n 20 .run/apt.log >&2
		say "apt-get could not install: $*" >&2
		return 1
	}
}

# refresh_lists asks for the newest lists of packages, at most once a script.
refresh_lists() {
	[ -z "${lists_are_fresh:-}" ] || return 0
	mkdir -p .run
	apt-get update -q </dev/null >.run/apt.log 2>&1 || return 1
	lists_are_fresh=1
}

# image_lists makes sure that apt knows the packages the image is made of.
image_lists() {
	command -v apt-cache >/dev/null || return 0
	apt-cache show --no-all-versions "linux-image-cloud-$(dpkg --print-architecture)" busybox-static >/dev/null 2>&1 && return 0
	if [ "$(id -u)" -eq 0 ]; then
		say "Refreshing apt's lists of packages"
		refresh_lists
	else
		say "apt does not know the packages of the image yet. If the next step fails, run: sudo apt-get update"
	fi
}

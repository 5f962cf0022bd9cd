#!/bin/sh
# Brings the agent onto this machine and starts it as a service. cloud-init runs
# it once, at the first boot; running it again is harmless. What it does is said
# on the console, one line a step, for a runner that waits in vain.
set -eu
umask 022
# shellcheck source=/dev/null
. /etc/runner-agent/boot.conf

binary=/usr/bin/lite-engine
env_file=/root/.env
log=/var/log/lite-engine.log
initialised=/etc/runner-agent/initialised
authority=/etc/harness-certs/ca.crt
bundle=/etc/harness-certs/ca-bundle.crt
reason="" now="" number=0 total=3
for part in "$EGRESS_PROXY" "$DISKS" "$SCRATCH" "$DOCKER" "$INIT_SCRIPT"; do
	[ -z "$part" ] || total=$((total + 1))
done

say() {
	printf 'runner-boot: %s\n' "$*"
	{ printf '\r\nrunner-boot: %s\r\n' "$*" >/dev/console; } 2>/dev/null || true
}

step() {
	number=$((number + 1)) now="$number/$total $*"
	say "step $now"
}

fail() {
	reason=$*
	exit 1
}

# shellcheck disable=SC2317 # called by the trap
finish() {
	code=$?
	[ "$code" -eq 0 ] || say "step $now: failed: ${reason:-exit code $code, see /var/log/cloud-init-output.log}"
}
trap finish EXIT

has() { command -v "$1" >/dev/null 2>&1; }

packages() {
	if has apt-get; then
		export DEBIAN_FRONTEND=noninteractive
		apt-get update -q && apt-get install -y -q "$@"
	elif has dnf; then
		dnf install -y -q "$@"
	elif has yum; then
		yum install -y -q "$@"
	else
		return 1
	fi
}

# get URL FILE [SECONDS]
get() {
	if has curl; then
		curl -fsSL --connect-timeout 10 --max-time "${3:-120}" -o "$2" "$1"
	else
		wget -q -T "${3:-30}" -t 1 -O "$2" "$1"
	fi
}

# use_proxy sends what follows through the proxy.
use_proxy() {
	export http_proxy="$EGRESS_PROXY" https_proxy="$EGRESS_PROXY" no_proxy="$EGRESS_NO_PROXY"
	export HTTP_PROXY="$http_proxy" HTTPS_PROXY="$https_proxy" NO_PROXY="$no_proxy"
}

# trust makes the proxy's authority one of the system's, and a bundle of all of
# them for programs that look for one.
trust() {
	if has update-ca-certificates; then
		install -D -m 0644 "$authority" /usr/local/share/ca-certificates/harness-egress.crt
		update-ca-certificates >>"$log" 2>&1 || say "step $now: update-ca-certificates: exit code $?, see $log"
	elif has update-ca-trust; then
		install -D -m 0644 "$authority" /etc/pki/ca-trust/source/anchors/harness-egress.crt
		update-ca-trust extract >>"$log" 2>&1 || say "step $now: update-ca-trust: exit code $?, see $log"
	else
		say "step $now: this image has no store of authorities, only $bundle is made"
	fi
	{
		for system in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
			if [ -s "$system" ]; then
				cat "$system"
				break
			fi
		done
		cat "$authority"
	} >"$bundle.new"
	mv -f "$bundle.new" "$bundle"
}

# proxy_answers asks the proxy itself, five times.
proxy_answers() (
	unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
	for pause in 0 3 3 3 3; do
		sleep "$pause"
		if get "$EGRESS_PROXY/healthz" /dev/null 10; then
			return 0
		fi
	done
	return 1
)

# checksum BASE prints the asset's SHA-256: the one that was configured, else
# that of a list beside the asset.
checksum() {
	case $arch in
	amd64) known=$SHA256_AMD64 ;;
	*) known=$SHA256_ARM64 ;;
	esac
	if [ -n "$known" ]; then
		printf '%s\n' "$known"
		return 0
	fi
	for list in "$1/SHA256SUMS" "$1/$asset.sha256"; do
		get "$list" "$work/sums" 2>/dev/null || continue
		sum=$(awk -v asset="$asset" '
			NF == 1 || $2 == asset || $2 == "*" asset { if ($1 ~ /^[0-9a-fA-F]+$/ && length($1) == 64) { print tolower($1); exit } }
		' "$work/sums")
		if [ -n "$sum" ]; then
			printf '%s\n' "$sum"
			return 0
		fi
	done
	return 1
}

# download leaves the agent in $work/agent, whole and as its checksum says.
download() {
	for pause in 0 2 4; do
		sleep "$pause"
		for base in $URLS; do
			rm -f "$work/agent"
			if ! get "$base/$asset" "$work/agent"; then
				reason="no answer from $base/$asset"
			elif ! want=$(checksum "$base"); then
				reason="no checksum for $base/$asset: put SHA256SUMS beside it, or set RUNNER_AGENT_SHA256"
			elif [ "$(sha256sum "$work/agent" | cut -d ' ' -f 1)" != "$want" ]; then
				reason="wrong checksum of $base/$asset"
			else
				return 0
			fi
			say "step $now: $reason"
		done
	done
	return 1
}

step "check the machine"
case $(uname -m) in
x86_64 | amd64) arch=amd64 ;;
aarch64 | arm64) arch=arm64 ;;
*) fail "there is no agent for $(uname -m)" ;;
esac
asset=lite-engine-linux-$arch
has systemctl || fail "systemd is missing"
if [ -n "$EGRESS_PROXY" ]; then
	use_proxy
	[ ! -s "$authority" ] || trust
fi
if ! has curl && ! has wget; then
	packages curl >/dev/null || fail "neither curl nor wget is here, and curl could not be installed"
fi
work=$(mktemp -d /var/tmp/runner-boot.XXXXXX)
systemctl daemon-reload
if [ -n "$DEADLINE" ]; then
	systemctl enable --now runner-deadline.timer
fi

if [ -n "$EGRESS_PROXY" ]; then
	step "reach the egress proxy"
	proxy_answers || fail "no answer from $EGRESS_PROXY/healthz in five tries: let machines of this network reach the proxy, or correct proxy_url in the pool file"
fi

if [ -n "$DISKS" ]; then
	step "mount persistent disks"
	systemctl enable runner-disks.service
	systemctl start runner-disks.service || fail "$(cat /run/runner-disks.reason 2>/dev/null || echo "see journalctl -u runner-disks")"
fi

if [ -n "$SCRATCH" ]; then
	step "make scratch space"
	systemctl enable runner-scratch.service
	systemctl start runner-scratch.service || say "step $now: there is none, see journalctl -u runner-scratch"
fi

step "download agent"
download || fail "$reason"
install -m 0755 "$work/agent" "$binary.new"
mv -f "$binary.new" "$binary"
if has restorecon; then
	restorecon "$binary" || true
fi
rm -rf "$work"

if [ -n "$DOCKER" ]; then
	step "install docker"
	if has docker; then
		say "step $now: it is here"
	elif has apt-get; then
		packages docker.io git >>"$log" 2>&1 || say "step $now: not installed, see $log"
	else
		packages docker git >>"$log" 2>&1 || say "step $now: not installed, see $log"
	fi
	if has docker; then
		# One that runs already has not read where its proxy is.
		[ -z "$EGRESS_PROXY" ] || systemctl try-restart docker >>"$log" 2>&1 || true
		systemctl enable --now docker >>"$log" 2>&1 || say "step $now: not started, see journalctl -u docker"
	fi
fi

if [ -n "$INIT_SCRIPT" ]; then
	step "run the init script"
	if [ ! -e "$initialised" ]; then
		# Its output may hold secrets: it stays in a file of root's.
		"$INIT_SCRIPT" </dev/null >>/var/log/runner-init.log 2>&1 || fail "exit code $?, see /var/log/runner-init.log in the machine"
		: >"$initialised"
	fi
fi

step "start agent"
(
	umask 077
	exec >"$env_file.new"
	if [ -r /etc/environment ]; then
		grep -E '^[A-Za-z_][A-Za-z0-9_]*=' /etc/environment || true
	fi
	printf 'HOME=/root\nCLOUD_DRIVER=%s\n' "$DRIVER"
	printf 'CLIENT_CERT_FILE=%s/ca-cert.pem\nSERVER_CERT_FILE=%s/server-cert.pem\nSERVER_KEY_FILE=%s/server-key.pem\n' "$CERTS" "$CERTS" "$CERTS"
)
mv -f "$env_file.new" "$env_file"
if has ufw; then
	ufw allow 9079/tcp >/dev/null || say "step $now: ufw did not open port 9079"
fi
systemctl enable runner-agent.service
systemctl restart runner-agent.service
sleep 1
systemctl is-active --quiet runner-agent.service || fail "it ended at once: $(tail -n 2 "$log" 2>/dev/null | tr '\n' ' ')"
say "done"

# The rest of this script is the same on every Mac.
binary=/usr/local/bin/lite-engine
home=/var/root
env_file=$home/.env
log=/var/log/lite-engine.log
certs=/usr/local/etc/runner-agent/certs
daemons=/Library/LaunchDaemons
reason="" now="" number=0 total=3

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

# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
	code=$?
	[ "$code" -eq 0 ] || say "step $now: failed: ${reason:-exit code $code}"
}
trap finish EXIT

get() { curl -fsSL --connect-timeout 10 --max-time 120 -o "$2" "$1"; }

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
			elif [ "$(shasum -a 256 "$work/agent" | cut -d ' ' -f 1)" != "$want" ]; then
				reason="wrong checksum of $base/$asset"
			else
				return 0
			fi
			say "step $now: $reason"
		done
	done
	return 1
}

# daemon NAME runs a program for ever, from now on and after every start; its
# plist's further lines are on standard input.
daemon() {
	plist=$daemons/$1.plist
	{
		echo '<?xml version="1.0" encoding="UTF-8"?>'
		echo '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">'
		echo "<plist version=\"1.0\"><dict><key>Label</key><string>$1</string>"
		cat
		echo '</dict></plist>'
	} >"$plist"
	chmod 0644 "$plist"
	launchctl bootout "system/$1" >/dev/null 2>&1 || true
	launchctl bootstrap system "$plist"
}

step "check the machine"
case $(uname -m) in
x86_64) arch=amd64 ;;
arm64) arch=arm64 ;;
*) fail "there is no agent for $(uname -m)" ;;
esac
asset=lite-engine-darwin-$arch
work=$(mktemp -d /var/tmp/runner-boot.XXXXXX)
mkdir -p /usr/local/bin "$certs"
chmod 0700 "$certs"
if [ ! -s "$certs/server-key.pem" ]; then
	(
		umask 077
		printf '%s\n' "$CA_CERT" >"$certs/ca-cert.pem"
		printf '%s\n' "$CERT" >"$certs/server-cert.pem"
		printf '%s\n' "$KEY" >"$certs/server-key.pem"
	)
fi
if [ -n "$DEADLINE" ]; then
	daemon vm-runner.deadline <<-END
		<key>ProgramArguments</key><array><string>/bin/sh</string><string>-c</string>
		<string>while [ "\$(date +%s)" -lt $DEADLINE ]; do sleep 30; done; exec shutdown -h now</string></array>
		<key>RunAtLoad</key><true/><key>KeepAlive</key><true/>
	END
fi

step "download agent"
download || fail "$reason"
install -m 0755 "$work/agent" "$binary.new"
mv -f "$binary.new" "$binary"
rm -rf "$work"

step "start agent"
(
	umask 077
	exec >"$env_file.new"
	printf 'HOME=%s\nSKIP_PREPARE_SERVER=true\nCLOUD_DRIVER=%s\n' "$home" "$DRIVER"
	printf 'PATH=/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\n'
	printf 'CLIENT_CERT_FILE=%s/ca-cert.pem\nSERVER_CERT_FILE=%s/server-cert.pem\nSERVER_KEY_FILE=%s/server-key.pem\n' "$certs" "$certs" "$certs"
)
mv -f "$env_file.new" "$env_file"
daemon vm-runner.agent <<-END
	<key>ProgramArguments</key><array><string>$binary</string><string>server</string><string>--env-file</string><string>$env_file</string></array>
	<key>RunAtLoad</key><true/><key>KeepAlive</key><true/>
	<key>WorkingDirectory</key><string>$home</string>
	<key>StandardOutPath</key><string>$log</string><key>StandardErrorPath</key><string>$log</string>
END
say "done"

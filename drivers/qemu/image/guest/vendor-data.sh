#!/bin/sh
# Brings the agent from the machine's second disk into the machine and starts it
# as a service; cloud-init runs it once, at the first boot. Each step says one
# line on the console, for a runner that waits in vain.
set -eu
umask 022

say() {
	printf 'runner-boot: %s\n' "$*"
	{ printf '\r\nrunner-boot: %s\r\n' "$*" >/dev/console; } 2>/dev/null || true
}

now="1/2 copy agent"
# shellcheck disable=SC2317 # called by the trap
finish() {
	code=$?
	[ "$code" -eq 0 ] || say "step $now: failed: exit code $code, see /var/log/cloud-init-output.log"
}
trap finish EXIT

say "step $now"
dir=/usr/local/lib/runner-agent
seed=$(mktemp -d /run/runner-seed.XXXXXX)
mount -o ro /dev/disk/by-label/cidata "$seed"
mkdir -p "$dir"
install -m 0755 "$seed/runner-agent" "$dir/runner-agent"
install -m 0644 "$seed/runner-guest.service" /etc/systemd/system/runner-guest.service
umount "$seed"
rmdir "$seed"
if command -v restorecon >/dev/null 2>&1; then
	restorecon -R "$dir" || true
fi

now="2/2 start agent"
say "step $now"
modprobe virtio_console 2>/dev/null || true
systemctl daemon-reload
systemctl start runner-guest.service
say "done"

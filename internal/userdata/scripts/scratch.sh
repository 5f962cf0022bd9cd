#!/bin/sh
# Makes the largest disk that ends with this machine scratch space, at every
# boot: /mnt/ephemeral, with /tmp and /harness on it.
# /etc/runner-agent/scratch has the patterns of the paths such disks show under.
set -eu
largest="" most=0
read -r patterns </etc/runner-agent/scratch
for path in $patterns; do
	[ -e "$path" ] || continue
	case $path in *-part[0-9]*) continue ;; esac
	size=$(blockdev --getsize64 "$path")
	if [ "$size" -gt "$most" ]; then
		largest=$(readlink -f "$path") most=$size
	fi
done
if [ -z "$largest" ]; then
	echo "this machine has no disk that ends with it" >&2
	exit 1
fi
if ! mountpoint -q /mnt/ephemeral; then
	code=0
	blkid -p "$largest" >/dev/null 2>&1 || code=$?
	if [ "$code" -eq 2 ]; then
		mkfs.ext4 -q -L runner-scratch "$largest" </dev/null
	elif [ "$(blkid -p -o value -s LABEL "$largest")" != runner-scratch ]; then
		echo "$largest holds something else and is left alone" >&2
		exit 1
	fi
	mkdir -p /mnt/ephemeral
	mount -o noatime,discard "$largest" /mnt/ephemeral
fi
mkdir -p /mnt/ephemeral/harness /mnt/ephemeral/tmp /harness
chmod 1777 /mnt/ephemeral/tmp
mountpoint -q /harness || mount --bind /mnt/ephemeral/harness /harness
if [ "$(stat -c %d:%i /tmp)" != "$(stat -c %d:%i /mnt/ephemeral/tmp)" ]; then
	# What is in /tmp already belongs to running programs.
	cp -a /tmp/. /mnt/ephemeral/tmp/
	mount --bind /mnt/ephemeral/tmp /tmp
fi

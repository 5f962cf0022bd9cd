#!/bin/sh
# Mounts the disks that outlive this machine, at every boot, before the agent
# starts. A disk is formatted if nothing at all is on it, and never otherwise.
#
# /etc/runner-agent/disks has one line a disk: label, folder, and the paths the
# disk may show under, best first; /etc/runner-agent/disks.sole may have a
# pattern of paths, for a machine with one such disk that shows under none.
set -eu
list=/etc/runner-agent/disks
sole=/etc/runner-agent/disks.sole
rm -f /run/runner-disks.reason

fail() {
	printf '%s\n' "$*" | tee /run/runner-disks.reason >&2
	exit 1
}

# root_disk prints the device the root file system is on, without partition.
root_disk() {
	source=$(findmnt -n -o SOURCE / 2>/dev/null || true)
	parent=$(lsblk -n -o PKNAME "$source" 2>/dev/null | head -n 1 || true)
	if [ -n "$parent" ]; then
		printf '/dev/%s\n' "$parent"
	else
		readlink -f "${source:-/}"
	fi
}

# only prints the only disk of the pattern that is not the root's.
only() {
	[ -r "$sole" ] || return 1
	[ "$(grep -c . "$list")" -eq 1 ] || return 1
	root=$(root_disk) found=""
	read -r pattern <"$sole"
	for path in $pattern; do
		[ -e "$path" ] || continue
		case $path in *-part[0-9]*) continue ;; esac
		real=$(readlink -f "$path")
		case $real in "$root" | "$found") continue ;; esac
		[ -z "$found" ] || return 1
		found=$real
	done
	[ -n "$found" ] || return 1
	printf '%s\n' "$found"
}

# find_disk LABEL PATHS… prints the disk's device once it is there.
find_disk() {
	label=$1
	shift
	for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		for path in "$@"; do
			if [ -e "$path" ]; then
				readlink -f "$path"
				return 0
			fi
		done
		if device=$(blkid -L "$label" 2>/dev/null) || device=$(only); then
			printf '%s\n' "$device"
			return 0
		fi
		[ "$second" -eq 20 ] || sleep 1
	done
	return 1
}

# empty DEVICE says whether nothing is on it: no file system, no partition, no
# other mark, and not a byte at its beginning.
empty() {
	code=0
	blkid -p "$1" >/dev/null 2>&1 || code=$?
	case $code in
	0) return 1 ;;
	2) [ "$(head -c 1048576 "$1" | tr -d '\000' | head -c 1 | wc -c)" -eq 0 ] ;;
	*) fail "blkid cannot tell what is on $1 (exit code $code); it is left alone" ;;
	esac
}

while read -r label folder paths; do
	[ -n "$label" ] || continue
	if mountpoint -q "$folder"; then
		continue
	fi
	# shellcheck disable=SC2086 # one word a path
	device=$(find_disk "$label" $paths) || fail "disk $label for $folder did not appear as any of: $paths"
	if empty "$device"; then
		mkfs.ext4 -q -L "$label" "$device" </dev/null || fail "mkfs.ext4 of $device: exit code $?"
	fi
	mkdir -p "$folder"
	if [ "$(blkid -p -o value -s LABEL "$device" 2>/dev/null || true)" = "$label" ]; then
		mount -L "$label" "$folder" 2>/dev/null || mount "$device" "$folder" || fail "mount of $device at $folder: exit code $?"
	else
		# Somebody else's file system: taken as it is, never renamed.
		mount "$device" "$folder" || fail "mount of $device at $folder: exit code $?; it holds no file system this machine knows, and is left alone"
	fi
done <"$list"

#!/usr/bin/env bash
# postgres.sh start FOLDER: starts a Postgres server of its own in FOLDER, on a
# socket there, and prints its DSN. postgres.sh stop FOLDER ends it.
. "$(dirname "$0")/lib.sh"
set -euo pipefail
what=$1 dir=$2
export PATH="$PATH:$(pg_bin)"
as=()
if [ "$(id -u)" -eq 0 ]; then
	# Postgres refuses to run as root.
	id postgres >/dev/null 2>&1 || die "the user postgres is missing: install the package postgresql"
	as=(runuser -u postgres --)
fi
case "$what" in
	start)
		mkdir -p "$dir"
		[ "$(id -u)" -ne 0 ] || chown postgres "$dir"
		"${as[@]}" initdb -D "$dir/data" -A trust -U runner --no-sync -E UTF8 --locale=C >"$dir.log" 2>&1 || { cat "$dir.log" >&2; exit 1; }
		# A test database may forget: no fsync.
		"${as[@]}" pg_ctl -D "$dir/data" -w -t 60 -l "$dir/data/server.log" \
			-o "-c listen_addresses='' -c unix_socket_directories=$dir -c fsync=off -c full_page_writes=off -c max_connections=300" start >>"$dir.log" 2>&1 || { cat "$dir.log" >&2; exit 1; }
		printf 'postgres:///postgres?host=%s&user=runner&sslmode=disable\n' "$dir"
		;;
	stop)
		"${as[@]}" pg_ctl -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
		rm -rf "$dir" "$dir.log"
		;;
esac

#!/usr/bin/env bash
# postgres.sh start FOLDER: starts a Postgres server of its own in FOLDER, on a
# socket there, and prints its DSN. It forgets what it was told when the host
# stops, which is for tests. postgres.sh durable FOLDER starts one that does
# not, on a port of 127.0.0.1, for measuring. postgres.sh stop FOLDER ends it.
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
# serve OPTIONS… starts the server of an initialised folder.
serve() {
	"${as[@]}" pg_ctl -D "$dir/data" -w -t 60 -l "$dir/data/server.log" \
		-o "-c unix_socket_directories=$dir -c max_connections=300 $*" start >>"$dir.log" 2>&1
}
case "$what" in
	start | durable)
		mkdir -p "$dir"
		[ "$(id -u)" -ne 0 ] || chown postgres "$dir"
		"${as[@]}" initdb -D "$dir/data" -A trust -U runner --no-sync -E UTF8 --locale=C >"$dir.log" 2>&1 || { cat "$dir.log" >&2; exit 1; }
		if [ "$what" = start ]; then
			serve -c "listen_addresses=''" -c fsync=off -c full_page_writes=off || { cat "$dir.log" >&2; exit 1; }
			printf 'postgres:///postgres?host=%s&user=runner&sslmode=disable\n' "$dir"
			exit
		fi
		for try in {1..10}; do
			port=$((20000 + RANDOM % 10000)) # another program may have it
			if serve -p "$port" -c listen_addresses=127.0.0.1 -c fsync=on; then
				printf 'postgres://runner@127.0.0.1:%d/postgres?sslmode=disable\n' "$port"
				exit
			fi
			[ "$try" -lt 10 ] || { cat "$dir.log" >&2; exit 1; }
		done
		;;
	stop)
		"${as[@]}" pg_ctl -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
		rm -rf "$dir" "$dir.log"
		;;
esac

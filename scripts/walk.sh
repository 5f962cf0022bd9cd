#!/usr/bin/env bash
# The README's walk, taken from the README so that the two cannot differ.
# "walk.sh print [SECONDS]" shows the commands, "walk.sh run" runs them; with
# WALK_URL, WALK_DATA and WALK_BIN against another runner than that of make run.
. "$(dirname "$0")/lib.sh"
set -euo pipefail

# commands prints the commands, one a line, a blank line between blocks.
commands() {
	awk '
		/^<!-- walk -->/        { on = 1 }
		/^<!-- end of walk -->/ { on = 0 }
		on && /^```sh$/         { code = 1; next }
		on && /^```/            { if (code) print ""; code = 0; next } # what they answer stands in other blocks
		on && code              { print }
	' README.md | sed \
		-e "s#localhost:3000#${WALK_URL:-localhost:3000}#g" \
		-e "s#--data-dir .run#--data-dir ${WALK_DATA:-.run}#g" \
		-e "s#bin/drone-runner-aws#${WALK_BIN:-bin/drone-runner-aws}#g"
}

case "${1:-print}" in
	print)
		say
		say "Ready${2:+ after $2 s}: the machines are warm. Now, in another terminal in this folder:"
		say
		commands | sed 's/^./    &/'
		;;
	run)
		while IFS= read -r line; do
			[ -n "$line" ] || { say; continue; }
			printf '$ %s\n' "$line"
			eval "$line" </dev/null
			say
		done < <(commands)
		;;
	*) die "walk.sh print, or walk.sh run" ;;
esac

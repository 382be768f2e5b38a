#!/usr/bin/env bash
# `make test`: everything, on a machine that may have nothing yet. Says how long
# each part took, repeats what failed, and counts in the last line. Ends with 1
# when anything failed.
#
#   test/run.sh [PART...]     parts: check unit vmtest e2e; all without arguments
set -uo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
export GO CGO_ENABLED=0
parts=${*:-check unit vmtest e2e}
work=$(mktemp -d)
counts=$work/counts failures=$work/failures
trap 'rm -rf "$work"' EXIT
touch "$failures"
status=0
times=()

# What a part has to say when it fails is told again at the end: by tally, or
# here by its last lines.
part() {
	local name=$1 start=$SECONDS rc before
	shift
	printf '\n### %s\n' "$name"
	before=$(wc -c <"$failures")
	"$@" 2>&1 | tee "$work/part"
	rc=${PIPESTATUS[0]}
	if [ "$rc" != 0 ]; then
		status=1
		if [ "$(wc -c <"$failures")" = "$before" ]; then
			case $rc in 124 | 137) echo "FAILED $name: it did not end within its limit" ;; *) echo "FAILED $name: exit $rc" ;; esac
			tail -n 200 "$work/part" | sed 's/^/    /'
		fi >>"$failures"
	fi
	times+=("$name $((SECONDS - start)) s")
}
# Whatever hangs ends in time for the rest: the limits are several times what a
# part takes. At a terminal Ctrl-C ends what runs.
within() { timeout $([ ! -t 0 ] || echo --foreground) --kill-after=1m "$@"; }
tests() { # limit of the part, go test arguments; no test is run again
	within "$1" "$GO" test -json "${@:2}" 2>&1 | .cache/tools/tally -add "$counts" -failures "$failures"
}
# A part that is no Go test counts as one: limit, command.
single() {
	local result=pass rc=0
	within "$@" || { result=fail rc=$?; }
	printf '{"Action":"%s","Package":"%s","Test":"%s"}\n' "$result" "$(basename "$2")" "${*:2}" |
		.cache/tools/tally -add "$counts" >/dev/null
	return $rc
}

mkdir -p .cache/tools
"$GO" build -o .cache/tools/tally ./test/tally || exit 1
part setup within 15m bash test/setup.sh test
part build within 15m make --no-print-directory build
for p in $parts; do
	case $p in
	check) part check single 20m bash test/check.sh --no-unit ;;
	unit) part "unit and root tests" tests 30m -timeout 20m ./internal/... ./api/... ./cmd/... ./test/mkimage/... ./test/tally/... ;;
	# Another kernel, cgroup v2: two to three minutes of emulation.
	vmtest) part "vmtest" single 20m "$GO" run ./test/vmtest ;;
	e2e)
		# Outside the tests' network namespace: they come from Debian's mirror.
		part "images" within 20m bash test/images.sh example
		# The parallel tests mostly wait; four at once keep two cores busy.
		part "end to end" tests 27m -timeout 25m -count=1 -parallel 4 ./test/e2e/...
		COUNTS=$counts FAILURES=$failures LIMIT=20m part "the same in virtual machines, a part" within 25m bash test/e2e-vm.sh short
		part "demo" single 10m bash test/demo.sh
		;;
	*) echo "no part $p: check unit vmtest e2e" >&2; exit 2 ;;
	esac
done

printf '\n### times\n'
printf '%s\n' "${times[@]}"
if [ -s "$failures" ]; then
	printf '\n### failures\n'
	cat "$failures"
fi
sum=$(sed 's/[^0-9,]//g' "$counts" 2>/dev/null)
IFS=, read -r passed failed skipped <<<"${sum:-0,1,0}"
[ "$status" = 0 ] && [ "$failed" = 0 ] || { status=1; [ "$failed" != 0 ] || failed=1; }
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
exit $status

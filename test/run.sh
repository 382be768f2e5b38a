#!/usr/bin/env bash
# `make test`: everything, on a machine that may have nothing yet. Says how long
# each part took; the last line counts. Ends with 1 when anything failed.
#
#   test/run.sh [PART...]     parts: check unit vmtest e2e; all without arguments
set -uo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
export GO CGO_ENABLED=0
parts=${*:-check unit vmtest e2e}
counts=$(mktemp -u)
trap 'rm -f "$counts"' EXIT
status=0
times=()

part() {
	local name=$1 start=$SECONDS
	shift
	printf '\n### %s\n' "$name"
	"$@" || status=1
	times+=("$name $((SECONDS - start)) s")
}
tests() { # go test arguments
	"$GO" test -json "$@" 2>&1 | .cache/tools/tally -add "$counts"
}
# A part that is no Go test counts as one.
single() {
	local key=Passed rc=0
	"$@" || { key=Failed; rc=1; }
	printf '{"Action":"%s","Package":"%s","Test":"%s"}\n' "$([ $rc = 0 ] && echo pass || echo fail)" "$(basename "$1")" "$*" |
		.cache/tools/tally -add "$counts" >/dev/null
	return $rc
}

mkdir -p .cache/tools
"$GO" build -o .cache/tools/tally ./test/tally || exit 1
part setup bash test/setup.sh test
part build make --no-print-directory build
for p in $parts; do
	case $p in
	check) part check single bash test/check.sh --no-unit ;;
	unit) part "unit and root tests" tests -timeout 15m ./internal/... ./api/... ./cmd/... ./test/mkimage/... ./test/tally/... ;;
	# Another kernel, cgroup v2: two to three minutes of emulation.
	vmtest) part "vmtest" single "$GO" run ./test/vmtest ;;
	e2e)
		# Outside the tests' network namespace: they come from Debian's mirror.
		part "images" bash test/images.sh example
		# The parallel tests mostly wait; four at once keep two cores busy.
		part "end to end" tests -timeout 30m -count=1 -parallel 4 ./test/e2e/...
		COUNTS=$counts part "the same in virtual machines, a part" bash test/e2e-vm.sh short
		part "demo" single bash test/demo.sh
		;;
	*) echo "no part $p: check unit vmtest e2e" >&2; exit 2 ;;
	esac
done

printf '\n### times\n'
printf '%s\n' "${times[@]}"
sum=$(sed 's/[^0-9,]//g' "$counts" 2>/dev/null)
IFS=, read -r passed failed skipped <<<"${sum:-0,1,0}"
[ "$status" = 0 ] && [ "$failed" = 0 ] || { status=1; [ "$failed" != 0 ] || failed=1; }
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
exit $status

#!/usr/bin/env bash
# What `make check` does: formatting, vet, lint, the architecture's tables, unit
# tests, generated files. Also the first part of `make test`.
#
#   test/check.sh [--no-unit]
set -uo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
export CGO_ENABLED=0
fail=0
say() { printf '== %s\n' "$*"; }

say "gofmt"
unformatted=$("$("$GO" env GOROOT)/bin/gofmt" -l api cmd examples internal test)
[ -z "$unformatted" ] || { printf 'not formatted (make fmt):\n%s\n' "$unformatted"; fail=1; }

say "go vet"
"$GO" vet ./... || fail=1

say "lint"
GO="$GO" bash test/lint.sh || fail=1

say "generated files"
if git rev-parse --git-dir >/dev/null 2>&1 && git grep -q '^//go:generate ' -- '*.go'; then
	before=$(git status --porcelain | sha256sum)
	"$GO" generate ./... || fail=1
	[ "$before" = "$(git status --porcelain | sha256sum)" ] || { echo "go generate changed files: commit them"; git status --short; fail=1; }
fi

if [ "${1:-}" != --no-unit ]; then
	say "architecture and unit tests"
	"$GO" test ./internal/... ./api/... ./cmd/... || fail=1
fi
exit $fail

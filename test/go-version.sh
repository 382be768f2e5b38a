#!/bin/sh
# Ends with a remedy when Go is missing or older than go.mod asks for.
# GO names the command to look at.
GO=${GO:-go}
want=$(sed -n 's/^go \([0-9.]*\).*/\1/p' go.mod)
hint="Get Go $want or newer from https://go.dev/dl/ (unpack it to /usr/local/go and put /usr/local/go/bin on PATH),
or, where some Go 1.21 or newer is installed, let it fetch the right one: GOTOOLCHAIN=auto make ...
Debian 12's own package is 1.19 and too old."
if ! command -v "$GO" >/dev/null 2>&1; then
	printf 'wharf needs Go %s; there is no "%s" on PATH.\n%s\n' "$want" "$GO" "$hint" >&2
	exit 1
fi
have=$("$GO" env GOVERSION 2>/dev/null | sed 's/^go//; s/[^0-9.].*//')
if [ -z "$have" ]; then
	printf 'wharf needs Go %s; "%s env GOVERSION" answered nothing here:\n' "$want" "$GO" >&2
	"$GO" env GOVERSION >&2
	printf '%s\n' "$hint" >&2
	exit 1
fi
oldest=$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)
if [ "$oldest" != "$want" ]; then
	printf 'wharf needs Go %s; "%s" is %s.\n%s\n' "$want" "$GO" "$have" "$hint" >&2
	exit 1
fi

#!/usr/bin/env bash
# Linters, pinned, built once as Go module tools into .cache/tools (half a
# minute), with the reason for each choice beside it. Sizes, package comments,
# names and imports are internal/archtest's.
set -uo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
export CGO_ENABLED=0
STATICCHECK=honnef.co/go/tools/cmd/staticcheck@v0.8.2
ERRCHECK=github.com/kisielk/errcheck@v1.30.0
tools=$PWD/.cache/tools
fail=0

tool() { # name, module@version: built again when the pin or Go changes
	local name=$1 pin="$2 $("$GO" env GOVERSION)"
	[ -x "$tools/$name" ] && [ "$(cat "$tools/$name.pin" 2>/dev/null)" = "$pin" ] && return
	GOBIN=$tools "$GO" install "$2" >"$tools/$name.log" 2>&1 || {
		cat "$tools/$name.log"
		echo "cannot build $2: is the Go module proxy reachable?"
		exit 1
	}
	echo "$pin" >"$tools/$name.pin"
}
mkdir -p "$tools"
tool staticcheck "$STATICCHECK"
tool errcheck "$ERRCHECK"

checks=(
	'SA*'     # bugs: misuse of the standard library, wrong concurrency, dead conditions
	'S1*'     # simpler ways to write the same: less to read
	'U1000'   # what nobody uses is deleted
	'ST1008'  # the error is the last result
	'ST1012'  # error variables are called errX, so that errors.Is reads well
	'ST1016'  # one receiver name per type
	'ST1017'  # no yoda conditions
	'ST1019'  # a package imported twice is two names for one thing
	'ST1020'  # a doc comment begins with the name it documents
	'QF1001' 'QF1012' # clearer boolean logic; Fprintf instead of a string in between
	# The API that Docker's clients speak has deprecated fields that old
	# clients still send and read: serving them is the point.
	'-SA1019'
)
"$tools/staticcheck" -checks "$(IFS=,; echo "${checks[*]}")" ./... || fail=1

# errcheck: an error is handled or visibly dropped (_ =). Excluded is what can
# only fail when there is nothing left to do about it.
exclude=$(mktemp)
trap 'rm -f "$exclude"' EXIT
cat >"$exclude" <<'LIST'
// closing what was only read, or after an error that is returned already
(*os.File).Close
(io.Closer).Close
(io.ReadCloser).Close
(io.ReadWriteCloser).Close
(net.Conn).Close
(*net.UnixConn).Close
(net.Listener).Close
golang.org/x/sys/unix.Close
(wharf/internal/model.Stream).Close
(wharf/internal/driver.Sandbox).Close
(*wharf/internal/driver/held.sandbox).Close
(*wharf/internal/driver/held.Conn).Close
(wharf/internal/driver.Files).Close
(*github.com/klauspost/compress/gzip.Reader).Close
(*compress/gzip.Reader).Close
(*net/http.Response.Body).Close
(*os.Root).Close
// cleaning up on the way out of an error
os.Remove
os.RemoveAll
golang.org/x/sys/unix.Unlink
golang.org/x/sys/unix.Unmount
// printing to a person's terminal or to a client that may be gone
fmt.Fprint
fmt.Fprintf
fmt.Fprintln
LIST
"$tools/errcheck" -ignoretests -exclude "$exclude" ./... || fail=1
exit $fail

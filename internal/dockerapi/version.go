package dockerapi

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// version is an API version's minor number; the major one is always 1.
type version int

// The versions that are spoken. The newest is that of the moby/moby/api
// module in go.mod.
const (
	oldest version = 24
	newest version = 56
)

// oldImages is the version that containers/image (skopeo, podman) had built
// in until 2023 for its docker-daemon: transport. Reading and loading images
// has not changed from it to the oldest version, so it is taken for that.
const oldImages version = 22

// MinAPIVersion and MaxAPIVersion are the versions that are spoken, as
// GET /version shows them.
var (
	MinAPIVersion = oldest.String()
	MaxAPIVersion = newest.String()
)

func (v version) String() string { return "1." + strconv.Itoa(int(v)) }

// versionError says that a request's version is not spoken. Clients show the
// text, and some look for "is too new".
type versionError struct {
	asked string
	limit version
	newer bool
	plain bool // so old a client that it does not know JSON errors
}

func (e *versionError) Error() string {
	if e.newer {
		return fmt.Sprintf("client version %s is too new. Maximum supported API version is %s", e.asked, e.limit)
	}
	return fmt.Sprintf("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", e.asked, e.limit)
}

func (e *versionError) status() int { return http.StatusBadRequest }

// splitVersion takes the optional /vX.YY from the front of a path. Without
// it the newest version is meant.
func splitVersion(path string) (rest string, v version, err error) {
	if !strings.HasPrefix(path, "/v") {
		return path, newest, nil
	}
	word, rest, _ := strings.Cut(path[2:], "/")
	if word == "" || strings.Trim(word, "0123456789.") != "" {
		return path, newest, nil // "/volumes", "/version"
	}
	majorText, minorText, _ := strings.Cut(word, ".")
	major, err1 := strconv.Atoi(majorText)
	minor, err2 := strconv.Atoi(minorText)
	switch {
	case err1 != nil || (err2 != nil && minorText != ""):
		return "", 0, invalid("API version %q: want a form like v%s", word, newest)
	case major > 1 || (major == 1 && version(minor) > newest):
		return "", 0, &versionError{asked: word, limit: newest, newer: true}
	case major == 1 && version(minor) >= oldImages && version(minor) < oldest && strings.HasPrefix(rest, "images/"):
		return "/" + rest, oldest, nil
	case major < 1 || version(minor) < oldest:
		return "", 0, &versionError{asked: word, limit: oldest, plain: true}
	}
	return "/" + rest, version(minor), nil
}

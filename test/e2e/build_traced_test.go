package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/protobuf/proto"
)

// traced posts a build with version=2, as docker 18.09 to 20.10 do with
// DOCKER_BUILDKIT=1, and reads BuildKit's messages.
func (s *scene) traced(query url.Values, body io.Reader) (id, logs string, err error) {
	s.Helper()
	query.Set("version", "2")
	c := s.d.http()
	c.Timeout = commandLimit
	resp, err := c.Post("http://wharf/v1.41/build?"+query.Encode(), "application/x-tar", body)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var m struct {
			ID             string
			Aux            json.RawMessage
			Message, Error string
			Stream         string
		}
		switch err := dec.Decode(&m); {
		case errors.Is(err, io.EOF):
			return id, logs, nil
		case err != nil:
			return id, logs, err
		case m.Message+m.Error != "":
			return id, logs, errors.New(m.Message + m.Error)
		case m.ID == "moby.image.id":
			var a struct{ ID string }
			if err := json.Unmarshal(m.Aux, &a); err != nil {
				return id, logs, err
			}
			id = a.ID
		case m.ID == "moby.buildkit.trace":
			var b []byte
			var st controlapi.StatusResponse
			if err := errors.Join(json.Unmarshal(m.Aux, &b), proto.Unmarshal(b, &st)); err != nil {
				return id, logs, err
			}
			for _, l := range st.Logs {
				logs += string(l.Msg)
			}
		default:
			logs += m.Stream
		}
	}
}

// session attaches what a client has.
func (s *scene) session(all ...session.Attachable) string {
	s.Helper()
	se, err := session.NewSession(context.Background(), "")
	if err != nil {
		s.Fatal(err)
	}
	for _, a := range all {
		se.Allow(a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.Cleanup(func() { cancel(); _ = se.Close() })
	go func() {
		_ = se.Run(ctx, func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			c, err := s.d.sdk()
			if err != nil {
				return nil, err
			}
			return c.DialHijack(ctx, "/session", proto, meta)
		})
	}()
	return se.ID()
}

// tarOf makes a context.
func tarOf(files map[string]string) *bytes.Buffer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))})
		_, _ = io.WriteString(w, text)
	}
	_ = w.Close()
	return &b
}

func TestBuildTraced(t *testing.T) {
	s := newScene(t)
	ref := s.image("t")
	id, logs, err := s.traced(url.Values{"t": {ref}}, tarOf(map[string]string{"Dockerfile": "FROM busybox\nCOPY . /x\nRUN cat /x/f\n", "f": s.label}))
	if err != nil {
		t.Fatal(err)
	}
	s.equal("id", id, s.inspect(ref, "{{.Id}}"))
	s.contains("log", logs, s.label)

	_, quiet, err := s.traced(url.Values{"t": {ref}, "q": {"1"}}, tarOf(map[string]string{"Dockerfile": "FROM busybox\n"}))
	if err != nil {
		t.Fatal(err)
	}
	s.equal("quiet", strings.TrimSpace(quiet), s.inspect(ref, "{{.Id}}"))
	for want, q := range map[string]url.Values{
		"session= is missing": {"remote": {"client-session"}},
		"buildid= is missing": {"remote": {"upload-request"}},
		"needs session=":      {"outputs": {`[{"Type":"local"}]`}},
		"exit code: 7":        {"q": {"1"}},
	} {
		if _, _, err := s.traced(q, tarOf(map[string]string{"Dockerfile": "FROM busybox\nRUN exit 7\n"})); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", q, err)
		}
	}
}

// The context comes by a request of its own.
func TestBuildTracedUpload(t *testing.T) {
	s := newScene(t)
	done := make(chan error, 1)
	go func() {
		_, _, err := s.traced(url.Values{"remote": {"upload-request"}, "buildid": {"upload-request:" + s.label}}, tarOf(map[string]string{"Dockerfile": "FROM busybox\nRUN echo " + s.label + "\n"}))
		done <- err
	}()
	_, logs, err := s.traced(url.Values{"remote": {"upload-request"}, "buildid": {s.label}}, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	s.contains("log", logs, s.label)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Files, secrets and results go by the client's session.
func TestBuildTracedSession(t *testing.T) {
	s := newScene(t)
	dir := buildContext(t, map[string]string{
		"Dockerfile": "# syntax=docker/dockerfile:1\nFROM busybox AS b\nCOPY f /f\nRUN --mount=type=secret,id=key cat /run/secrets/key /f | sha256sum > /out\nFROM scratch\nCOPY --from=b /out /\n",
		"f":          s.label, "key": "secret",
	})
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	store, err := secretsprovider.NewStore([]secretsprovider.Source{{ID: "key", FilePath: filepath.Join(dir, "key")}})
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	id := s.session(filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": fs, "dockerfile": fs}),
		secretsprovider.NewSecretProvider(store), filesync.NewFSSyncTarget(filesync.WithFSSyncDir(0, out)))
	if _, _, err := s.traced(url.Values{"remote": {"client-session"}, "session": {id}, "outputs": {`[{"Type":"local","Attrs":{}}]`}}, http.NoBody); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(out, "out"))
	if err != nil || len(b) < 64 {
		t.Errorf("%q %v", b, err)
	}
}

// Debian's docker 20.10, with BuildKit.
func TestBuildOldCLI(t *testing.T) {
	s := newScene(t)
	old, _ := filepath.Abs("../../.cache/peers/docker.io/usr/bin/docker")
	if _, err := os.Stat(old); err != nil {
		t.Skip("docker 20.10 is not there: bash test/setup.sh bench")
	}
	build := func(stdin io.Reader, args ...string) result {
		return s.d.command(commandLimit, stdin, "env", append([]string{"DOCKER_BUILDKIT=1", old, "build", "--progress", "plain"}, args...)...)
	}
	dir := buildContext(t, map[string]string{
		"Dockerfile": "FROM busybox\nCOPY f /f\nRUN --mount=type=secret,id=key wc -c /run/secrets/key /f\n", "f": s.label, "key": "secret",
	})
	ref := s.image("old")
	s.built(build(nil, "--secret", "id=key,src="+filepath.Join(dir, "key"), "-t", ref, dir))
	s.equal("file", s.ok("run", "--rm", ref, "cat", "/f"), s.label)
	s.equal("quiet", s.built(build(tarOf(map[string]string{"Dockerfile": "FROM busybox\nCOPY . /x\n"}), "-q", "-t", ref, "-")), s.inspect(ref, "{{.Id}}")+"\n")
	out := t.TempDir()
	s.built(build(strings.NewReader("FROM scratch\nCOPY --from=busybox /bin/busybox /b\n"), "-o", out, "-"))
	if _, err := os.Stat(filepath.Join(out, "b")); err != nil {
		t.Error(err)
	}
	if r := build(strings.NewReader("FROM busybox\nRUN exit 9\n"), "-"); r.Code == 0 || !strings.Contains(r.Stderr, "exit code: 9") {
		t.Errorf("%s", r)
	}
}

package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// remotes serves a repository, archives and a Dockerfile on loopback.
func remotes(t *testing.T, word string) string {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not there")
	}
	dir := buildContext(t, map[string]string{
		"Dockerfile":     "FROM busybox\nCOPY . /x\nRUN cat /x/f; ls -a /x\n",
		"f":              word + "-top\n",
		"sub/Dockerfile": "FROM busybox\nCOPY f /f\nRUN cat /f\n",
		"sub/f":          word + "-sub\n",
	})
	bare := filepath.Join(t.TempDir(), "repo.git")
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", dir},
		{"-C", dir, "add", "."},
		{"-C", dir, "-c", "user.name=e2e", "-c", "user.email=e2e@example.org", "commit", "-qm", "one"},
		{"-C", dir, "tag", "v1"},
		{"clone", "-q", "--bare", dir, bare},
		{"-C", bare, "update-server-info"},
	} {
		if out, err := exec.Command(git, args...).CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v %s", args, err, out)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/repo.git/", http.StripPrefix("/repo.git/", http.FileServer(http.Dir(bare))))
	mux.HandleFunc("/ctx.tar", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = tarOf(map[string]string{"Dockerfile": "FROM busybox\nCOPY . /x\nRUN cat /x/f; ls -a /x\n", "f": word + "-tar\n", ".dockerignore": "Dockerfile\n.dockerignore\n"}).WriteTo(w)
	})
	mux.HandleFunc("/Dockerfile", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("FROM busybox\nRUN echo " + word + "-file\n"))
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestBuildRemote(t *testing.T) {
	s := newScene(t)
	at := remotes(t, s.label)
	for path, want := range map[string]string{
		"/repo.git": "-top", "/repo.git#v1:sub": "-sub", "/ctx.tar": "-tar", "/Dockerfile": "-file",
	} {
		r := s.d.wharf("build", "--no-cache", "--progress", "plain", at+path)
		s.built(r)
		s.contains("wharf build "+path, r.Stderr, s.label+want)
		resp, err := s.d.http().Post("http://wharf/v1.44/build?nocache=1&remote="+strings.ReplaceAll(at+path, "#", "%23"), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		out := string(b)
		s.contains("POST /build "+path, out, s.label+want)
		if path == "/ctx.tar" && strings.Contains(out, "Dockerfile\\n") {
			t.Errorf(".dockerignore does not count: %s", out)
		}
	}
	if r := s.d.wharf("build", at+"/nonesuch"); r.Code == 0 || !strings.Contains(r.Stderr, "404") {
		t.Errorf("%s", r)
	}
}

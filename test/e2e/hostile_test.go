package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What an author of a Dockerfile or of a build context tries against the host,
// and where secrets must not be. docs/security.md names the classes.

// prey is a directory of the host that nothing may touch: in it a file and an
// empty directory.
func prey(t *testing.T) (dir string, check func()) {
	t.Helper()
	dir = t.TempDir()
	for d := dir; d != "/"; d = filepath.Dir(d) { // also for a mapped root to see
		_ = os.Chmod(d, 0o777)
		if filepath.Dir(d) == os.TempDir() {
			break
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("host's own"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o777); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(dir, "file")); string(b) != "host's own" {
			t.Errorf("the host's file is %q, %v", b, err)
		}
		if st, err := os.Stat(filepath.Join(dir, "file")); err != nil || st.Sys().(*syscall.Stat_t).Nlink != 1 {
			t.Errorf("the host's file has links: %v", err)
		}
		if names, _ := os.ReadDir(dir); len(names) != 2 || names[0].Name() != "empty" || names[1].Name() != "file" {
			t.Errorf("in the host's directory: %v", names)
		}
	}
}

// wicked is a tar that tries to write to dir/file and dir/new.
func wicked(t *testing.T, dir string, more ...tar.Header) *bytes.Buffer {
	t.Helper()
	b := &bytes.Buffer{}
	w := tar.NewWriter(b)
	for _, h := range append(more,
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: dir},
		tar.Header{Name: "l/new", Typeflag: tar.TypeReg},
		tar.Header{Name: "../../../../../../../../../.." + dir + "/new", Typeflag: tar.TypeReg},
		tar.Header{Name: dir + "/new", Typeflag: tar.TypeReg},
		tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: dir + "/file"},
		tar.Header{Name: "h", Typeflag: tar.TypeReg},
	) {
		text := h.PAXRecords["text"]
		h.PAXRecords = nil
		if h.Typeflag == tar.TypeReg && text == "" {
			text = "bad"
		}
		h.Mode, h.Size = 0o666, int64(len(text))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

func dockerfile(text string) tar.Header {
	return tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"text": text}}
}

// TestHostileContext: the archive of a build context, one that ADD unpacks,
// and links in a context, at both entrances.
func TestHostileContext(t *testing.T) {
	s := newScene(t)
	dir, check := prey(t)
	post := func(b *bytes.Buffer) string {
		resp, err := s.d.http().Post("http://wharf/v1.45/build?q=1", "application/x-tar", b)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		out := &bytes.Buffer{}
		_, _ = out.ReadFrom(resp.Body)
		return out.String()
	}
	_ = post(wicked(t, dir, dockerfile("FROM busybox\nCOPY . /c/\n")))
	check()
	// The Dockerfile and the list of what to ignore as links to the host's.
	for _, name := range []string{"Dockerfile", ".dockerignore"} {
		b := &bytes.Buffer{}
		w := tar.NewWriter(b)
		_ = w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: dir + "/file"})
		_ = w.Close()
		if out := post(b); strings.Contains(out, "host's own") {
			t.Errorf("%s as a link showed the host's file: %s", name, out)
		}
	}
	add := buildContext(t, map[string]string{"Dockerfile": "FROM busybox\nADD wicked.tar /x/\n", "wicked.tar": wicked(t, dir).String()})
	_ = s.classic(nil, "-q", add)
	check()
	_ = s.d.command(commandLimit, nil, tools.wharf, "build", "-q", add)
	check()
	// A link of the context, and one in the image, as source and destination.
	links := buildContext(t, map[string]string{"f": "bad", "Dockerfile": "FROM busybox\nRUN ln -s " + dir + " /l\nCOPY f /l/new\nADD f /l/file\nCOPY link* /seen\nRUN ! grep -r host /seen\n"})
	if err := os.Symlink(dir+"/file", filepath.Join(links, "link")); err != nil {
		t.Fatal(err)
	}
	_ = s.classic(nil, "-q", links)
	check()
	_ = s.d.command(commandLimit, nil, tools.wharf, "build", "-q", links)
	check()
}

// TestHostileSteps: what a RUN step does to the places of its mounts
// (CVE-2024-23651, -23652), and what it may ask for (CVE-2024-23653).
func TestHostileSteps(t *testing.T) {
	s := newScene(t)
	dir, check := prey(t)
	id := s.label
	for name, text := range map[string]string{
		// The cache has a link, and the next step mounts a part of it.
		"cache": "FROM busybox\nRUN --mount=type=cache,id=" + id + ",target=/c ln -sfn " + dir + " /c/l\n" +
			"RUN --mount=type=cache,id=" + id + ",source=l,target=/h ls /h > /seen; echo bad > /h/file; touch /h/new; rm -rf /h/empty; true\n" +
			"RUN ! grep -q file /seen\n",
		"climbing cache": "FROM busybox\nRUN --mount=type=cache,id=" + id + ",source=../../../../../../../../.." + dir + ",target=/h touch /h/new\n",
		// The place of a mount becomes a link before the step ends.
		"stub": "FROM busybox\nRUN --mount=type=tmpfs,target=/d/empty mv /d /e && ln -s " + dir + " /d\n",
		"stub of a file": "FROM busybox\nRUN --mount=type=secret,id=none,target=/d/file --mount=type=bind,source=.,target=/d/empty " +
			"mv /d /e && ln -s " + dir + " /d\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := s.wharfBuild(text, "-q", "--no-cache")
			if r.Code != 0 {
				t.Logf("%s", cut(r.Stderr))
			}
			check()
		})
	}
	r := s.wharfBuild("FROM busybox\nRUN --security=insecure cat /proc/self/status\n", "--no-cache")
	if r.Code == 0 || !strings.Contains(r.Stderr, "security.insecure") {
		t.Errorf("an insecure step without being allowed: %s", r)
	}
	r = s.wharfBuild("FROM busybox\nRUN --network=host true\n", "--no-cache")
	if r.Code == 0 || !strings.Contains(r.Stderr, "network.host") {
		t.Errorf("a step in the host's network without being allowed: %s", r)
	}
}

// TestSecretsStay: the daemon logs everything it does (debug), and knows
// passwords, variables and a build's secrets: none of them is in the log or in
// a file that another user of the host could read.
func TestSecretsStay(t *testing.T) {
	s := ownDaemon(t)
	word := func(what string) string { return "sEcReT-" + what + "-4711" }
	id := s.running("--init", "-e", "PW="+word("variable"), "--label", "x="+word("label"), "busybox", "sh", "-c", "sleep 1000", word("argument"))
	s.ok("exec", "-e", "PW="+word("exec"), id, "true")
	s.wharf("run", "-d", "--env-file", "/dev/null", "-e", "PW="+word("wharf"), "--name", s.name("w"), "busybox", "sleep", "1000")
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(word("build")), 0o600); err != nil {
		t.Fatal(err)
	}
	r := s.wharfBuild("FROM busybox\nRUN --mount=type=secret,id=s grep -q sEcReT /run/secrets/s\n", "--secret", "id=s,src="+file, "-t", s.image("s"))
	s.built(r)
	auth := `eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InNFY1JlVC1hdXRoLTQ3MTEifQ==` // {"username":"u","password":"sEcReT-auth-4711"}
	for _, path := range []string{"/images/create?fromImage=127.0.0.1:1/x&tag=1", "/images/127.0.0.1:1/x/push?tag=1", "/auth"} {
		body := strings.NewReader(`{"username":"u","password":"` + word("login") + `","serveraddress":"127.0.0.1:1"}`)
		req, _ := http.NewRequest(http.MethodPost, "http://wharf/v1.45"+path, body)
		req.Header.Set("X-Registry-Auth", auth)
		req.Header.Set("Content-Type", "application/json")
		if resp, err := s.d.http().Do(req); err == nil {
			_, _ = (&bytes.Buffer{}).ReadFrom(resp.Body)
			resp.Body.Close()
		}
	}
	log := s.d.log(100 << 20)
	for _, secret := range []string{"sEcReT", auth[:40]} {
		for _, line := range strings.Split(log, "\n") {
			if strings.Contains(line, secret) {
				t.Errorf("in the daemon's log: %s", cut(line))
			}
		}
	}
	for _, dir := range []string{s.d.data(), s.d.execDir()} {
		if err := readable(dir, 0); err != nil {
			t.Error(err)
		}
	}
}

// readable reports files below dir that hold a secret and that others may
// read, if they may enter the directories above. What is in a layer, a volume
// or a container's root belongs to the container.
func readable(dir string, depth int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		fi, err := e.Info()
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			continue
		}
		switch {
		case e.IsDir() && fi.Mode().Perm()&0o001 != 0:
			if err := readable(path, depth+1); err != nil {
				return err
			}
		case e.Type().IsRegular() && fi.Mode().Perm()&0o004 != 0 && fi.Size() < 64<<20:
			if b, _ := os.ReadFile(path); bytes.Contains(b, []byte("sEcReT")) {
				return fmt.Errorf("%s (mode %o) can be read by everybody and holds a secret", path, fi.Mode().Perm())
			}
		}
	}
	return nil
}

package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// subjectOf is the digest that a manifest names as its subject, or "".
func subjectOf(b []byte) digest.Digest {
	var m manifestFields
	if json.Unmarshal(b, &m) != nil || m.Subject == nil {
		return ""
	}
	return m.Subject.Digest
}

// Collect collects a directory: by the process that serves it if there is one
// (its writers wait meanwhile), otherwise here.
func Collect(ctx context.Context, root string, o GCOptions) (GCReport, error) {
	if _, err := os.Stat(root); err != nil {
		return GCReport{}, err
	}
	lock, err := lockRoot(root)
	var busy *inUse
	if errors.As(err, &busy) {
		return askToCollect(ctx, root, o)
	}
	if err != nil {
		return GCReport{}, err
	}
	defer lock.Close() //nolint:errcheck // only the lock
	return collect(ctx, root, o)
}

// socketPath goes through a descriptor of the directory: a socket's path has
// at most 107 bytes.
func socketPath(root string) (string, func(), error) {
	d, err := os.Open(root)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/control.sock", d.Fd()), func() { _ = d.Close() }, nil
}

// control opens the socket that takes orders of this user.
func (s *Server) control() (net.Listener, error) {
	p, done, err := socketPath(s.opts.Root)
	if err != nil {
		return nil, err
	}
	defer done()
	_ = os.Remove(filepath.Join(s.opts.Root, "control.sock")) // of a process that was killed; we hold the lock
	ln, err := net.Listen("unix", p)
	if err != nil {
		return nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /gc", s.gcOrder)
	s.ctl = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return ln, os.Chmod(filepath.Join(s.opts.Root, "control.sock"), 0o600)
}

func (s *Server) gcOrder(w http.ResponseWriter, r *http.Request) {
	var o GCOptions
	if err := json.NewDecoder(io.LimitReader(r.Body, 4096)).Decode(&o); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.writes.Lock()
	rep, err := collect(r.Context(), s.opts.Root, o)
	s.writes.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(rep)
}

func askToCollect(ctx context.Context, root string, o GCOptions) (rep GCReport, err error) {
	p, done, err := socketPath(root)
	if err != nil {
		return rep, err
	}
	defer done()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", p)
	}}}
	b, err := json.Marshal(o)
	if err != nil {
		return rep, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://registry/gc", bytes.NewReader(b))
	if err != nil {
		return rep, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return rep, fmt.Errorf("ask the registry that serves %s to collect: %w", root, err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return rep, errors.New(strings.TrimSpace(string(text)))
	}
	return rep, json.NewDecoder(resp.Body).Decode(&rep)
}

package dockerapi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Options are the rooms behind the door. A nil room answers 501.
type Options struct {
	Containers Containers
	Images     Images
	Networks   Networks
	Volumes    Volumes
	VolumeData VolumeData
	// ImageCopies serves /wharf/v1/copy. nil: not there.
	ImageCopies ImageCopies
	// ImageTrust serves /wharf/v1/trust. nil: not there.
	ImageTrust ImageTrust
	Builds     Builds
	Removed    Removed
	System     System
	Feed       Feed

	// NetworkLimits serves /wharf/v1/containers/NAME/network-rules.
	NetworkLimits NetworkLimits

	// Wharf serves the engine's own endpoints, below WharfPrefix. It sees
	// whole paths ("/wharf/v1/doctor") and, as all handlers here, its panics
	// are caught. nil: 404.
	Wharf http.Handler

	// Version is the engine's version, for the Server header.
	Version string
	// Builder is what _ping recommends to build with: "2" is BuildKit. ""
	// leaves the header out.
	Builder string
	// Log is where failures of the engine itself go; nil is slog.Default.
	Log *slog.Logger
}

// WharfPrefix is the root of the engine's own endpoints.
const WharfPrefix = "/wharf/v1/"

// New returns the API as a handler. It is safe for concurrent use and starts
// nothing.
func New(o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	s := &server{Options: o, guard: http.NewCrossOriginProtection()}
	s.routes = compile(s.table())
	if o.Removed != nil {
		s.removed = s.removedMux()
	}
	if o.VolumeData != nil {
		s.volumeData = s.volumeMux()
	}
	if o.ImageCopies != nil {
		s.copies = s.copyMux()
	}
	if o.ImageTrust != nil {
		s.trust = s.trustMux()
	}
	return s
}

// NewServer wraps h in an http.Server with limits that fit this API: headers
// must arrive quickly, answers may take for ever.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    256 << 10, // filters and X-Registry-Auth are long
	}
}

type server struct {
	Options
	routes routes
	guard  *http.CrossOriginProtection

	volumeData *http.ServeMux // may be nil
	copies     *http.ServeMux // may be nil
	trust      *http.ServeMux // may be nil
	removed    *http.ServeMux // may be nil
}

// reply notes whether the answer has begun.
type reply struct {
	http.ResponseWriter
	begun bool
}

func (r *reply) WriteHeader(code int) {
	r.begun = true
	r.ResponseWriter.WriteHeader(code)
}

func (r *reply) Write(p []byte) (int, error) {
	r.begun = true
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find Flush and Hijack.
func (r *reply) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// ServeHTTP is the one place where a request enters and an error leaves.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rep := &reply{ResponseWriter: w}
	defer s.recovered(rep, r)
	h := w.Header()
	h.Set("Server", fmt.Sprintf("wharf/%s (%s)", s.Version, runtime.GOOS))
	h.Set("Api-Version", newest.String())
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", runtime.GOOS)

	if err := s.serve(rep, r); err != nil {
		s.fail(rep, r, err)
	}
}

func (s *server) serve(w *reply, r *http.Request) error {
	// A web page that a user of a loopback TCP socket happens to look at must
	// not be able to start containers. Other clients send no Origin.
	if err := s.guard.Check(r); err != nil {
		return fmt.Errorf("request from a web page of another origin: %v: %w", err, errdefs.ErrPermissionDenied)
	}
	if strings.HasPrefix(r.URL.Path, WharfPrefix+"volumes/") && s.volumeData != nil {
		s.volumeData.ServeHTTP(w, r)
		return nil
	}
	if (r.URL.Path == WharfPrefix+"copy" || strings.HasPrefix(r.URL.Path, WharfPrefix+"copy/")) && s.copies != nil {
		s.copies.ServeHTTP(w, r)
		return nil
	}
	if strings.HasPrefix(r.URL.Path, WharfPrefix+"trust/") && s.trust != nil {
		s.trust.ServeHTTP(w, r)
		return nil
	}
	if isRemoved(r.URL.Path) && s.removed != nil {
		s.removed.ServeHTTP(w, r)
		return nil
	}
	if name, ok := ruledContainer(r.URL.Path); ok && s.NetworkLimits != nil {
		return s.networkRules(&call{w: w, r: r, v: newest, name: name, q: r.URL.Query(), log: s.Log})
	}
	if strings.HasPrefix(r.URL.Path, WharfPrefix) && s.Wharf != nil {
		s.Wharf.ServeHTTP(w, r)
		return nil
	}
	path, v, err := splitVersion(r.URL.Path)
	if err != nil {
		return err
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	rt, name, ok := s.routes.find(r.Method, path)
	if !ok || v < rt.since {
		return errPageNotFound
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return invalid("query of the request: %v", err)
	}
	if rt.missing != "" {
		return errdefs.ErrNotImplemented.WithMessage(rt.missing)
	}
	return rt.handle(&call{w: w, r: r, v: v, name: name, q: q, log: s.Log})
}

// fail answers with an error, or cuts the connection when it is too late.
func (s *server) fail(w *reply, r *http.Request, err error) {
	gone := r.Context().Err() != nil
	code := status(err)
	if code >= 500 && code != http.StatusNotImplemented && code != http.StatusServiceUnavailable && !gone {
		s.Log.ErrorContext(r.Context(), "request failed", "room", "dockerapi",
			"method", r.Method, "path", r.URL.Path, "err", err)
	}
	if w.begun {
		panic(http.ErrAbortHandler) // net/http closes the connection and logs nothing
	}
	// Also when the client is gone: it may have closed its half only, and
	// nothing said would be a 200.
	if code == http.StatusNotModified {
		w.WriteHeader(code)
		return
	}
	var old *versionError
	if errors.As(err, &old) && old.plain {
		http.Error(w, err.Error(), code)
		return
	}
	_ = writeJSON(w, code, map[string]string{"message": err.Error()})
}

// recovered turns a panic in a handler into a 500 and a log line with the
// stack. http.ErrAbortHandler is passed on: it is how an answer is cut off.
func (s *server) recovered(w *reply, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	s.Log.ErrorContext(r.Context(), "panic in a request", "room", "dockerapi",
		"method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	_ = writeJSON(w, http.StatusInternalServerError, map[string]string{
		"message": "internal error; the daemon's log has the details",
	})
}

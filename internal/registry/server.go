package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // the kind of users file that we take
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // where content lies
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Options say what to serve and to whom.
type Options struct {
	Root     string // absolute; made if it is not there
	Addr     string // host:port; port 0 picks one
	Htpasswd string // file with bcrypt lines; empty: everybody may do everything
	TLSCert  string // PEM files; both or none
	TLSKey   string
	ClientCA string // PEM: only clients with a certificate of one of these come in
	ReadOnly bool
	Open     bool // beyond loopback without TLS or without users is meant
	Log      *slog.Logger
}

// Server is one registry.
type Server struct {
	opts   Options
	log    *slog.Logger
	app    *handlers.App
	lock   *os.File
	writes sync.RWMutex
	http   *http.Server
	ctl    *http.Server
}

// drain is how long requests may go on after the end was asked for.
const drain = 10 * time.Second

// New checks the options, takes the directory's lock and makes the handlers.
func New(ctx context.Context, o Options) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Root, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockRoot(o.Root)
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, log: o.Log, lock: lock}
	if s.log == nil {
		s.log = slog.Default()
	}
	if err := s.makeApp(ctx); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err := s.buildReferrers(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (o *Options) check() error {
	if !filepath.IsAbs(o.Root) {
		return fmt.Errorf("storage directory %q is not an absolute path", o.Root)
	}
	if (o.TLSCert == "") != (o.TLSKey == "") {
		return errors.New("a TLS certificate and its key go together: give both --tls-cert and --tls-key, or none")
	}
	if o.ClientCA != "" && o.TLSCert == "" {
		return errors.New("--client-ca asks for client certificates, which needs TLS: give --tls-cert and --tls-key")
	}
	for _, f := range []string{o.Htpasswd, o.TLSCert, o.TLSKey, o.ClientCA} {
		if f == "" {
			continue
		}
		if _, err := os.Stat(f); err != nil {
			return err
		}
	}
	host, _, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return fmt.Errorf("address %q: want HOST:PORT, as 127.0.0.1:5000", o.Addr)
	}
	guarded := o.TLSCert != "" && (o.Htpasswd != "" || o.ClientCA != "")
	if !loopback(host) && !guarded && !o.Open {
		return fmt.Errorf("address %s can be reached from other hosts: give --tls-cert, --tls-key and --htpasswd (or --client-ca), or say --open if everybody may push and pull", o.Addr)
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// lockRoot makes sure that one process alone serves or collects a directory.
func lockRoot(root string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &inUse{root}
		}
		return nil, fmt.Errorf("lock %s: %w", root, err)
	}
	return f, nil
}

type inUse struct{ root string }

func (e *inUse) Error() string {
	return fmt.Sprintf("%s is served by another process; end that one or choose another --storage", e.root)
}

// makeApp configures distribution's handlers. They panic on a configuration
// that they do not like; ours is made here, so that is a defect told as one.
func (s *Server) makeApp(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("registry in %s: %v", s.opts.Root, r)
		}
	}()
	logrus.SetLevel(logrus.FatalLevel) // each missing blob is an error there
	c := &configuration.Configuration{
		Version: configuration.CurrentVersion,
		Storage: configuration.Storage{
			"filesystem":  configuration.Parameters{"rootdirectory": s.opts.Root},
			"delete":      configuration.Parameters{"enabled": true},
			"redirect":    configuration.Parameters{"disable": true},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": true, "age": "168h", "interval": "24h", "dryrun": false}},
		},
	}
	if s.opts.ReadOnly {
		c.Storage["maintenance"]["readonly"] = map[any]any{"enabled": true}
	}
	c.HTTP.RelativeURLs = true // whatever name we are reached by
	c.Catalog.MaxEntries = 1000
	c.Validation.Manifests.URLs.Allow = []string{`^https?://`}
	c.Validation.Manifests.Indexes.Platforms = "all"
	if s.opts.Htpasswd != "" {
		c.Auth = configuration.Auth{"htpasswd": configuration.Parameters{"realm": "wharf registry", "path": s.opts.Htpasswd}}
	}
	s.app = handlers.NewApp(ctx, c)
	return nil
}

// Handler answers the registry's API.
func (s *Server) Handler() http.Handler {
	return s.gate(s.otherDigests(s.referrers(s.app)))
}

// gate lets requests that write wait for a collection, and the other way round.
func (s *Server) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			s.writes.RLock()
			defer s.writes.RUnlock()
		}
		next.ServeHTTP(w, r)
	})
}

// tlsConfig is nil for plain http.
func (s *Server) tlsConfig() (*tls.Config, error) {
	o := s.opts
	if o.TLSCert == "" {
		return nil, nil
	}
	if _, err := tls.LoadX509KeyPair(o.TLSCert, o.TLSKey); err != nil {
		return nil, fmt.Errorf("TLS certificate %s: %w", o.TLSCert, err)
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		// Read each time, so that a renewed certificate needs no restart.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(o.TLSCert, o.TLSKey)
			return &pair, err
		},
	}
	if o.ClientCA != "" {
		pem, err := os.ReadFile(o.ClientCA)
		if err != nil {
			return nil, err
		}
		c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !c.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("client CA %s: no certificate in it", o.ClientCA)
		}
	}
	return c, nil
}

// Listen opens the address of the options.
func (s *Server) Listen() (net.Listener, error) {
	c, err := s.tlsConfig()
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", s.opts.Addr)
	if err != nil {
		return nil, err
	}
	if c != nil {
		ln = tls.NewListener(ln, c)
	}
	return ln, nil
}

// Serve answers until ctx ends; running requests get ten seconds more.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	s.http = &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	ctl, err := s.control()
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- s.http.Serve(ln) }()
	go func() { ended <- s.ctl.Serve(ctl) }()
	s.log.Info("registry serves", "address", ln.Addr().String(), "storage", s.opts.Root, "tls", s.opts.TLSCert != "", "users", s.opts.Htpasswd != "")
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = nil
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if serr := s.http.Shutdown(stop); serr != nil {
		err = errors.Join(err, serr, s.http.Close())
	}
	return errors.Join(err, s.ctl.Close())
}

// Close gives the directory back.
func (s *Server) Close() error {
	return errors.Join(s.app.Shutdown(), s.lock.Close())
}

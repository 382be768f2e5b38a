package ship

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"wharf/internal/logs/logopts"
)

const (
	dialTime  = 10 * time.Second
	writeTime = 30 * time.Second // of one write: a peer that reads nothing is given up then
)

// wire is a connection to a collector, made again when it breaks.
type wire struct {
	addr    logopts.Address
	tls     *tls.Config
	write   time.Duration // bound of a write; 0: writeTime
	answers bool          // the collector answers: reading is the user's business

	conn  net.Conn
	since time.Time
	gone  *atomic.Bool // the collector has closed conn
}

func (w *wire) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var err error
	switch w.addr.Network {
	case "tls":
		d := tls.Dialer{Config: w.tls}
		w.conn, err = d.DialContext(ctx, "tcp", w.addr.Addr)
	default:
		var d net.Dialer
		w.conn, err = d.DialContext(ctx, w.addr.Network, w.addr.Addr)
	}
	if err != nil {
		w.conn = nil
		return err
	}
	w.since, w.gone = time.Now(), &atomic.Bool{}
	if !w.answers {
		go watch(w.conn, w.gone)
	}
	return nil
}

// watch reads what a collector should not send, to notice that it has closed:
// the kernel would take the next message and lose it.
func watch(c net.Conn, gone *atomic.Bool) {
	b := make([]byte, 512)
	for {
		if _, err := c.Read(b); err != nil {
			gone.Store(true)
			return
		}
	}
}

// put writes p whole.
func (w *wire) put(ctx context.Context, p []byte) error {
	if w.conn != nil && w.gone.Load() {
		w.close()
	}
	if w.conn == nil {
		if err := w.dial(ctx); err != nil {
			return err
		}
	}
	limit := w.write
	if limit <= 0 {
		limit = writeTime
	}
	_ = w.conn.SetWriteDeadline(time.Now().Add(limit))
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := w.conn.Write(p); err != nil {
		w.close()
		return err
	}
	return nil
}

func (w *wire) close() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}

// tlsConfig reads the files of the TLS options.
func tlsConfig(o logopts.TLS) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.SkipVerify}
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, fmt.Errorf("syslog-tls-ca-cert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("syslog-tls-ca-cert %s: %w", o.CA, errors.New("no certificate in PEM form is in it"))
		}
	}
	if o.Cert != "" {
		pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("syslog-tls-cert %s: %w", o.Cert, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

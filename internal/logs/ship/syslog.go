package ship

import (
	"context"
	"crypto/tls"
	"strconv"
	"strings"

	"wharf/internal/logs/logfile"
	"wharf/internal/logs/logopts"
)

// syslog sends messages over TCP, or TLS.
type syslog struct {
	f       *logfile.SyslogFormat
	counted bool // each message has its length in front (RFC 5425)
	wire    wire
	buf     []byte
}

func newSyslog(p logfile.Plan, o logopts.SyslogOptions) (*syslog, error) {
	s := &syslog{f: logfile.NewSyslogFormat(p, o), wire: wire{addr: o.Address}}
	if o.Address.Network != "tls" {
		return s, nil
	}
	s.counted = strings.HasPrefix(o.Format, "rfc5424")
	var err error
	var c *tls.Config
	if c, err = tlsConfig(o.TLS); err != nil {
		return nil, err
	}
	s.wire.tls = c
	return s, nil
}

func (s *syslog) open(ctx context.Context) error { return s.wire.dial(ctx) }
func (s *syslog) close()                         { s.wire.close() }

func (s *syslog) send(ctx context.Context, e entry) error {
	s.buf = s.f.Append(s.buf[:0], e.Time, byte(e.Stream), e.text)
	if s.counted {
		s.buf = append(append(strconv.AppendInt(nil, int64(len(s.buf)), 10), ' '), s.buf...)
	}
	return s.wire.put(ctx, s.buf)
}

package logfile

import (
	"os"
	"strconv"
	"time"

	"wharf/internal/logs/logopts"
)

// Severities of RFC 5424.
const (
	severityErr  = 3
	severityInfo = 6
)

// localSockets are where a machine's own syslog daemon listens.
var localSockets = []string{"/dev/log", "/var/run/syslog", "/var/run/log"}

// SyslogFormat makes messages of lines.
type SyslogFormat struct {
	opts logopts.SyslogOptions
	host string
	tag  string
	pid  string
}

// NewSyslogFormat is the format that the plan's options ask for.
func NewSyslogFormat(p Plan, o logopts.SyslogOptions) *SyslogFormat {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "-"
	}
	return &SyslogFormat{opts: o, host: host, tag: tagOf(p), pid: strconv.Itoa(os.Getpid())}
}

// syslogSink sends each line as a message.
type syslogSink struct {
	f    *SyslogFormat
	to   *collector
	lose loser
	buf  []byte
}

func openSyslog(p Plan, lose loser) (sender, error) {
	o, err := logopts.ParseSyslog(p.Options)
	if err != nil {
		return nil, err
	}
	s := &syslogSink{f: NewSyslogFormat(p, o), lose: lose}
	if o.Address.Network != "" {
		s.to = &collector{addr: o.Address, fd: -1}
		return s, s.to.dial()
	}
	for _, path := range localSockets {
		for _, network := range []string{"unixgram", "unix"} {
			s.to = &collector{addr: logopts.Address{Network: network, Addr: path}, fd: -1}
			if err = s.to.dial(); err == nil {
				return s, nil
			}
		}
	}
	return nil, err
}

// tagOf is the plan's tag, or Docker's default: the short id.
func tagOf(p Plan) string {
	if p.Tag != "" {
		return p.Tag
	}
	return p.ContainerID[:min(12, len(p.ContainerID))]
}

func (s *syslogSink) add(e entry) {
	s.buf = s.f.Append(s.buf[:0], e.at, e.stream, e.line)
	if err := s.to.send(s.buf); err != nil && !e.marker {
		s.lose(1, uint64(len(e.line)), err)
	} else if err != nil {
		s.lose(0, 0, err)
	}
}

// Append appends one message. The formats and their fields are those that
// Docker's driver sends, so that collectors' rules go on working.
func (s *SyslogFormat) Append(b []byte, at time.Time, stream byte, line []byte) []byte {
	severity := severityInfo
	if stream == Stderr {
		severity = severityErr
	}
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(s.opts.Facility<<3|severity), 10)
	b = append(b, '>')
	switch s.opts.Format {
	case "rfc5424", "rfc5424micro":
		layout := time.RFC3339
		if s.opts.Format == "rfc5424micro" {
			layout = "2006-01-02T15:04:05.000000Z07:00"
		}
		b = append(b, "1 "...)
		b = at.AppendFormat(b, layout)
		b = append(b, ' ')
		b = append(b, s.host...)
		b = append(b, ' ')
		b = append(b, s.tag...)
		b = append(b, ' ')
		b = append(b, s.pid...)
		b = append(b, ' ')
		b = append(b, s.tag...)
		b = append(b, " - "...)
	default:
		b = at.Local().AppendFormat(b, time.Stamp)
		b = append(b, ' ')
		if s.opts.Format == "rfc3164" {
			b = append(b, s.host...)
			b = append(b, ' ')
		}
		b = append(b, s.tag...)
		b = append(b, '[')
		b = append(b, s.pid...)
		b = append(b, "]: "...)
	}
	b = append(b, line...)
	return append(b, '\n')
}

func (s *syslogSink) commit() {}
func (s *syslogSink) sends()  {}

func (s *syslogSink) close() error { s.to.close(); return nil }

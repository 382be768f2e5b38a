package logfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"wharf/internal/logs/logopts"
)

// journalSocket is where systemd-journald takes its native protocol
// (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram of fields an entry.
var journalSocket = "/run/systemd/journal/socket"

// journalSink sends each line as a journal entry with Docker's fields.
type journalSink struct {
	fixed []byte // encoded fields that every entry has
	to    *collector
	lose  loser
	buf   []byte
	id    int // counts cut lines
	cut   [3]int
}

func openJournald(p Plan, lose loser) (sender, error) {
	j := &journalSink{lose: lose, to: &collector{addr: logopts.Address{Network: "unixgram", Addr: journalSocket}, fd: -1}}
	if err := j.to.dial(); err != nil {
		return nil, fmt.Errorf("journald is not running here: %w", err)
	}
	fields := map[string]string{
		"CONTAINER_ID":      p.ContainerID[:min(12, len(p.ContainerID))],
		"CONTAINER_ID_FULL": p.ContainerID,
		"CONTAINER_NAME":    p.ContainerName,
		"CONTAINER_TAG":     tagOf(p),
		"IMAGE_NAME":        p.ImageName,
		"SYSLOG_IDENTIFIER": tagOf(p),
	}
	for k, v := range p.Attrs {
		if name := fieldName(k); name != "" && fields[name] == "" {
			fields[name] = v
		}
	}
	names := make([]string, 0, len(fields))
	for n := range fields {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		j.fixed = appendField(j.fixed, n, []byte(fields[n]))
	}
	return j, nil
}

// fieldName makes a journal field name of a label or variable: upper-case
// letters, digits and underscores, not starting with an underscore (those are
// the journal's own) or a digit, at most 64.
func fieldName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		}
		return '_'
	}, s)
	s = strings.TrimLeft(s, "_0123456789")
	return s[:min(len(s), 64)]
}

// appendField appends a field; a value with a newline goes by length.
func appendField(b []byte, name string, value []byte) []byte {
	b = append(b, name...)
	if bytes.IndexByte(value, '\n') < 0 {
		b = append(b, '=')
	} else {
		b = append(b, '\n')
		b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	}
	b = append(b, value...)
	return append(b, '\n')
}

func (j *journalSink) add(e entry) {
	b := appendField(j.buf[:0], "MESSAGE", e.line)
	priority := severityInfo
	if e.stream == Stderr {
		priority = severityErr
	}
	b = appendField(b, "PRIORITY", strconv.AppendInt(nil, int64(priority), 10))
	b = appendField(b, "SYSLOG_TIMESTAMP", e.at.UTC().AppendFormat(nil, "2006-01-02T15:04:05.999999999Z07:00"))
	if e.partial || j.cut[e.stream] > 0 {
		if j.cut[e.stream] == 0 {
			j.id++
		}
		j.cut[e.stream]++
		b = appendField(b, "CONTAINER_PARTIAL_MESSAGE", []byte("true"))
		b = appendField(b, "CONTAINER_PARTIAL_ID", strconv.AppendInt(nil, int64(j.id), 10))
		b = appendField(b, "CONTAINER_PARTIAL_ORDINAL", strconv.AppendInt(nil, int64(j.cut[e.stream]), 10))
		b = appendField(b, "CONTAINER_PARTIAL_LAST", strconv.AppendBool(nil, !e.partial))
		if !e.partial {
			j.cut[e.stream] = 0
		}
	}
	j.buf = append(b, j.fixed...)
	if err := j.to.send(j.buf); err != nil {
		if e.marker {
			j.lose(0, 0, err)
			return
		}
		j.lose(1, uint64(len(e.line)), err)
	}
}

func (j *journalSink) commit() {}
func (j *journalSink) sends()  {}

func (j *journalSink) close() error { j.to.close(); return nil }

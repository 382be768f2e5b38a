package ship

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/Graylog2/go-gelf/gelf"

	"wharf/internal/logs/logfile"
	"wharf/internal/logs/logopts"
	"wharf/internal/model"
)

// gelfTarget sends entries as GELF 1.1 messages
// (go2docs.graylog.org, "GELF via UDP", "GELF via TCP"): datagrams, compressed
// and in chunks, by the gelf library; or a TCP stream of JSON texts with a
// zero byte behind each.
type gelfTarget struct {
	opts  logopts.GELFOptions
	host  string
	extra json.RawMessage
	wire  wire // tcp
	udp   *gelf.UDPWriter
}

func newGELF(p logfile.Plan, o logopts.GELFOptions) *gelfTarget {
	extra := map[string]any{
		"_container_id": p.ContainerID, "_container_name": p.ContainerName, "_image_id": p.ImageID, "_image_name": p.ImageName,
		"_command": p.Command, "_tag": p.Tag, "_created": p.Created,
	}
	for k, v := range p.Attrs {
		if !strings.HasPrefix(k, "_") {
			k = "_" + k
		}
		extra[k] = v
	}
	raw, err := json.Marshal(extra)
	if err != nil {
		raw = nil // strings and a time: it cannot fail
	}
	return &gelfTarget{opts: o, host: hostname(), extra: raw, wire: wire{addr: o.Address}}
}

func (g *gelfTarget) open(ctx context.Context) error {
	var err error
	if g.opts.Address.Network == "tcp" {
		err = g.wire.dial(ctx)
	} else {
		err = g.dialUDP()
	}
	if err != nil {
		return fmt.Errorf("gelf: cannot connect to GELF endpoint: %s %w", g.opts.Address.Addr, err)
	}
	return nil
}

func (g *gelfTarget) dialUDP() error {
	w, err := gelf.NewUDPWriter(g.opts.Address.Addr)
	if err != nil {
		return err
	}
	w.CompressionLevel = g.opts.Level
	switch g.opts.Compression {
	case "zlib":
		w.CompressionType = gelf.CompressZlib
	case "none":
		w.CompressionType = gelf.CompressNone
	default:
		w.CompressionType = gelf.CompressGzip
	}
	g.udp = w
	return nil
}

func (g *gelfTarget) close() {
	g.wire.close()
	if g.udp != nil {
		_ = g.udp.Close()
	}
}

func (g *gelfTarget) send(ctx context.Context, e entry) error {
	if len(e.text) == 0 {
		return nil // a message without a text is refused by collectors
	}
	m := gelf.Message{
		Version: "1.1", Host: g.host, Short: string(e.text), Level: gelf.LOG_INFO, RawExtra: g.extra,
		TimeUnix: math.Round(float64(e.Time.UnixNano())/1e6) / 1000,
	}
	if e.Stream == model.Stderr {
		m.Level = gelf.LOG_ERR
	}
	if g.opts.Address.Network == "tcp" {
		var b bytes.Buffer
		if err := m.MarshalJSONBuf(&b); err != nil {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		b.WriteByte(0)
		return g.wire.put(ctx, b.Bytes())
	}
	if g.udp == nil { // its name could not be looked up
		if err := g.dialUDP(); err != nil {
			return err
		}
	}
	// The error of a datagram is that of an earlier one (nobody listens):
	// this one is gone all the same.
	if err := g.udp.WriteMessage(&m); err != nil {
		_ = g.udp.WriteMessage(&m)
	}
	return nil
}

package ship

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
	"github.com/tinylib/msgp/msgp"

	"wharf/internal/logs/logfile"
	"wharf/internal/logs/logopts"
	"wharf/internal/model"
)

// ackTime bounds the wait for an acknowledgement when the user does not.
const ackTime = 30 * time.Second

// fluentd sends entries in Fluentd's forward protocol, message mode
// (github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1). The
// fluent library encodes; its own connection and buffer are not used, because
// the copy is the buffer.
type fluentd struct {
	plan logfile.Plan
	opts logopts.FluentdOptions
	wire wire
}

func newFluentd(p logfile.Plan, o logopts.FluentdOptions) *fluentd {
	return &fluentd{plan: p, opts: o, wire: wire{addr: o.Address, tls: &tls.Config{MinVersion: tls.VersionTLS12}, write: o.Write, answers: o.Ack}}
}

func (f *fluentd) open(ctx context.Context) error {
	if f.opts.Async {
		return nil
	}
	return f.wire.dial(ctx)
}

func (f *fluentd) close() { f.wire.close() }

func (f *fluentd) send(ctx context.Context, e entry) error {
	b, ack, err := f.encode(e)
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if f.opts.Reconnect > 0 && f.wire.conn != nil && time.Since(f.wire.since) > f.opts.Reconnect {
		f.wire.close()
	}
	if err := f.wire.put(ctx, b); err != nil || ack == "" {
		return err
	}
	if err := f.acknowledged(ctx, ack); err != nil {
		f.wire.close()
		return err
	}
	return nil
}

// encode makes the message with Docker's fields.
func (f *fluentd) encode(e entry) (b []byte, ack string, err error) {
	source := "stdout"
	if e.Stream == model.Stderr {
		source = "stderr"
	}
	record := map[string]any{}
	for k, v := range f.plan.Attrs {
		record[k] = v
	}
	for k, v := range map[string]string{"container_id": f.plan.ContainerID, "container_name": "/" + f.plan.ContainerName, "source": source, "log": string(e.text)} {
		if _, set := f.plan.Attrs[k]; !set {
			record[k] = v
		}
	}
	if p := e.part; p != nil {
		record["partial_message"], record["partial_id"] = "true", p.id
		record["partial_ordinal"], record["partial_last"] = strconv.Itoa(p.ordinal), strconv.FormatBool(p.last)
	}
	option := map[string]string{}
	if f.opts.Ack {
		ack = string(model.NewID())[:32]
		option["chunk"] = ack
	}
	if f.opts.SubSecond {
		b, err = (&fluent.MessageExt{Tag: f.plan.Tag, Time: fluent.EventTime(e.Time), Record: record, Option: option}).MarshalMsg(nil)
	} else {
		b, err = (&fluent.Message{Tag: f.plan.Tag, Time: e.Time.Unix(), Record: record, Option: option}).MarshalMsg(nil)
	}
	return b, ack, err
}

// acknowledged waits for the collector's answer.
func (f *fluentd) acknowledged(ctx context.Context, ack string) error {
	limit := f.opts.Read
	if limit <= 0 {
		limit = ackTime
	}
	_ = f.wire.conn.SetReadDeadline(time.Now().Add(limit))
	stop := context.AfterFunc(ctx, func() { _ = f.wire.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var got fluent.AckResp
	if err := got.DecodeMsg(msgp.NewReaderSize(f.wire.conn, 128)); err != nil {
		return fmt.Errorf("wait for an acknowledgement: %w", err)
	}
	if got.Ack != ack {
		return errors.New("the collector acknowledged another message")
	}
	return nil
}

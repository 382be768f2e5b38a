package build

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	clog "github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// bridge has what containerd's and BuildKit's libraries tell logrus come out of
// slog, lower: what is an error to a library (a client that has left) is seldom
// one to wharf, which reports what is.
var bridge = sync.OnceFunc(func() {
	l := logrus.StandardLogger()
	l.SetOutput(io.Discard)
	l.AddHook(toSlog{})
	// Warnings pass only where somebody looks at debug messages.
	if slog.Default().Enabled(context.Background(), slog.LevelDebug) {
		_ = clog.SetLevel("warn")
	}
})

// toSlog is a hook of logrus.
type toSlog struct{}

func (toSlog) Levels() []logrus.Level { return logrus.AllLevels }

func (toSlog) Fire(e *logrus.Entry) error {
	ctx := e.Context
	if ctx == nil {
		ctx = context.Background()
	}
	level := slogLevel(e)
	if !slog.Default().Enabled(ctx, level) {
		return nil
	}
	args := []any{"room", "build"}
	for _, k := range slices.Sorted(maps.Keys(e.Data)) {
		args = append(args, k, fmt.Sprint(e.Data[k]))
	}
	slog.Log(ctx, level, e.Message, args...)
	return nil
}

func slogLevel(e *logrus.Entry) slog.Level {
	switch {
	case strings.Contains(e.Message, "healthcheck failed"): // each session's end
		return slog.LevelDebug
	case e.Level <= logrus.ErrorLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

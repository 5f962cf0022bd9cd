package main

import (
	"io"
	"log/slog"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/env"
)

// levelTrace is below debug: everything, with the place in the source.
const levelTrace = slog.LevelDebug - 4

// newLog makes the log of a server: readable on a terminal, JSON elsewhere.
func newLog(w io.Writer, cfg env.Config) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: readable}
	if cfg.Debug {
		o.Level = slog.LevelDebug
	}
	if cfg.Trace {
		o.Level, o.AddSource = levelTrace, true
	}
	if isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

// readable writes durations as people do, "493ms", where JSON would have
// nanoseconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(rounded(a.Value.Duration()).String())
	}
	return a
}

// rounded keeps three digits, and whole seconds from a minute on.
func rounded(d time.Duration) time.Duration {
	unit := time.Nanosecond
	for d.Abs()/unit >= 1000 && unit < time.Second {
		unit *= 10
	}
	return d.Round(unit)
}

package main

import (
	"io"
	"log/slog"

	"github.com/vm-runner/drone-runner-aws/internal/env"
)

// levelTrace is below debug: everything, with the place in the source.
const levelTrace = slog.LevelDebug - 4

// newLog makes the log of a server: readable on a terminal, JSON elsewhere.
func newLog(w io.Writer, cfg env.Config) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
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

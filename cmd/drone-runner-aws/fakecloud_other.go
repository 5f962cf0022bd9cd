//go:build !linux

package main

import (
	"errors"
	"log/slog"
	"net/netip"
)

// sandboxed does nothing: machines of a rehearsal need Linux.
func sandboxed() {}

func rehearse(string, netip.Prefix, map[string]string, bool, *slog.Logger) (rehearsed, error) {
	return rehearsed{}, errors.New("a rehearsal's machines are sandboxes of Linux; run it on a Linux host")
}

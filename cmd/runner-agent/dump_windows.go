package main

import "log/slog"

// dumpOnSignal does nothing: there is no such signal on Windows.
func dumpOnSignal(*slog.Logger) (stop func()) { return func() {} }

//go:build unix

package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"
)

// dumpOnSignal writes the stacks of all goroutines to a file on SIGUSR1, until
// the function it returns is called.
func dumpOnSignal(log *slog.Logger) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range signals {
			path, err := dumpGoroutines(time.Now())
			log.Info("goroutine dump", "path", path, "err", err)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}

func dumpGoroutines(now time.Time) (path string, err error) {
	path = fmt.Sprintf("/tmp/lite-engine-goroutine-dump-%d-%s.txt", os.Getpid(), now.UTC().Format("20060102T150405Z"))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return path, pprof.Lookup("goroutine").WriteTo(f, 2)
}

//go:build !windows

package main

import (
	"context"
	"io"
)

// asService runs a program that is told to stop by signals. out is where it
// reports.
func asService(ctx context.Context, out io.Writer, run func(ctx context.Context, hurry <-chan struct{}, out io.Writer) error) error {
	return untilSignal(ctx, func(ctx context.Context, hurry <-chan struct{}) error { return run(ctx, hurry, out) })
}

package guestlink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// noHostPause is how long the guest waits after a read that returned nothing,
// which is how the port says that no host is connected.
const noHostPause = 10 * time.Millisecond

// pendingAnswers bounds the answers kept for a host that does not read. A host
// waits for each answer, so more than a few are left over from hosts that died.
const pendingAnswers = 64

// GuestHandler does in the machine what the host asks for.
type GuestHandler interface {
	// Identify makes the machine what req.Identity says: clock, entropy, names,
	// then the agent. It may return at once and report the end through
	// [Guest.Ready] or [Guest.Fail], or replace the process and never return;
	// an error refuses the request and leaves the machine waiting.
	Identify(ctx context.Context, req Request) error
	// Wake puts clock and entropy right.
	Wake(ctx context.Context, now time.Time, entropy []byte) error
	// Flush writes to the disks what is kept in memory of their files.
	Flush(ctx context.Context) error
}

// Guest is the machine's end of the channel: it answers a host's requests one
// after another. All methods are safe for concurrent use.
type Guest struct {
	version string
	handler GuestHandler
	log     *slog.Logger

	mu      sync.Mutex
	state   string
	machine string
	disks   int      // of the identity
	waiting []uint64 // numbers of OpIdentify requests not yet answered

	answers chan Response
}

// NewGuest returns a guest that waits for its identity. Version is the
// agent's, told in every answer.
func NewGuest(version string, h GuestHandler, log *slog.Logger) *Guest {
	return &Guest{
		version: version,
		handler: h,
		log:     log,
		state:   StateWaiting,
		answers: make(chan Response, pendingAnswers),
	}
}

// Resume puts the guest where an earlier process of this machine left it:
// it has received the identity of req, works on it, and owes the answer.
// Call it before Serve.
func (g *Guest) Resume(req Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.takeLocked(req)
}

// takeLocked notes the identity of a request that is answered later.
func (g *Guest) takeLocked(req Request) {
	g.state, g.machine, g.disks = StateStarting, req.Identity.Machine, len(req.Identity.Disks)
	g.waiting = append(g.waiting, req.Seq)
}

// Ready says that the agent listens: every host waiting for that is answered.
func (g *Guest) Ready() { g.settle(StateReady, "") }

// Fail says that the identity could not be taken: whoever waits gets err, and
// the guest waits for an identity again.
func (g *Guest) Fail(err error) { g.settle(StateWaiting, err.Error()) }

func (g *Guest) settle(state, problem string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = state
	if state == StateWaiting {
		g.machine, g.disks = "", 0
	}
	for _, seq := range g.waiting {
		g.answerLocked(seq, problem)
	}
	g.waiting = nil
}

// Serve reads requests from port and writes answers to it until ctx ends. A
// read of nothing, with io.EOF or without an error, means that no host is
// connected, and is tried again. Serve returns ctx's error, or the first other
// error of the port. It leaves one goroutine in a port's Read or Write that
// does not return; closing the port ends it.
func (g *Guest) Serve(ctx context.Context, port io.ReadWriter) error {
	failed := make(chan error, 2)
	go func() { failed <- g.read(ctx, port) }()
	go func() { failed <- g.write(ctx, port) }()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-failed:
		return err
	}
}

func (g *Guest) read(ctx context.Context, port io.Reader) error {
	var lines lineBuffer
	chunk := make([]byte, 32<<10)
	for {
		n, err := port.Read(chunk)
		for _, line := range lines.add(chunk[:n]) {
			g.handleLine(ctx, line)
		}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return fmt.Errorf("read identity port: %w", err)
		case n > 0:
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(noHostPause):
		}
	}
}

// write is the only writer, so that a port that blocks while no host is
// connected holds up neither reading nor a lock.
func (g *Guest) write(ctx context.Context, port io.Writer) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case r := <-g.answers:
			line, err := json.Marshal(r)
			if err != nil {
				return fmt.Errorf("encode answer: %w", err)
			}
			if _, err := port.Write(append(line, '\n')); err != nil {
				return fmt.Errorf("write identity port: %w", err)
			}
		}
	}
}

// handleLine acts on one line. What is no JSON object is dropped: it is the
// rest of a message whose host died.
func (g *Guest) handleLine(ctx context.Context, line lineOrError) {
	if line.tooLong {
		g.answer(0, fmt.Sprintf("message is longer than %d bytes", MaxMessage))
		return
	}
	text := bytes.TrimSpace(line.text)
	if len(text) == 0 {
		return
	}
	var req Request
	if text[0] != '{' || json.Unmarshal(text, &req) != nil {
		g.log.Debug("dropped a line that is no request", "bytes", len(text))
		return
	}
	g.handle(ctx, req)
}

func (g *Guest) handle(ctx context.Context, req Request) {
	switch req.Op {
	case OpPing:
		g.answer(req.Seq, "")
	case OpWake:
		g.answer(req.Seq, problemOf(g.handler.Wake(ctx, req.Now, req.Entropy)))
	case OpFlush:
		g.answer(req.Seq, problemOf(g.handler.Flush(ctx)))
	case OpIdentify:
		g.identify(ctx, req)
	default:
		g.answer(req.Seq, fmt.Sprintf("unknown operation %q", req.Op))
	}
}

// problemOf is an error as an answer has it.
func problemOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (g *Guest) identify(ctx context.Context, req Request) {
	if req.Identity == nil || req.Identity.Machine == "" {
		g.answer(req.Seq, "identify without an identity")
		return
	}
	if !g.accept(req) {
		return
	}
	if err := g.handler.Identify(ctx, req); err != nil {
		g.Fail(err)
	}
}

// accept notes a new identity. It is false when there is nothing left to do
// for this request: the machine has an identity already.
func (g *Guest) accept(req Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.machine == "":
		g.takeLocked(req)
		return true
	case g.machine != req.Identity.Machine:
		g.answerLocked(req.Seq, fmt.Sprintf("this machine is %s already", g.machine))
	case g.state == StateReady:
		g.answerLocked(req.Seq, "")
	default:
		g.waiting = append(g.waiting, req.Seq)
	}
	return false
}

func (g *Guest) answer(seq uint64, problem string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answerLocked(seq, problem)
}

// answerLocked queues an answer. Nobody who still reads has a full queue, so
// the oldest goes first.
func (g *Guest) answerLocked(seq uint64, problem string) {
	r := Response{Seq: seq, State: g.state, Machine: g.machine, Version: g.version, Disks: g.disks, Error: problem}
	for {
		select {
		case g.answers <- r:
			return
		default:
		}
		select {
		case old := <-g.answers:
			g.log.Warn("dropped an answer no host has read", "seq", old.Seq)
		default:
		}
	}
}

// lineOrError is one line without its newline, or the news that one was
// longer than MaxMessage.
type lineOrError struct {
	text    []byte
	tooLong bool
}

// lineBuffer cuts a stream into lines of at most MaxMessage bytes. The zero
// value is ready.
type lineBuffer struct {
	rest    []byte
	tooLong bool
}

// add takes a chunk and returns the lines it completes, which stay valid after
// the next call.
func (b *lineBuffer) add(chunk []byte) []lineOrError {
	var lines []lineOrError
	for len(chunk) > 0 {
		part, after, ended := bytes.Cut(chunk, []byte{'\n'})
		chunk = after
		if len(b.rest)+len(part) > MaxMessage {
			b.rest, b.tooLong = nil, true
		}
		if !b.tooLong {
			b.rest = append(b.rest, part...)
		}
		if !ended {
			break
		}
		lines = append(lines, lineOrError{text: b.rest, tooLong: b.tooLong})
		b.rest, b.tooLong = nil, false
	}
	return lines
}

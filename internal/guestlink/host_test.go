package guestlink_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

// script answers requests on the guest's end of a pipe, each with what play
// returns, until the pipe closes.
func script(t *testing.T, play func(n int, req guestlink.Request) string) *guestlink.Host {
	t.Helper()
	ours, theirs := net.Pipe()
	host := guestlink.NewHost(ours)
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := bufio.NewScanner(theirs)
		in.Buffer(nil, guestlink.MaxMessage+1)
		for n := 0; in.Scan(); {
			var req guestlink.Request
			if json.Unmarshal(in.Bytes(), &req) != nil {
				continue // the empty line before a message
			}
			if _, err := io.WriteString(theirs, play(n, req)); err != nil {
				return
			}
			n++
		}
	}()
	t.Cleanup(func() {
		_ = host.Close()
		_ = theirs.Close()
		<-done
	})
	return host
}

func answer(r guestlink.Response) string {
	raw, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return string(raw) + "\n"
}

func TestHostDropsWhatIsNoAnswerToItsRequest(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(seq uint64) string{
		"nothing before the answer": func(uint64) string { return "" },
		"the answer to a request of a connection ago": func(seq uint64) string {
			return answer(guestlink.Response{Seq: seq - 1, State: "ready", Machine: "other"})
		},
		"half a message of a guest that was restarted": func(seq uint64) string { return fmt.Sprintf("{\"seq\":%d,\"sta\n", seq) },
		"the end of a message, then an empty line":     func(uint64) string { return "te\":\"ready\"}\n\n" },
		"a number, a list and a null":                  func(uint64) string { return "7\n[1]\nnull\n" },
		"an error without a number":                    func(uint64) string { return answer(guestlink.Response{Error: "message is longer"}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := script(t, func(_ int, req guestlink.Request) string {
				return before(req.Seq) + answer(guestlink.Response{Seq: req.Seq, State: guestlink.StateWaiting, Version: "v1"})
			})
			for range 2 {
				got, err := host.Ping(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				want := guestlink.Response{Seq: got.Seq, State: guestlink.StateWaiting, Version: "v1"}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("answer (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestHostIdentifyWaitsUntilTheAgentListens(t *testing.T) {
	t.Parallel()
	var ops []string
	host := script(t, func(n int, req guestlink.Request) string {
		ops = append(ops, req.Op)
		state := guestlink.StateStarting
		if n == 3 {
			state = guestlink.StateReady
		}
		return answer(guestlink.Response{Seq: req.Seq, State: state, Machine: "m1"})
	})
	if _, err := host.Identify(t.Context(), guestlink.Identity{Machine: "m1"}); err != nil {
		t.Fatal(err)
	}
	want := []string{guestlink.OpIdentify, guestlink.OpPing, guestlink.OpPing, guestlink.OpPing}
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestHostRefusesAMachineWithAnotherIdentity(t *testing.T) {
	t.Parallel()
	for name, res := range map[string]guestlink.Response{
		"it says so":                  {State: guestlink.StateReady, Machine: "other", Error: "this machine is other already"},
		"it answers as somebody else": {State: guestlink.StateReady, Machine: "other"},
		"it is still waiting":         {State: guestlink.StateWaiting},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := script(t, func(_ int, req guestlink.Request) string {
				res := res
				res.Seq = req.Seq
				return answer(res)
			})
			_, err := host.Identify(t.Context(), guestlink.Identity{Machine: "m1"})
			if !errors.Is(err, guestlink.ErrRefused) {
				t.Errorf("got %v, want ErrRefused", err)
			}
		})
	}
}

func TestHostSendsFreshEntropyAndItsClockWithEachWake(t *testing.T) {
	t.Parallel()
	var seen []guestlink.Request
	host := script(t, func(_ int, req guestlink.Request) string {
		seen = append(seen, req)
		return answer(guestlink.Response{Seq: req.Seq, State: guestlink.StateReady})
	})
	before := time.Now()
	for range 2 {
		if _, err := host.Wake(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, req := range seen {
		if len(req.Entropy) != 64 {
			t.Errorf("%d bytes of entropy, want 64", len(req.Entropy))
		}
		if req.Now.Before(before.Add(-time.Second)) || req.Now.After(time.Now().Add(time.Second)) {
			t.Errorf("clock %v is not the host's", req.Now)
		}
	}
	if string(seen[0].Entropy) == string(seen[1].Entropy) || seen[0].Seq == seen[1].Seq {
		t.Error("two requests with the same entropy or number")
	}
}

func TestHostSpeaksWithGuest(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	handler := &handler{}
	guest := guestlink.NewGuest("v7", handler, slog.New(slog.DiscardHandler))
	handler.guest = guest
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- guest.Serve(ctx, theirs) }()
	t.Cleanup(func() {
		cancel()
		_ = theirs.Close()
		<-done
	})
	// A host that died in the middle of a message.
	go func() { _, _ = io.WriteString(ours, `{"seq":4,"op":"iden`) }()
	host := guestlink.NewHost(ours)
	defer host.Close()
	if res, err := host.Ping(t.Context()); err != nil || res.State != guestlink.StateWaiting {
		t.Fatalf("ping: %+v, %v", res, err)
	}
	for range 2 {
		res, err := host.Identify(t.Context(), guestlink.Identity{Machine: "m1", Hostname: "h"})
		if err != nil || res.State != guestlink.StateReady || res.Version != "v7" {
			t.Fatalf("identify: %+v, %v", res, err)
		}
	}
	if _, err := host.Identify(t.Context(), guestlink.Identity{Machine: "m2"}); !errors.Is(err, guestlink.ErrRefused) {
		t.Errorf("second identity: %v, want ErrRefused", err)
	}
	if _, err := host.Wake(t.Context()); err != nil {
		t.Errorf("wake: %v", err)
	}
}

func TestHostRefusesAMachineThatHasNotMountedItsDisks(t *testing.T) {
	t.Parallel()
	id := guestlink.Identity{Machine: "m1", Disks: []guestlink.Disk{{Serial: "disk-0", Folder: "/mnt/a"}, {Serial: "disk-1", Folder: "/mnt/b"}}}
	for mounted, want := range map[int]error{0: guestlink.ErrRefused, 1: guestlink.ErrRefused, 2: nil} {
		host := script(t, func(_ int, req guestlink.Request) string {
			return answer(guestlink.Response{Seq: req.Seq, State: guestlink.StateReady, Machine: "m1", Disks: mounted})
		})
		if _, err := host.Identify(t.Context(), id); !errors.Is(err, want) {
			t.Errorf("with %d of 2 disks: %v, want %v", mounted, err, want)
		}
	}
}

func TestFlushIsAnsweredWhenTheMachineHasFlushed(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	flushed := 0
	problem := errors.New("disk is gone")
	m := &machine{flush: func() error {
		if flushed++; flushed == 2 {
			return problem
		}
		return nil
	}}
	guest := guestlink.NewGuest("v7", m, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- guest.Serve(ctx, theirs) }()
	t.Cleanup(func() {
		cancel()
		_ = theirs.Close()
		<-done
	})
	host := guestlink.NewHost(ours)
	defer host.Close()
	if err := host.Flush(t.Context()); err != nil || flushed != 1 {
		t.Errorf("flush: %v, flushed %d times", err, flushed)
	}
	if err := host.Flush(t.Context()); !errors.Is(err, guestlink.ErrRefused) || !strings.Contains(err.Error(), problem.Error()) {
		t.Errorf("flush that fails: %v", err)
	}
}

// handler takes every identity at once.
type handler struct{ guest *guestlink.Guest }

func (*handler) Flush(context.Context) error { return nil }

func (h *handler) Identify(context.Context, guestlink.Request) error { h.guest.Ready(); return nil }

func (h *handler) Wake(_ context.Context, now time.Time, entropy []byte) error {
	if now.IsZero() || len(entropy) == 0 {
		return errors.New("no clock or no entropy")
	}
	return nil
}

func TestHostEndsWithItsContext(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		host := guestlink.NewHost(ours)
		go func() { _, _ = io.Copy(io.Discard, theirs) }() // listens and never answers
		cause := errors.New("nobody waits any more")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, cause)
		defer cancel()
		if _, err := host.Ping(ctx); !errors.Is(err, cause) {
			t.Errorf("got %v, want the cause of the context", err)
		}
		if _, err := host.Ping(ctx); !errors.Is(err, cause) {
			t.Errorf("second: got %v, want the cause of the context", err)
		}
		_ = host.Close()
		_ = theirs.Close()
	})
}

func TestHostReportsAChannelThatEnds(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	host := guestlink.NewHost(ours)
	go func() {
		_, _ = bufio.NewReader(theirs).ReadString('}')
		_ = theirs.Close()
	}()
	if _, err := host.Ping(t.Context()); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v, want the end of the channel", err)
	}
}

func TestHostBoundsMessages(t *testing.T) {
	t.Parallel()
	host := script(t, func(_ int, req guestlink.Request) string {
		return strings.Repeat("x", guestlink.MaxMessage+1) + "\n" + answer(guestlink.Response{Seq: req.Seq})
	})
	if _, err := host.Identify(t.Context(), guestlink.Identity{UserData: strings.Repeat("x", guestlink.MaxMessage)}); !errors.Is(err, guestlink.ErrTooLong) {
		t.Errorf("long request: %v, want ErrTooLong", err)
	}
	if _, err := host.Ping(t.Context()); !errors.Is(err, guestlink.ErrTooLong) {
		t.Errorf("long answer: %v, want ErrTooLong", err)
	}
}

// FuzzHost feeds a host whatever a broken or hostile guest may write: it never
// panics and only ever believes an answer with its own number.
func FuzzHost(f *testing.F) {
	f.Add([]byte("{\"seq\":1,\"state\":\"ready\"}\n"))
	f.Add([]byte("\n\n{}\nnull\n[]\n\"x\"\n"))
	f.Add([]byte("{\"seq\":-1}\n{\"seq\":1e30}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		host := guestlink.NewHost(ours)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = bufio.NewReader(theirs).ReadString('}')
			_, _ = theirs.Write(data)
			_ = theirs.Close()
		}()
		if res, err := host.Ping(t.Context()); err == nil && res.Seq == 0 {
			t.Errorf("believed %+v", res)
		}
		_ = host.Close()
		<-done
	})
}

package logservice

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"
)

// flushEvery is how often lines go to the live stream at most, and how long
// they wait for company.
const flushEvery = time.Second

// StreamOptions says who else has to do with a log. The zero value: nobody.
type StreamOptions struct {
	// SkipOpening leaves opening the stream and uploading the log to somebody
	// else.
	SkipOpening bool
	// SkipClosing leaves uploading the log and closing the stream to somebody
	// else.
	SkipClosing bool
}

// Stream is one log on its way to the service. It is safe for concurrent use.
type Stream struct {
	client *Client
	key    string
	opts   StreamOptions
	log    *slog.Logger
	cancel context.CancelFunc

	ready  chan struct{} // has one element if there may be lines to send
	ending chan struct{} // closed when nothing will be added
	done   chan struct{} // closed when everything was sent or given up

	mu      sync.Mutex
	history history
	held    []byte // of a line whose newline has not come
	ended   bool
}

var _ io.Writer = (*Stream)(nil)

// Stream begins the log named key, which ctx only gives values: [Stream.End]
// ends it, and [Client.Close] breaks it off.
func (c *Client) Stream(ctx context.Context, key string, o StreamOptions) *Stream {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Stream{
		client: c, key: key, opts: o, log: c.log.With("log_key", key), cancel: cancel,
		ready: make(chan struct{}, 1), ending: make(chan struct{}), done: make(chan struct{}),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		cancel()
		s.ended = true
		close(s.done)
		return s
	}
	c.streams[s] = struct{}{}
	c.ended.Go(func() {
		defer c.forget(s)
		defer close(s.done)
		s.run(ctx)
	})
	return s
}

func (c *Client) forget(s *Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, s)
	s.cancel()
}

// Write adds text, cut anywhere. It never fails and never waits for the
// service. What comes after End is dropped.
func (s *Stream) Write(p []byte) (int, error) {
	all := len(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return all, nil
	}
	now := stamp(time.Now())
	before := s.history.count
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.hold(p)
			break
		}
		line := p[:i]
		if len(s.held) > 0 {
			s.hold(line)
			line = s.held
		}
		s.addLocked(line, !s.client.cfg.TrimNewline, now)
		s.held = s.held[:0]
		p = p[i+1:]
	}
	if s.history.count > before {
		s.wake()
	}
	return all, nil
}

// hold keeps the beginning of a line, up to what will be shown of it and one
// byte, which tells that there was more.
func (s *Stream) hold(p []byte) {
	s.held = append(s.held, p[:min(len(p), maxLine+1-len(s.held))]...)
}

func (s *Stream) addLocked(text []byte, newline bool, stamp []byte) {
	if len(text) > maxLine {
		text = cutText(text)
	}
	s.history.add(text, newline, stamp)
}

func (s *Stream) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// End says that nothing follows. What was written without a newline becomes
// the last line. A second call does nothing.
func (s *Stream) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	if len(s.held) > 0 {
		s.addLocked(s.held, false, stamp(time.Now()))
		s.held = nil
	}
	close(s.ending)
}

// Done is closed when the whole log is with the service, or was given up. That
// takes until [Stream.End], and then at most some two minutes.
func (s *Stream) Done() <-chan struct{} { return s.done }

// run is the life of a log.
func (s *Stream) run(ctx context.Context) {
	live := s.opts.SkipOpening || s.open(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.ending:
			s.finish(ctx, live)
			return
		case <-s.ready:
		}
		select {
		case <-ctx.Done():
			return
		case <-s.ending:
		case <-time.After(flushEvery):
		}
		s.flush(ctx, live)
	}
}

func (s *Stream) open(ctx context.Context) bool {
	_, err := s.client.call(ctx, opOpen, s.key, nil)
	s.report(ctx, err, "log cannot be shown live")
	return err == nil
}

// finish sends what is left and closes the log.
func (s *Stream) finish(ctx context.Context, live bool) {
	s.flush(ctx, live)
	leave := opClose
	switch {
	case s.opts.SkipClosing:
		return
	case s.opts.SkipOpening:
		leave = opLeave
	default:
		s.mu.Lock()
		blob := s.history.blob(time.Now()) // nothing is added any more
		s.mu.Unlock()
		s.report(ctx, s.client.upload(ctx, s.key, blob), "log is not kept")
	}
	_, err := s.client.call(ctx, leave, s.key, nil)
	s.report(ctx, err, "log stays open")
}

// flush sends new lines to the live stream, if there is one, with one try.
func (s *Stream) flush(ctx context.Context, live bool) {
	s.mu.Lock()
	b := s.history.take()
	last := s.history.count - 1
	s.mu.Unlock()
	if b.count == 0 {
		return
	}
	s.echo(b.lines)
	if !live {
		return
	}
	_, err := s.client.call(ctx, opWrite, s.key, b.array(time.Now()))
	s.report(ctx, err, "lines are not shown live")
	if err != nil {
		s.mu.Lock()
		s.history.missed(b, last)
		s.mu.Unlock()
	}
}

// echo writes lines to where the configuration wants them too.
func (s *Stream) echo(lines []byte) {
	out := s.client.cfg.Echo
	if out == nil {
		return
	}
	name := append(appendText([]byte(`{"log_key":`), []byte(s.key), false), ',')
	text := make([]byte, 0, len(lines)+bytes.Count(lines, []byte{'\n'})*len(name))
	for line := range bytes.Lines(lines) {
		text = append(append(text, name...), line[1:]...)
	}
	if _, err := out.Write(text); err != nil {
		s.log.Debug("lines cannot be echoed", "err", err)
	}
}

// report tells of a failure once, until something succeeds: a service that is
// gone would fill the log with every second of it.
func (s *Stream) report(ctx context.Context, err error, what string) {
	if err != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return // broken off by us
	}
	failed := s.client.failing.Swap(err != nil)
	switch {
	case err != nil && !failed:
		s.log.Warn("log service has failed", "what", what, "err", err)
	case err != nil:
		s.log.Debug("log service fails still", "what", what, "err", err)
	case failed:
		s.log.Info("log service takes logs again")
	}
}

package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Container is one step's, from its start to its end. [Container.Wait] or
// [Container.GiveUp] must be called, once; [Container.Stop] may be, meanwhile
// and more than once.
type Container struct {
	engine *Engine
	id     string
	step   *Step
	out    *beginning // the step's output

	ended    chan struct{} // closed when the container is known to have ended
	endOnce  sync.Once
	finished time.Time     // when, by the daemon's clock; set before ended is closed
	lost     atomic.Bool   // the daemon was away meanwhile
	streamed chan struct{} // closed when nothing more comes into the output
	stop     context.CancelFunc

	mu   sync.Mutex
	conn *hijacked // nil: not attached
}

// Result is how a container has ended.
type Result struct {
	Code int
	// OOMKilled says that it had too little memory, by the daemon or the kernel.
	OOMKilled bool
}

// How a container's end and output are waited for.
const (
	// streamGrace is how long an output that has ended may be ahead of the
	// daemon's word that the container has.
	streamGrace = 250 * time.Millisecond
	// drainTime is how long the output of an ended container may take.
	drainTime = 10 * time.Second
	// daemonPatience is how long a daemon may be away while a container runs: it
	// is restarted with its containers alive in seconds.
	daemonPatience = time.Minute
	// daemonPause is the time between two tries to reach it.
	daemonPause = 500 * time.Millisecond
	// pulse is the time between two questions whether it still answers, and
	// pulseMisses how many of them may be without answer.
	pulse       = 30 * time.Second
	pulseMisses = 3
)

// attach opens the container's output before it is started, so that none of it
// is missed, and begins to copy it. Where that fails it is read from the daemon's
// own copy.
func (c *Container) attach(ctx context.Context) {
	streaming, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	asking, cancel := bound(ctx, "attach to container", askTime)
	defer cancel()
	conn, err := c.engine.api.attachContainer(asking, c.id)
	if err == nil {
		c.conn = conn
	} else {
		c.engine.conf.Log.DebugContext(ctx, "cannot attach, reading the log instead", "step", c.step.Request.ID, "err", err)
	}
	go c.stream(streaming, c.conn)
}

// stream copies the output until it ends. A stream that breaks, or ends before
// the container, is gone on with from the daemon's own copy.
func (c *Container) stream(ctx context.Context, conn *hijacked) {
	defer close(c.streamed)
	var have received
	if conn != nil {
		var err error
		have, err = c.copyOutput(conn.Reader, have)
		if err == nil {
			end := time.Now()
			select {
			case <-c.ended:
				if !c.lost.Load() && !c.finished.After(end) {
					return
				}
			case <-ctx.Done():
				return
			case <-time.After(streamGrace):
			}
		}
	}
	for ctx.Err() == nil {
		logs, err := c.engine.api.containerLogs(ctx, c.id)
		if err == nil {
			have, err = c.copyOutput(logs, have)
			_ = logs.Close() // only read from
		}
		if err == nil || hasStatus(err, http.StatusNotFound) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(daemonPause):
		}
	}
}

func (c *Container) copyOutput(r io.Reader, have received) (received, error) {
	if c.step.Setup.TTY {
		return copyPlain(c.out, r, have)
	}
	return copyFrames(c.out, r, have)
}

// closeConn ends the attached stream, if there is one.
func (c *Container) closeConn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close() // its reader sees it
		c.conn = nil
	}
}

// Wait returns when the container has ended and all it printed is in the output,
// or with the cause of ctx. A daemon that goes away is waited for, but not for
// ever. The container stays until its stage ends.
func (c *Container) Wait(ctx context.Context) (Result, error) {
	defer c.release()
	code, err := c.awaitEnd(ctx)
	if err != nil {
		return Result{}, err
	}
	res, err := c.inspect(ctx, code)
	c.endOnce.Do(func() { close(c.ended) })
	if err != nil {
		return Result{}, err
	}
	c.drain(ctx)
	if res.Code != 0 && strings.Contains(c.out.String(), execFormat) {
		c.step.Out.Note(archRemedy)
	}
	return res, nil
}

// release ends what still copies.
func (c *Container) release() {
	c.endOnce.Do(func() { close(c.ended) })
	if c.stop == nil {
		return // never attached
	}
	c.stop()
	c.closeConn()
	<-c.streamed
}

// drain waits for the rest of the output: first from the open stream, and if
// that does not end, from the daemon's own copy.
func (c *Container) drain(ctx context.Context) {
	for range 2 {
		timeout := time.NewTimer(drainTime)
		select {
		case <-c.streamed:
			timeout.Stop()
			return
		case <-ctx.Done():
			timeout.Stop()
			return
		case <-timeout.C:
			c.closeConn()
		}
	}
	c.step.Out.Note("the last part of the output may be missing: the Docker daemon does not end the stream")
}

// exit is a daemon's word on a container that has ended.
type exit struct {
	code int
	err  error
}

// awaitEnd returns the container's exit code.
func (c *Container) awaitEnd(ctx context.Context) (int, error) {
	var away time.Time // since when the daemon does not answer
	for {
		got := c.awaitOnce(ctx)
		if got.err == nil {
			return got.code, nil
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if hasStatus(got.err, http.StatusNotFound) {
			return 0, fmt.Errorf("somebody removed the container of the running step: %w", got.err)
		}
		c.lost.Store(true)
		var slow *slowError
		now := time.Now()
		switch {
		case away.IsZero():
			away = now
			c.step.Out.Note(fmt.Sprintf("lost the Docker daemon, waiting for it: %v", got.err))
		case now.Sub(away) > daemonPatience:
			return 0, got.err
		}
		if errors.As(got.err, &slow) {
			return 0, got.err // was waited for long enough
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(daemonPause):
		}
		if err := c.engine.ping(ctx); err == nil {
			away = time.Time{}
		}
	}
}

// awaitOnce asks the daemon once to say when the container has ended, and now
// and then whether it is still there.
func (c *Container) awaitOnce(ctx context.Context) exit {
	ctx, cancel := context.WithCancel(ctx)
	got := make(chan exit, 1)
	var asked sync.WaitGroup
	asked.Go(func() {
		code, err := c.engine.api.waitContainer(ctx, c.id)
		got <- exit{code: code, err: c.engine.said(ctx, err)}
	})
	defer asked.Wait()
	defer cancel()
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	for misses := 0; ; {
		select {
		case e := <-got:
			return e
		case <-tick.C:
			err := c.engine.ping(ctx)
			if err == nil {
				misses = 0
				continue
			}
			if misses++; misses >= pulseMisses {
				return exit{err: err}
			}
		}
	}
}

// ping asks the daemon whether it is there.
func (e *Engine) ping(ctx context.Context) error { return e.pingWithin(ctx, askTime) }

// inspect reads how the container ended. If it cannot be looked at any more, the
// code it was said to have counts.
func (c *Container) inspect(ctx context.Context, code int) (Result, error) {
	res, err := ask(ctx, c.engine, "look at container", askTime, func(ctx context.Context) (inspected, error) {
		return c.engine.api.inspectContainer(ctx, c.id)
	})
	if hasStatus(err, http.StatusNotFound) || err == nil && res.State == nil {
		return Result{Code: code}, nil
	}
	if err != nil {
		return Result{}, fmt.Errorf("how the container ended: %w", err)
	}
	st := res.State
	c.finished = st.FinishedAt
	if st.Error != "" {
		c.step.Out.Note("the Docker daemon says: " + st.Error)
	}
	return Result{Code: st.ExitCode, OOMKilled: st.OOMKilled || st.ExitCode == sigkilled && oomKilled(c.id)}, nil
}

// softStopTime is what a container that is stopped softly has to end.
const softStopTime = 30 * time.Second

// StopSoftly asks the container to end, as docker stop does, and kills it when
// it has not within half a minute.
func (c *Container) StopSoftly(ctx context.Context) error {
	seconds := int(softStopTime / time.Second)
	err := c.engine.tell(ctx, "stop container", softStopTime+removeTime, func(ctx context.Context) error {
		return c.engine.api.stopContainer(ctx, c.id, seconds)
	})
	if err != nil && !isStopped(err) {
		return fmt.Errorf("stop container: %w", err)
	}
	return nil
}

// Stop asks the container to end and kills it when it has not within grace. It
// returns when the container has ended, which Wait, running meanwhile, sees.
func (c *Container) Stop(ctx context.Context, grace time.Duration) error {
	for _, step := range []struct {
		signal string
		wait   time.Duration
	}{{"SIGTERM", grace}, {"SIGKILL", removeTime}} {
		err := c.engine.tell(ctx, "signal container", askTime, func(ctx context.Context) error {
			return c.engine.api.killContainer(ctx, c.id, step.signal)
		})
		if err != nil && !isStopped(err) {
			return fmt.Errorf("end container: %w", err)
		}
		timeout := time.NewTimer(step.wait)
		select {
		case <-c.ended:
			timeout.Stop()
			return nil
		case <-ctx.Done():
			timeout.Stop()
			return context.Cause(ctx)
		case <-timeout.C:
		}
	}
	return errors.New("end container: it is still there after KILL")
}

// GiveUp removes the container, running or not, and what it printed is copied no
// more. It is for who does not wait.
func (c *Container) GiveUp(ctx context.Context) error {
	err := c.remove(ctx)
	c.release()
	return err
}

// remove removes the container, also when ctx has ended.
func (c *Container) remove(ctx context.Context) error {
	ctx, cancel := lasting(ctx, "remove container", removeTime)
	defer cancel()
	return c.engine.removeContainer(ctx, c.id)
}

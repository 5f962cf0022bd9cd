package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// readerTimeout is how long a reader of a log may take for one piece of it.
const readerTimeout = 30 * time.Second

// v1Log streams a step's output from an offset on, as it was printed. The
// trailer says where to read on; a log that breaks off has none, and its
// reader goes on from what it has.
func (s *Server) v1Log(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r)
	lease, step := q.path("id"), q.path("step")
	offset, follow := q.number("offset"), q.bool("follow")
	if err := q.done(); err != nil {
		return err
	}
	// A stop ends what is followed; its reader asks again somewhere else.
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	unwatch := watch(s.stopping, func() {
		if follow {
			cancel(errStopping)
		}
	})
	defer unwatch()

	out := &logOutput{w: w, rc: http.NewResponseController(w)}
	next, err := s.await(ctx).StepOutput(ctx, lease, step, offset, follow, out)
	if err != nil && errors.Is(context.Cause(ctx), errStopping) {
		err = errStopping
	}
	if err != nil && !out.begun {
		return err
	}
	if err != nil {
		callOf(r.Context()).err = err
		panic(http.ErrAbortHandler) // the cut tells the reader that this was not all
	}
	out.begin()
	w.Header().Set(api.NextOffsetTrailer, strconv.FormatInt(next, 10))
	return nil
}

// watch calls f when c is closed, unless what it returned was called before;
// that waits for f.
func watch(c <-chan struct{}, f func()) func() {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-c:
			f()
		case <-stop:
		}
	}()
	return func() {
		close(stop)
		<-done
	}
}

// logOutput writes through to the reader at once.
type logOutput struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	begun bool
}

func (o *logOutput) begin() {
	if o.begun {
		return
	}
	o.begun = true
	h := o.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Trailer", api.NextOffsetTrailer)
	o.w.WriteHeader(http.StatusOK)
}

func (o *logOutput) Write(p []byte) (int, error) {
	o.begin()
	// A recorder without deadlines, in tests, has no stalled reader either.
	_ = o.rc.SetWriteDeadline(time.Now().Add(readerTimeout))
	n, err := o.w.Write(p)
	if err != nil {
		return n, err
	}
	if err := o.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return n, err
	}
	return n, nil
}

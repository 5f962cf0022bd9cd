package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// errStopping is why requests are cut off when the time for a clean stop is up.
var errStopping = errors.New("the runner is stopping; ask again with the same id")

// errKept is an order that needs a further word: coming again does not help.
var errKept = &pool.KeptError{}

// status says how one kind of failure looks from outside.
type status struct {
	err error
	// code and v1 are for /v1; retry is when asking again may help.
	code  string
	v1    int
	retry time.Duration
	// step is for /step. Every other route of the delegate API says 500.
	step int
}

// statuses is the one table from sentinel to status; the first match counts.
// Callers of the delegate API take every non-2xx as a failure and are known to
// expect 500, so only /step of an unknown stage is more exact.
var statuses = []status{
	{err: ErrStarting, code: "starting", v1: http.StatusServiceUnavailable, retry: time.Second, step: http.StatusInternalServerError},
	{err: errStopping, code: "stopping", v1: http.StatusServiceUnavailable, retry: 5 * time.Second, step: http.StatusInternalServerError},
	{err: pool.ErrUnavailable, code: "store_unavailable", v1: http.StatusServiceUnavailable, retry: 5 * time.Second, step: http.StatusInternalServerError},
	{err: pool.ErrLost, code: "machine_lost", v1: http.StatusGone, step: http.StatusInternalServerError},
	{err: pool.ErrForeign, code: "foreign_machine", v1: http.StatusForbidden, step: http.StatusInternalServerError},
	{err: pool.ErrNotFound, code: "not_found", v1: http.StatusNotFound, step: http.StatusNotFound},
	{err: errKept, code: "kept", v1: http.StatusConflict, step: http.StatusInternalServerError},
	{err: pool.ErrConflict, code: "conflict", v1: http.StatusConflict, retry: time.Second, step: http.StatusInternalServerError},
	{err: pool.ErrLimit, code: "limit_reached", v1: http.StatusTooManyRequests, retry: 2 * time.Second, step: http.StatusInternalServerError},
	{err: pool.ErrClosed, code: "pool_closed", v1: http.StatusServiceUnavailable, retry: 30 * time.Second, step: http.StatusInternalServerError},
	{err: pool.ErrRetired, code: "pool_retired", v1: http.StatusConflict, step: http.StatusInternalServerError},
	{err: pool.ErrHeld, code: "held_elsewhere", v1: http.StatusServiceUnavailable, retry: time.Second, step: http.StatusInternalServerError},
	{err: pool.ErrDestroyedFirst, code: "destroyed_first", v1: http.StatusConflict, step: http.StatusInternalServerError},
	{err: pool.ErrDisk, code: "disk_in_use", v1: http.StatusConflict, step: http.StatusInternalServerError},
	{err: pool.ErrNotYet, code: "not_built_in_yet", v1: http.StatusNotImplemented, step: http.StatusInternalServerError},
	{err: pool.ErrInvalid, code: "invalid_request", v1: http.StatusBadRequest, step: http.StatusInternalServerError},
	{err: context.DeadlineExceeded, code: "timeout", v1: http.StatusGatewayTimeout, retry: time.Second, step: http.StatusInternalServerError},
	{err: context.Canceled, code: "cancelled", v1: http.StatusServiceUnavailable, step: http.StatusInternalServerError},
}

// statusOf finds the row for err; false means that nobody foresaw it.
func statusOf(err error) (status, bool) {
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s, true
		}
	}
	return status{}, false
}

// requestError is a failure of the request itself, found by this package.
type requestError struct {
	// status is the answer's; bare asks for the shape without a code.
	status int
	bare   bool
	text   string
}

func (e *requestError) Error() string { return e.text }

// badRequest is a 400 for a request that was understood and is wrong.
func badRequest(format string, a ...any) error {
	return &requestError{status: http.StatusBadRequest, text: fmt.Sprintf(format, a...)}
}

// undecodable is a 400 for a body that could not be read as what it should be.
func undecodable(err error) error {
	return &requestError{status: http.StatusBadRequest, bare: true, text: err.Error()}
}

// provisionError is why a setup failed, in the words callers know.
type provisionError struct{ err error }

func (e *provisionError) Error() string {
	return "could not provision a VM from the pool: " + e.err.Error()
}

func (e *provisionError) Unwrap() error { return e.err }

// delegateError is the status and body of a failure on a delegate route.
func delegateError(route string, err error) (code int, body api.Error, bare bool) {
	body.Message = oneLine(err.Error())
	if re, ok := errors.AsType[*requestError](err); ok {
		if !re.bare {
			body.Code = re.status
		}
		return re.status, body, re.bare
	}
	code = http.StatusInternalServerError
	if s, ok := statusOf(err); ok && route == api.PathStep {
		code = s.step
	}
	body.Code = code
	return code, body, false
}

// v1Error is the status and body of a failure under /v1. What nobody foresaw
// is told in the log only.
func v1Error(request string, err error) (int, api.ErrorBody) {
	detail := api.ErrorDetail{Message: oneLine(err.Error())}
	if re, ok := errors.AsType[*requestError](err); ok {
		detail.Code = strings.ReplaceAll(strings.ToLower(http.StatusText(re.status)), " ", "_")
		return re.status, api.ErrorBody{Error: detail}
	}
	s, ok := statusOf(err)
	if !ok {
		detail.Code = "internal"
		detail.Message = "internal error; the runner's log has it under request " + request
		return http.StatusInternalServerError, api.ErrorBody{Error: detail}
	}
	detail.Code = s.code
	detail.RetryAfterMS = s.retry.Milliseconds()
	return s.v1, api.ErrorBody{Error: detail}
}

// oneLine keeps a message readable where a cloud or an agent answered with
// several lines.
func oneLine(text string) string {
	if !strings.ContainsAny(text, "\r\n") {
		return text
	}
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}

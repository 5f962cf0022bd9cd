package server

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// bodyTimeout is how long a caller may take to send a body of at most 32 MiB.
// Once it is read, a request has no deadline of ours.
const bodyTimeout = time.Minute

// decode reads a delegate's body as its callers expect: keys in any case,
// unknown ones dropped, the first JSON value counts and what follows it is
// ignored, null is an empty object. Nothing undoes a Content-Encoding.
func decode[T any](s *Server, w http.ResponseWriter, r *http.Request) (T, error) {
	var v T
	tooLarge := func() error {
		w.Header().Set("Connection", "close") // the rest is not worth reading
		return &requestError{
			status: http.StatusRequestEntityTooLarge, bare: true,
			text: "the request body is larger than 32 MiB",
		}
	}
	if r.ContentLength > api.MaxBody {
		return v, tooLarge()
	}
	// A recorder without deadlines, in tests, reads without. The deadline goes
	// only with the last byte: after an answer net/http reads what is left of
	// a body, and must not wait for it longer than we would.
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(s.bodyTimeout))

	body := http.MaxBytesReader(w, r.Body, api.MaxBody)
	err := json.NewDecoder(body).Decode(&v)
	if err == nil {
		// Only a body read to its end lets the server see a caller hang up.
		_, err = io.Copy(io.Discard, body)
		if _, big := errors.AsType[*http.MaxBytesError](err); big {
			return v, tooLarge()
		}
		if err != nil {
			w.Header().Set("Connection", "close")
			return v, nil
		}
		_ = rc.SetReadDeadline(time.Time{})
		return v, nil
	}
	if _, big := errors.AsType[*http.MaxBytesError](err); big {
		return v, tooLarge()
	}
	return v, undecodable(err)
}

package agent

import (
	"net/http"
	"runtime/debug"
)

// Recovered keeps the process alive when a request panics: tell is told of it,
// and answer answers, unless the answer has begun already, which is cut off.
func Recovered(next http.Handler, tell func(r *http.Request, p any, stack []byte), answer http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tracked := &trackedWriter{ResponseWriter: w}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			tell(r, p, debug.Stack())
			if tracked.begun {
				panic(http.ErrAbortHandler)
			}
			answer(w, r)
		}()
		next.ServeHTTP(tracked, r)
	})
}

// trackedWriter knows whether an answer has begun.
type trackedWriter struct {
	http.ResponseWriter
	begun bool
}

func (t *trackedWriter) WriteHeader(code int) {
	t.begun = true
	t.ResponseWriter.WriteHeader(code)
}

func (t *trackedWriter) Write(p []byte) (int, error) {
	t.begun = true
	return t.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the flusher.
func (t *trackedWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }

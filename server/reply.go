package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// answerTimeout is how long a caller may take to read an answer that is there.
const answerTimeout = 5 * time.Minute

// replyJSON answers with v as compact JSON and a newline.
func replyJSON(w http.ResponseWriter, status int, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	send(w, status, "application/json; charset=utf-8", b.Bytes())
	return nil
}

// replyRaw answers with an agent's JSON, compact, its fields as they are.
func replyRaw(w http.ResponseWriter, raw json.RawMessage) error {
	var b bytes.Buffer
	if len(bytes.TrimSpace(raw)) == 0 {
		raw = json.RawMessage(`{}`)
	}
	if err := json.Compact(&b, raw); err != nil {
		return fmt.Errorf("the agent's answer is not JSON: %w", err)
	}
	b.WriteByte('\n')
	send(w, http.StatusOK, "application/json; charset=utf-8", b.Bytes())
	return nil
}

// replyError answers in one of the delegate API's two error shapes.
func replyError(w http.ResponseWriter, route string, err error) int {
	status, body, bare := delegateError(route, err)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	contentType := "application/json; charset=utf-8"
	if !bare {
		e.SetIndent("", "  ")
		contentType = "application/json"
		h := w.Header()
		h.Set("Cache-Control", "no-cache, private, max-age=0")
		h.Set("Expires", "Thu, 01 Jan 1970 00:00:00 UTC")
		h.Set("Pragma", "no-cache")
		h.Set("X-Accel-Expires", "0")
	}
	_ = e.Encode(body) // two plain fields cannot fail
	send(w, status, contentType, b.Bytes())
	return status
}

// send writes an answer. That its reader has gone is seen in the access log.
func send(w http.ResponseWriter, status int, contentType string, body []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

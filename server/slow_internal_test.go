package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// stepService has steps only.
type stepService struct {
	pool.Service
	step func(context.Context) (json.RawMessage, error)
}

func (s stepService) Step(ctx context.Context, _ pool.StepRequest) (json.RawMessage, error) {
	return s.step(ctx)
}

// TestASlowBodyIsCutAndASlowAnswerIsNot: the deadline of a body ends with it.
func TestASlowBodyIsCutAndASlowAnswerIsNot(t *testing.T) {
	t.Parallel()
	const patience = 300 * time.Millisecond
	s := New(Config{Service: stepService{Service: Starting(), step: func(ctx context.Context) (json.RawMessage, error) {
		select {
		case <-time.After(3 * patience):
			return json.RawMessage(`{"exited":true}`), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}}})
	s.bodyTimeout = patience
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, nil) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	const body = `{"stage_runtime_id":"st1","start_step_request":{"id":"s1"}}`
	for _, tc := range []struct {
		name, path, sent string
		status           int
		want             string
	}{
		{"half a body to nowhere", "/nowhere", body[:20], http.StatusNotFound, "404 page not found"},
		{"half a body", "/step", body[:20], http.StatusBadRequest, "i/o timeout"},
		{"a whole body and a slow step", "/step", body, http.StatusOK, `{"exited":true}`},
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", tc.path, len(body), tc.sent)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		conn.Close()
		if resp.StatusCode != tc.status || !strings.Contains(string(got), tc.want) {
			t.Errorf("%s: %d %s, want %d with %s", tc.name, resp.StatusCode, got, tc.status, tc.want)
		}
	}
}

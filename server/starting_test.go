package server_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
	"github.com/vm-runner/drone-runner-aws/server"
)

// early are requests that need the engine, one of each kind.
var early = []string{"POST /setup", "POST /step", "POST /destroy", "POST /suspend", "POST /pool_owner?pool=linux", "GET /v1/pools", "GET /v1/leases/x/steps/y/log"}

// ask makes the request and sends the answer when it is there.
func ask(ctx context.Context, s *server.Server, target string) <-chan *httptest.ResponseRecorder {
	method, path, _ := strings.Cut(target, " ")
	body := ""
	if method == http.MethodPost {
		body = `{"id":"x","pool_id":"linux","stage_runtime_id":"x","ip_address":"1","instance_info":{"id":"i"}}`
	}
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:1234"
	answer := make(chan *httptest.ResponseRecorder, 1)
	go func() {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		answer <- w
	}()
	return answer
}

func TestEarlyRequestsWaitForTheEngine(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		s := newServer(t, server.Config{Service: server.Starting("the store")})
		answers := map[string]<-chan *httptest.ResponseRecorder{}
		for _, target := range early {
			answers[target] = ask(t.Context(), s, target)
		}
		begun := time.Now()
		for _, target := range []string{"GET /healthz", "GET /readyz", "GET /metrics", "GET /v1/version"} {
			<-ask(t.Context(), s, target)
		}
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("probes waited %s", waited)
		}
		// A start that goes on step by step is still a start.
		s.SetService(server.Starting("drivers"), nil)
		synctest.Wait()
		for target, answer := range answers {
			select {
			case w := <-answer:
				t.Errorf("%s was answered before there was an engine: %s", target, w.Body)
			default:
			}
		}
		s.SetService(delegateFake(), testPools)
		for target, answer := range answers {
			if w := <-answer; strings.Contains(w.Body.String(), "starting") {
				t.Errorf("%s: %s", target, w.Body)
			}
		}
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("requests went on waiting for %s once the engine was there", waited)
		}
	})
}

func TestEarlyRequestsFailWhenTheirTimeIsUp(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		var log bytes.Buffer
		s := newServer(t, server.Config{Service: server.Starting("the store"), Log: slog.New(slog.NewTextHandler(&log, nil))})
		begun := time.Now()
		answers := map[string]<-chan *httptest.ResponseRecorder{}
		for _, target := range early {
			answers[target] = ask(t.Context(), s, target)
		}
		for target, answer := range answers {
			if w := <-answer; w.Code < 500 || !strings.Contains(w.Body.String(), "waiting for the store") {
				t.Errorf("%s: %d %s", target, w.Code, w.Body)
			}
		}
		if waited := time.Since(begun); waited != server.DefaultStartWait {
			t.Errorf("they waited %s, want %s", waited, server.DefaultStartWait)
		}
		if said := log.String(); strings.Contains(said, "level=ERROR") || !strings.Contains(said, "path=/setup") || strings.Contains(said, "/v1/") {
			t.Errorf("what is no failure is logged as one, or not at all:\n%s", said)
		}
	})
}

func TestEarlyCallersMayHangUp(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		s := newServer(t, server.Config{Service: server.Starting("the store")})
		ctx, hangUp := context.WithCancel(t.Context())
		begun := time.Now()
		answer := ask(ctx, s, "POST /setup")
		synctest.Wait()
		hangUp()
		<-answer
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("the request lived on for %s", waited)
		}
	})
}

package server_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice/logservicetest"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

// serviceSink is a sink that is closed with the test, and the one behind it.
func serviceSink(t *testing.T) (*server.ServiceSink, *sink) {
	t.Helper()
	other := &sink{}
	s := server.NewServiceSink(slog.New(slog.NewTextHandler(t.Output(), nil)), other)
	t.Cleanup(func() { s.Close(context.WithoutCancel(t.Context())) })
	return s, other
}

// setupBody is a setup whose lines go to a log service.
func setupBody(t *testing.T, key string, conf agentapi.LogConfig) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"id": "st1", "pool_id": "linux", "log_key": key, "setup_request": agentapi.SetupRequest{LogConfig: conf}})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestProgressGoesToTheLogServiceOfTheRequest(t *testing.T) {
	t.Parallel()
	service, address := logservicetest.Start(t, "acc", "LOGTOKEN")
	conf := agentapi.LogConfig{URL: address, AccountID: "acc", Token: "LOGTOKEN"}
	for _, tc := range []struct {
		key    string
		change func(*agentapi.LogConfig)
		want   []logservicetest.Op
	}{
		{"whole", func(*agentapi.LogConfig) {}, []logservicetest.Op{logservicetest.Open, logservicetest.Write, logservicetest.Link, logservicetest.Put, logservicetest.Close}},
		{"indirect", func(c *agentapi.LogConfig) { c.IndirectUpload = true }, []logservicetest.Op{logservicetest.Open, logservicetest.Write, logservicetest.Upload, logservicetest.Close}},
		{"opened", func(c *agentapi.LogConfig) { c.SkipOpeningStream = true }, []logservicetest.Op{logservicetest.Write, logservicetest.Close}},
		{"left open", func(c *agentapi.LogConfig) { c.SkipClosingStream = true }, []logservicetest.Op{logservicetest.Open, logservicetest.Write}},
	} {
		t.Run(tc.key, func(t *testing.T) {
			t.Parallel()
			out, other := serviceSink(t)
			conf := conf
			tc.change(&conf)
			if conf.SkipOpeningStream {
				service.OpenElsewhere(tc.key)
			}
			s := newServer(t, server.Config{Progress: out, Service: delegateFake()})
			exchange(t, s.Handler(), "POST", "/setup", setupBody(t, tc.key, conf))
			out.Close(t.Context())
			if got := service.Ops(tc.key); len(got) != len(tc.want) || strings.Join(text(got), " ") != strings.Join(text(tc.want), " ") {
				t.Errorf("calls %v, want %v", got, tc.want)
			}
			if got := service.Log(tc.key).Live(); !strings.HasPrefix(got, "\x1b[33mRequested machine:\x1b[0m\nMachine Size: \nOS: ") {
				t.Errorf("lines %q", got)
			}
			if len(other.lines) > 0 {
				t.Errorf("the lines went elsewhere too: %q", other.lines)
			}
		})
	}
}

func text(ops []logservicetest.Op) []string {
	var names []string
	for _, o := range ops {
		names = append(names, string(o))
	}
	return names
}

func TestProgressWithoutALogServiceGoesToTheOtherSink(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no service":                 `{"id":"st1","pool_id":"linux","log_key":"k"}`,
		"no key":                     setupBody(t, "", agentapi.LogConfig{URL: "http://logs.test"}),
		"an address that is none":    setupBody(t, "k", agentapi.LogConfig{URL: "logs.test"}),
		"a certificate that is none": `{"id":"st1","pool_id":"linux","log_key":"k","setup_request":{"log_config":{"url":"http://logs.test"},"mtls_config":{"client_cert":"%"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, other := serviceSink(t)
			s := newServer(t, server.Config{Progress: out, Service: delegateFake()})
			exchange(t, s.Handler(), "POST", "/setup", body)
			if len(other.lines) == 0 || other.closed != 1 {
				t.Errorf("lines %q, closed %d times", other.lines, other.closed)
			}
		})
	}
}

// TestASetupWaitsForNoLogService: its service takes no connection's request.
func TestASetupWaitsForNoLogService(t *testing.T) {
	t.Parallel()
	service, address := logservicetest.Start(t, "acc", "T")
	service.Fail(logservicetest.Open, logservicetest.Fault{Hang: true})
	out, _ := serviceSink(t)
	s := newServer(t, server.Config{Progress: out, Service: &fake{
		setup: func(context.Context, pool.SetupRequest) (pool.SetupResult, error) {
			return pool.SetupResult{Instance: machine()}, nil
		},
	}})
	began := time.Now()
	exchange(t, s.Handler(), "POST", "/setup", setupBody(t, "k", agentapi.LogConfig{URL: address, AccountID: "acc", Token: "T"}))
	over, cancel := context.WithCancel(t.Context())
	cancel()
	out.Close(over)
	if took := time.Since(began); took > 9*time.Second { // one try to open takes ten
		t.Errorf("setup and stop took %s", took)
	}
	for _, c := range service.Calls("") {
		if c.Op != logservicetest.Open {
			t.Errorf("after a stop there was a call to %s", c.Op)
		}
	}
}

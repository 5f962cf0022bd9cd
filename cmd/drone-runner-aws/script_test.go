package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write golden files")

func TestMain(m *testing.M) {
	sandboxed()
	testscript.Main(m, map[string]func(){"drone-runner-aws": main})
}

// patience bounds every wait of a script; the machine may be busy.
const patience = 60 * time.Second

// TestScript runs the command from outside: see testdata/script. Beside what
// testscript brings there are
//
//	exits CODE COMMAND…    the command ends with exactly this exit code
//	await URL [REGEXP]     until a GET answers 200 and its body matches
//	post PATH JSON         POST to the runner under test; the body becomes stdout,
//	                       the status stderr
//	get PATH               the same with GET
//	terminate              SIGTERM to what runs in the background
//
// and a port of one's own: $ADDR is 127.0.0.1:<port>, $PORT the port.
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "await": await, "post": post, "meanwhile": meanwhile, "get": get, "terminate": terminate,
		},
	})
}

func setupScript(e *testscript.Env) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	// A socket's path must be short, and a script's folder is not.
	short, err := os.MkdirTemp("", "s")
	if err != nil {
		return err
	}
	e.Defer(func() { _ = os.RemoveAll(short) }) // in the temporary folder anyway
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	top, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	e.Setenv("ADDR", address)
	e.Setenv("PORT", port)
	e.Setenv("DATA", short)
	e.Setenv("TOP", top)
	e.Setenv("DRONE_HTTP_BIND", address)
	return nil
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		ee, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = ee.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func terminate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: terminate")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	}
}

func request(ts *testscript.TestScript, method, path, body string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	url := path
	if strings.HasPrefix(path, "/") {
		url = "http://" + ts.Getenv("ADDR") + path
	}
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return res.StatusCode, data, err
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: await URL [REGEXP]")
	}
	want := regexp.MustCompile(strings.Join(args[1:], ""))
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		code, body, err := request(ts, http.MethodGet, args[0], "")
		if err == nil && code == http.StatusOK && want.Match(body) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %s: status %d, error %v, body %s", patience, code, err, body)
		}
		<-tick.C
	}
}

func post(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: post PATH JSON")
	}
	answer(ts, http.MethodPost, args[0], args[1])
}

// meanwhile posts without waiting for the answer, which nobody reads: whoever
// asked is there until it comes or the runner ends.
func meanwhile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: meanwhile PATH JSON")
	}
	url := "http://" + ts.Getenv("ADDR") + args[0]
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _, _ = request(ts, http.MethodPost, url, args[1])
	}()
	ts.Defer(func() { <-done })
}

func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: get PATH")
	}
	answer(ts, http.MethodGet, args[0], "")
}

func answer(ts *testscript.TestScript, method, path, body string) {
	code, data, err := request(ts, method, path, body)
	ts.Check(err)
	if !bytes.HasSuffix(data, []byte("\n")) {
		data = append(data, '\n')
	}
	_, _ = ts.Stdout().Write(data) // memory
	_, _ = io.WriteString(ts.Stderr(), strconv.Itoa(code)+"\n")
}

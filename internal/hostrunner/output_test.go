package hostrunner

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestWhatStepsPrintIsReadThroughTheRunner(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const stage = "a stage/with\tany id"
	g.setup(stage)
	at := PathStages + url.PathEscape(stage) + "/steps"
	g.run(stage, "first", "echo one; echo two >&2; exit 3")
	g.run(stage, "second/of it", "printf 'no newline'")

	a := g.call(http.MethodGet, at, "")
	var s Steps
	if err := json.Unmarshal([]byte(a.body), &s); err != nil || len(s.Steps) != 2 {
		t.Fatalf("steps: %d %s, %v", a.status, a.body, err)
	}
	if f := s.Steps[0]; f.ID != "first" || !f.Exited || f.ExitCode != 3 || f.Started.IsZero() || s.Steps[1].ID != "second/of it" {
		t.Errorf("steps: %+v", s.Steps)
	}
	whole := g.call(http.MethodGet, at+"/first/log", "")
	if whole.status != 200 || !strings.HasSuffix(whole.body, "one\ntwo\n") || whole.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("log: %+v", whole)
	}
	if a := g.call(http.MethodGet, at+"/first/log?follow=true&offset=4", ""); a.body != whole.body[4:] {
		t.Errorf("from an offset on: %q of %q", a.body, whole.body)
	}
	if a := g.call(http.MethodGet, at+"/second%2Fof%20it/log", ""); !strings.HasSuffix(a.body, "no newline") {
		t.Errorf("second log: %+v", a)
	}
	for path, want := range map[string]struct {
		status  int
		message string
	}{
		at + "/third/log":                   {404, `has no step "third"; its steps are: first, second/of it`},
		at + "/first/log?offset=x":          {400, `offset is "x"`},
		at + "/first/log?offset=99999":      {400, "out of bounds"},
		at + "/first/log?follow=maybe":      {400, `follow is "maybe"`},
		PathStages + "nobody/steps":         {404, "stage id nobody does not exist..."},
		PathStages + "nobody/steps/s/log":   {404, "stage id nobody does not exist..."},
		PathStages + "/steps":               {400, "stage_runtime_id not specified"},
		PathStages + url.PathEscape("../x"): {404, ""},
		PathStages + "x/y/z":                {404, ""},
	} {
		a := g.call(http.MethodGet, path, "")
		if a.status != want.status || !strings.Contains(a.body, strings.ReplaceAll(want.message, `"`, `\"`)) {
			t.Errorf("%s: %d %s, want %d %s", path, a.status, a.body, want.status, want.message)
		}
	}
	if a := g.call(http.MethodPost, at+"/first/log", ""); a.status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", a.status)
	}

	g.stop()
	g.start()
	if a := g.call(http.MethodGet, at+"/first/log", ""); a.status != 404 || !strings.Contains(a.body, "ran before the runner was started again") {
		t.Errorf("after a restart: %d %s", a.status, a.body)
	}
}

// TestOutputIsFollowedWhileItComes reads a line before the step may go on, and
// looks again where the step does not end.
func TestOutputIsFollowedWhileItComes(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.setup("st1")
	result := make(chan stepAnswer, 1)
	go func() {
		a, err := request(t.Context(), http.MethodPost, g.url+"/step", shell("st1", "s", `echo begun; while ! test -e go; do sleep 0.02; done; echo last`))
		if err != nil {
			t.Error(err)
		}
		var s stepAnswer
		_ = json.Unmarshal([]byte(a.body), &s) // looked at below
		result <- s
	}()
	at := g.url + PathStages + "st1/steps/s/log"
	var lines *bufio.Scanner
	eventually(t, "the step has begun", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+"?follow=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() }) // only read from
		lines = bufio.NewScanner(res.Body)
		return res.StatusCode == http.StatusOK
	})
	for lines.Scan() && lines.Text() != "begun" {
	}
	if lines.Text() != "begun" {
		t.Fatalf("the first line did not come: %v", lines.Err())
	}
	begun := time.Now()
	if a := g.call(http.MethodGet, PathStages+"st1/steps/s/log", ""); !strings.HasSuffix(a.body, "begun\n") || time.Since(begun) > 10*time.Second {
		t.Errorf("without following: %q after %s", a.body, time.Since(begun))
	}
	g.run("st1", "go", "touch go")
	if !lines.Scan() || lines.Text() != "last" || lines.Scan() {
		t.Errorf("then came %q, %v", lines.Text(), lines.Err())
	}
	if s := <-result; !s.Exited || s.ExitCode != 0 {
		t.Errorf("step: %+v", s)
	}
}

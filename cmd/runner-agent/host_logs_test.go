package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHostLogs(t *testing.T) { // not parallel: urfave/cli shares its own flags
	p := startHost(t, "runner-agent", "host", "--bind", "127.0.0.1:0", "--data-dir", filepath.Join(t.TempDir(), "data"))
	if status, body := p.post(t, "/setup", `{"id":"st1"}`); status != 200 {
		t.Fatalf("setup: %d %s", status, body)
	}
	for id, script := range map[string]string{"a": "echo from a", "b/c": "echo from b"} {
		if status, body := p.post(t, "/step", `{"stage_runtime_id":"st1","start_step_request":{"id":"`+id+`","run":{"entrypoint":["sh","-c"],"commands":["`+script+`"]}}}`); status != 200 {
			t.Fatalf("step: %d %s", status, body)
		}
	}
	cases := []struct {
		name        string
		args        []string
		code        int
		out, stderr string
	}{
		{"one step", []string{"--url", p.url, "st1", "b/c"}, 0, "\nfrom b\n", ""},
		{"one step, to its end", []string{"--url", p.url, "st1", "a", "--follow"}, 0, "\nfrom a\n", ""},
		{"all steps", []string{"--url", p.url, "st1"}, 0, "\nfrom ", "--- a\n"},
		{"an unknown step", []string{"--url", p.url, "st1", "d"}, 1, "", `has no step "d"; its steps are:`},
		{"an unknown stage", []string{"--url", p.url, "nobody"}, 1, "", "stage id nobody does not exist"},
		{"no stage", []string{"--url", p.url}, 2, "", "give a stage"},
		{"a flag in the wrong place", []string{"st1", "--url", p.url}, 2, "", "--url stands before the stage"},
		{"no runner", []string{"--url", "http://127.0.0.1:1", "st1"}, 1, "", "does the local runner run?"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(t.Context(), append([]string{"runner-agent", "host", "logs"}, c.args...), &out, &errs)
			if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.stderr) || c.out == "" && out.Len() > 0 {
				t.Errorf("exit %d, output %q, errors %q; want %d, %q, %q", code, &out, &errs, c.code, c.out, c.stderr)
			}
		})
	}
}

// TestHostLogsOfAStageOfAnEarlierRun says of which steps nothing is kept, and shows
// the others.
func TestHostLogsOfAStageOfAnEarlierRun(t *testing.T) { // not parallel: urfave/cli shares its own flags
	args := []string{"runner-agent", "host", "--bind", "127.0.0.1:0", "--data-dir", filepath.Join(t.TempDir(), "data")}
	p := startHost(t, args...)
	for _, step := range []string{"before", "after"} {
		if status, body := p.post(t, "/setup", `{"id":"st1"}`); status != 200 {
			t.Fatalf("setup: %d %s", status, body)
		}
		if status, body := p.post(t, "/step", `{"stage_runtime_id":"st1","start_step_request":{"id":"`+step+`","log_drone":true,"run":{"entrypoint":["sh","-c"],"commands":["echo said `+step+`"]}}}`); status != 200 {
			t.Fatalf("step: %d %s", status, body)
		}
		if step == "before" {
			if err := p.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = p.cmd.Wait() // killed
			p = startHost(t, args...)
		}
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"runner-agent", "host", "logs", "--url", p.url, "st1"}, &out, &errs); code != 0 || out.String() != "said after\n" || !strings.Contains(errs.String(), "step before of stage st1 ran before the runner was started again") {
		t.Errorf("exit %d, output %q, errors %q", code, &out, &errs)
	}
}

// TestHostLogsFollowsAStageUntilItIsDestroyed also sees a step that starts later.
func TestHostLogsFollowsAStageUntilItIsDestroyed(t *testing.T) { // not parallel: urfave/cli shares its own flags
	dir := t.TempDir()
	p := startHost(t, "runner-agent", "host", "--bind", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data"))
	if status, body := p.post(t, "/setup", `{"id":"st1"}`); status != 200 {
		t.Fatalf("setup: %d %s", status, body)
	}
	step := func(id, script string) {
		if status, body := p.post(t, "/step", `{"stage_runtime_id":"st1","start_step_request":{"id":"`+id+`","log_drone":true,"run":{"entrypoint":["sh","-c"],"commands":["`+script+`"]}}}`); status != 200 {
			t.Errorf("step: %d %s", status, body)
		}
	}
	step("a", "echo from a")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	code := make(chan int, 1)
	go func() {
		code <- run(t.Context(), []string{"runner-agent", "host", "logs", "--url", p.url, "--follow", "st1"}, write, io.Discard)
		_ = write.Close() // the reader sees the end
	}()
	want := func(text string) {
		t.Helper()
		got := make([]byte, len(text))
		if _, err := io.ReadFull(read, got); err != nil || string(got) != text {
			t.Fatalf("read %q, %v; want %q", got, err, text)
		}
	}
	want("from a\n")
	step("b", "echo from b")
	want("from b\n")
	if status, body := p.post(t, "/destroy", `{"id":"st1"}`); status != 200 {
		t.Errorf("destroy: %d %s", status, body)
	}
	if rest, err := io.ReadAll(read); err != nil || len(rest) > 0 {
		t.Errorf("then %q, %v", rest, err)
	}
	if got := <-code; got != 0 {
		t.Errorf("exit %d", got)
	}
}

package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu/qmp"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}` + "\r\n"

// command is what the fake monitor was asked.
type command struct {
	Execute   string         `json:"execute"`
	Arguments map[string]any `json:"arguments"`
	ID        int            `json:"id"`
}

// fakeMonitor greets and answers each command with what play returns; "%id" in
// it becomes the command's id. The first command, qmp_capabilities, is answered
// by itself.
func fakeMonitor(t *testing.T, hello string, play func(command) string) *net.UnixConn {
	t.Helper()
	ours, theirs := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		_, _ = io.WriteString(theirs, hello)
		in := bufio.NewScanner(theirs)
		for in.Scan() {
			var c command
			if err := json.Unmarshal(in.Bytes(), &c); err != nil {
				t.Errorf("command %q: %v", in.Text(), err)
				return
			}
			answer := `{"return": {}, "id": %id}` + "\n"
			if c.Execute != "qmp_capabilities" {
				answer = play(c)
			}
			if answer == "" {
				return // hangs up
			}
			id, _ := json.Marshal(c.ID)
			_, _ = io.WriteString(theirs, strings.ReplaceAll(answer, "%id", string(id)))
		}
	}()
	t.Cleanup(func() {
		_ = ours.Close()
		_ = theirs.Close()
		<-done
	})
	return ours
}

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestExecuteFindsItsAnswer(t *testing.T) {
	t.Parallel()
	type status struct {
		Status string `json:"status"`
	}
	for name, tc := range map[string]struct {
		answer string
		want   status
		err    string
	}{
		"an answer":                          {answer: `{"return": {"status": "paused"}, "id": %id}` + "\n", want: status{"paused"}},
		"events before it":                   {answer: `{"event": "STOP", "timestamp": {}}` + "\n" + `{"event": "RESUME"}` + "\n" + `{"return": {"status": "running"}, "id": %id}` + "\n", want: status{"running"}},
		"an answer to an earlier command":    {answer: `{"return": {"status": "old"}, "id": 4711}` + "\n" + `{"return": {"status": "new"}, "id": %id}` + "\n", want: status{"new"}},
		"a refusal":                          {answer: `{"id": %id, "error": {"class": "GenericError", "desc": "no such fd"}}` + "\n", err: "query-status: no such fd"},
		"a refusal of what was no command":   {answer: `{"error": {"class": "GenericError", "desc": "JSON parse error"}}` + "\n", err: "query-status: JSON parse error"},
		"a QEMU that ends":                   {answer: "", err: "query-status: monitor closed: unexpected EOF"},
		"something that is no JSON":          {answer: "hello\n", err: "query-status: message of monitor: invalid character 'h' looking for beginning of value"},
		"an answer of another shape":         {answer: `{"return": [], "id": %id}` + "\n", err: "query-status: answer: json: cannot unmarshal array into Go value of type qmp_test.status"},
		"a message longer than a buffer":     {answer: `{"event": "` + strings.Repeat("x", 10_000) + `"}` + "\n" + `{"return": {"status": "ok"}, "id": %id}` + "\n", want: status{"ok"}},
		"a message that does not end for MB": {answer: strings.Repeat("x", 5<<20), err: "query-status: message of more than 4194304 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := qmp.New(t.Context(), fakeMonitor(t, greeting, func(command) string { return tc.answer }))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var got status
			err = c.Execute(t.Context(), "query-status", nil, &got)
			if text := errText(err); text != tc.err {
				t.Errorf("error %q, want %q", text, tc.err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// QEMU says to the next client what it had to say to one that has gone.
func TestWhatWasMeantForAnEarlierClientIsPassedOver(t *testing.T) {
	t.Parallel()
	stale := `{"event": "STOP"}` + "\n" + `{"return": {}, "id": 2}` + "\n"
	c, err := qmp.New(t.Context(), fakeMonitor(t, stale+greeting, func(command) string { return `{"return": {}, "id": %id}` + "\n" }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Execute(t.Context(), "cont", nil, nil); err != nil {
		t.Error(err)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestExecuteSendsArgumentsAndTypesErrors(t *testing.T) {
	t.Parallel()
	var seen command
	c, err := qmp.New(t.Context(), fakeMonitor(t, greeting, func(got command) string {
		seen = got
		return `{"error": {"class": "CommandNotFound", "desc": "no"}, "id": %id}` + "\n"
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Execute(t.Context(), "migrate", map[string]any{"uri": "fd:mig"}, nil)
	var refusal *qmp.Error
	if !errors.As(err, &refusal) || refusal.Class != "CommandNotFound" {
		t.Errorf("got %v, want a refusal with its class", err)
	}
	want := command{Execute: "migrate", Arguments: map[string]any{"uri": "fd:mig"}, ID: seen.ID}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
}

func TestNewNeedsAGreeting(t *testing.T) {
	t.Parallel()
	if _, err := qmp.New(t.Context(), fakeMonitor(t, "{\"return\": {}}\n", nil)); err == nil {
		t.Error("connected to something that is no monitor")
	}
}

func TestAMonitorThatServesSomebodyElseIsGivenUp(t *testing.T) {
	t.Parallel()
	ours, theirs := pair(t) // nobody reads or writes at the other end
	defer theirs.Close()
	cause := errors.New("no time")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, cause)
	defer cancel()
	if _, err := qmp.New(ctx, ours); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause of the context", err)
	}
	if err := ours.Close(); err == nil {
		t.Error("the connection was left open")
	}
}

func TestSendFilePassesADescriptor(t *testing.T) {
	t.Parallel()
	ours, theirs := pair(t)
	got := make(chan string, 1)
	go func() {
		defer theirs.Close()
		_, _ = io.WriteString(theirs, greeting)
		buf, oob := make([]byte, 4096), make([]byte, 4096)
		_, _ = theirs.Read(buf) // qmp_capabilities
		_, _ = io.WriteString(theirs, "{\"return\": {}, \"id\": 1}\n")
		_, n, _, _, err := theirs.ReadMsgUnix(buf, oob)
		if err != nil {
			got <- err.Error()
			return
		}
		got <- readPassed(oob[:n])
		_, _ = io.WriteString(theirs, "{\"return\": {}, \"id\": 2}\n")
	}()
	c, err := qmp.New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("state"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.SendFile(t.Context(), "mig", f); err != nil {
		t.Fatal(err)
	}
	if text := <-got; text != "state" {
		t.Errorf("the other end read %q", text)
	}
}

func readPassed(oob []byte) string {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return "no control message"
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return "no descriptor"
	}
	f := os.NewFile(uintptr(fds[0]), "passed")
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// FuzzClient feeds a client whatever may come out of a socket.
func FuzzClient(f *testing.F) {
	f.Add([]byte(greeting + `{"return": {}, "id": 1}` + "\n"))
	f.Add([]byte(greeting + `{"event": "SHUTDOWN"}` + "\n"))
	f.Add([]byte("{\"QMP\": null}\n[]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := pair(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = theirs.Write(data)
			_ = theirs.CloseWrite()
			_, _ = io.Copy(io.Discard, theirs)
		}()
		if c, err := qmp.New(t.Context(), ours); err == nil {
			_ = c.Execute(t.Context(), "query-status", nil, &struct{}{})
			_ = c.Close()
		}
		_ = theirs.Close()
		<-done
	})
}

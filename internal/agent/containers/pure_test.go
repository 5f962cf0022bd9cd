package containers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

func TestNamesTheDaemonTakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ prefix, id, want string }{
		{"", "step-1", "step-1"},
		{"lease-7.", "step-1", "lease-7.step-1"},
		{"", "a", "id-"},
		{"p", "a", "pa"},
		{"", "../x", "id-"},
		{"", "", "id-"},
		{"", "-rm", "id-"},
		{"", strings.Repeat("x", 200), "id-"},
		{"", "A b", "id-"},
	} {
		got := objectName(c.prefix, c.id)
		if got != c.want && (c.want != "id-" || !strings.HasPrefix(got, "id-") || !isObjectName(got)) {
			t.Errorf("objectName(%q, %q) = %q, want %s", c.prefix, c.id, got, c.want)
		}
	}
	if objectName("", "a b") == objectName("", "a/b") {
		t.Error("two ids have one name")
	}
	if diff := cmp.Diff([]string{"s1", "db", "x_y.z"}, aliases("s1", "", "db", "two words", "db", "x_y.z", strings.Repeat("a", 254))); diff != "" {
		t.Errorf("aliases (-want +got):\n%s", diff)
	}
}

func TestAStreamIsCopiedWholeHoweverItIsCut(t *testing.T) {
	t.Parallel()
	var whole bytes.Buffer
	for _, f := range [][]byte{
		dockertest.Frame(1, "one\n"), dockertest.Frame(2, "two\n"), dockertest.Frame(1, ""),
		dockertest.Frame(2, strings.Repeat("y", 70_000)), dockertest.Frame(1, "end"),
	} {
		whole.Write(f)
	}
	want := "one\ntwo\n" + strings.Repeat("y", 70_000) + "end"
	for cut := 0; cut <= whole.Len(); cut++ {
		if cut > 40 && cut < whole.Len()-40 && cut%997 != 0 {
			continue
		}
		var out bytes.Buffer
		have, err := copyFrames(&out, bytes.NewReader(whole.Bytes()[:cut]), received{})
		if err != nil && !errors.Is(err, errCut) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		// The daemon's own copy is in other pieces.
		if _, err := copyFrames(&out, iotest.OneByteReader(bytes.NewReader(whole.Bytes())), have); err != nil {
			t.Fatalf("after a cut at %d: %v", cut, err)
		}
		if out.String() != want {
			t.Fatalf("after a cut at %d: %d bytes, want %d", cut, out.Len(), len(want))
		}
	}
}

func TestATerminalsStreamIsGoneOnWith(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	have, err := copyPlain(&out, strings.NewReader("some text"), received{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := copyPlain(&out, iotest.HalfReader(strings.NewReader("some text and more")), have); err != nil || out.String() != "some text and more" {
		t.Errorf("copied %q, %v", out.String(), err)
	}
}

func TestStreamsThatAreNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"a word of the daemon": {dockertest.Frame(3, "log driver failed"), "the daemon says: log driver failed"},
		"no frame":             {[]byte("HTTP/1.1"), "frame of unknown kind 72"},
		"a reader's error":     {nil, "boom"},
	} {
		r := io.Reader(bytes.NewReader(c.text))
		if c.text == nil {
			r = iotest.ErrReader(errors.New("boom"))
		}
		if _, err := copyFrames(io.Discard, r, received{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func FuzzCopyFrames(f *testing.F) {
	f.Add(append(dockertest.Frame(1, "a"), dockertest.Frame(2, "b")...), int64(1), int64(0))
	f.Fuzz(func(t *testing.T, text []byte, out, err int64) {
		have := received{max(0, out), max(0, err)}
		var w bytes.Buffer
		got, _ := copyFrames(&w, bytes.NewReader(text), have)
		if int64(w.Len()) != got[0]-have[0]+got[1]-have[1] || w.Len() > len(text) {
			t.Errorf("wrote %d bytes, counts %v after %v", w.Len(), got, have)
		}
	})
}

// lines is an output that keeps lines.
type lines struct{ got []string }

func (l *lines) Write(p []byte) (int, error) { return len(p), nil }
func (l *lines) Line(text string)            { l.got = append(l.got, text) }
func (l *lines) Note(text string)            { l.got = append(l.got, "note: "+text) }

func TestAPullsProgressIsToldInFewLines(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	out := &lines{}
	p := newProgress(out, func() time.Time { return now })
	p.message(jsonstream.Message{Status: "Pulling from app", ID: "1"})
	for i := range 200 { // twenty seconds
		p.message(jsonstream.Message{Status: "Downloading", ID: "aa", Progress: &jsonstream.Progress{Current: int64(i) * 1e6, Total: 200e6}})
		now = now.Add(100 * time.Millisecond)
	}
	p.message(jsonstream.Message{Status: "Extracting", ID: "bb", Progress: &jsonstream.Progress{Current: 1}})
	p.message(jsonstream.Message{Status: "Pull complete", ID: "aa", Progress: &jsonstream.Progress{}})
	p.message(jsonstream.Message{})
	want := []string{"1: Pulling from app", "aa: Downloading 50.0 MB of 200.0 MB", "aa: Downloading 100.0 MB of 200.0 MB", "aa: Downloading 150.0 MB of 200.0 MB", "aa: Pull complete"}
	if diff := cmp.Diff(want, out.got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestWhichImagesArePulledFirst(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]bool{
		"a": true, "a:latest": true, "r.example:5000/a": true, "r.example:5000/b/a:latest": true,
		"a:1": false, "r.example:5000/a:1": false, "a@sha256:0123": false, "a:latest@sha256:0123": false,
	} {
		if got := pullsFirst(&agentapi.StartStepRequest{Image: image}); got != want {
			t.Errorf("%s is pulled first: %v", image, got)
		}
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	_, bound, err := portsOf(map[string]string{"[::1]:80": "8080/tcp", "127.0.0.1:81": "8080", "0": "53/udp"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(bound), "map[53/udp:[{invalid IP 0}] 8080/tcp:[{127.0.0.1 81} {::1 80}]]"; got != want {
		t.Errorf("ports %s, want %s", got, want)
	}
	for _, bad := range []map[string]string{{"80": ""}, {"80": "x"}, {"80": "70000"}, {"localhost:80": "80"}} {
		if _, _, err := portsOf(bad); err == nil || !strings.Contains(err.Error(), "port_bindings") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestRemediesOfTheDaemonsErrors(t *testing.T) {
	t.Parallel()
	e := &Engine{host: "unix:///x"}
	for text, want := range map[string]string{
		"write /var/lib/docker/tmp/x: no space left on device":                                                    "docker system prune",
		`the working directory 'C:\harness-D' is invalid, it needs to be an absolute path`:                        "Windows containers",
		"exec /bin/sh: exec format error":                                                                         "architecture",
		"no matching manifest for linux/arm64/v8 in the manifest list entries":                                    "architecture",
		"Bind for 0.0.0.0:80 failed: port is already allocated":                                                   "docker ps",
		"You have reached your pull rate limit. toomanyrequests":                                                  "limits pulls",
		"invalid mount config for type \"bind\": bind source path does not exist: /x":                             "the folder of a volume is gone",
		"Get \"https://r/v2/\": tls: failed to verify certificate: x509: certificate signed by unknown authority": "/etc/docker/certs.d",
	} {
		if got := e.said(t.Context(), errors.New(text)).Error(); !strings.HasPrefix(got, text+" (") || !strings.Contains(got, want) {
			t.Errorf("%s: no %q", got, want)
		}
	}
	if err := errors.New("something else"); e.said(t.Context(), err) != err { //nolint:errorlint // the very same
		t.Error("an error without remedy was changed")
	}
}

func TestAddressesOfADaemon(t *testing.T) {
	t.Parallel()
	socket := t.TempDir()
	for host, want := range map[string]bool{"unix://" + socket: true, "unix:///no/such.sock": false, "tcp://10.0.0.1:2376": true, "ssh://x": true} {
		if Present(host) != want {
			t.Errorf("%s is present: %v", host, !want)
		}
	}
	if got := Host("", []string{"DOCKER_HOST=a", "DOCKER_HOST=b"}); got != "b" {
		t.Errorf("host %s", got)
	}
	for _, c := range []Config{{Host: "nonsense"}, {Host: "tcp://x:1", Env: []string{"DOCKER_CERT_PATH=/no/such"}}, {Env: []string{"DOCKER_API_VERSION=new"}}} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), "DOCKER_") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestTheKernelsLogNamesContainers(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("0123456789abcdef", 4)
	const head = "6,40540,87977086888,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg="
	for _, c := range []struct {
		line string
		want bool
	}{
		{head + "/docker/" + id + ",task_memcg=/docker/" + id + ",task=sh,pid=15335,uid=0\n", true},
		{head + "/system.slice/docker-" + id + ".scope,task_memcg=/system.slice/docker-" + id + ".scope,task=sh,pid=1,uid=0\n", true},
		{head + "/machine.slice,task_memcg=/machine.slice/libpod-" + id + ".scope/container,task=sh,pid=1,uid=0\n", true},
		{"6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/docker/" + id + ",task=cc1,pid=9,uid=0\n", true},
		// The container's group is where memory ended, another's process died.
		{head + "/docker/" + id + ",task_memcg=/other,task=" + id[:15] + ",pid=9,uid=0\n", false},
		{"6,1,2,-;Memory cgroup stats for /docker/" + id + ":\n", false},
		{head, false},
		{"", false},
	} {
		if got := namesOOM(c.line, id); got != c.want {
			t.Errorf("namesOOM(%q) = %v", c.line, got)
		}
		if namesOOM(c.line, "") {
			t.Errorf("%q names a container without id", c.line)
		}
	}
}

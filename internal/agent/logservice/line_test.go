package logservice_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice"
)

// reference is a line as encoding/json writes it.
func reference(t *testing.T, pos int, text string, at time.Time) string {
	t.Helper()
	b, err := json.Marshal(struct {
		Level string            `json:"level"`
		Pos   int               `json:"pos"`
		Out   string            `json:"out"`
		Time  time.Time         `json:"time"`
		Args  map[string]string `json:"args"`
	}{"info", pos, text, at, nil})
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

func stamp(at time.Time) []byte { return at.AppendFormat(nil, time.RFC3339Nano) }

func TestALineHasOneForm(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 17, 18, 6, 638686113, time.FixedZone("", 3600))
	got := string(logservice.AppendLine(nil, 7, []byte(`a <b> & "c" \ `), true, stamp(at)))
	want := `{"level":"info","pos":7,"out":"a \u003cb\u003e \u0026 \"c\" \\ \n","time":"2026-11-21T17:18:06.638686113+01:00","args":null}` + "\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEveryASCIICharacterIsWrittenAsJSONHasIt(t *testing.T) {
	t.Parallel()
	at := time.Unix(0, 0).UTC()
	for c := range byte(128) {
		if got, want := string(logservice.AppendLine(nil, 0, []byte{c}, false, stamp(at))), reference(t, 0, string(rune(c)), at); got != want {
			t.Errorf("character %#x: %s, want %s", c, got, want)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, seed := range []string{"", "text", "a\tb\x1b[33m", "<>&'\"\\", "\xff\xfe", "é\u2028\u2029", "\x00", "\r"} {
		f.Add([]byte(seed), uint16(3), true)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	f.Fuzz(func(t *testing.T, text []byte, pos uint16, newline bool) {
		got := logservice.AppendLine(nil, int(pos), text, newline, stamp(at))
		out := string(text)
		if newline {
			out += "\n"
		}
		if want := reference(t, int(pos), out, at); string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if bytes.Count(got, []byte("\n")) != 1 {
			t.Errorf("%q has more than one newline", got)
		}
	})
}

func BenchmarkLine(b *testing.B) {
	text := []byte(strings.Repeat("an ordinary line of a build ", 4))
	at := stamp(time.Now())
	b.SetBytes(int64(len(text)))
	var buf []byte
	for b.Loop() {
		buf = logservice.AppendLine(buf[:0], 1234, text, true, at)
	}
}

package agent

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice"
)

// BenchmarkOutput is what a step's printing passes through: kept on the
// machine, with secrets, and on its way to a log service too. A step that
// prints faster waits for it.
func BenchmarkOutput(b *testing.B) {
	text := bytes.Repeat([]byte("an ordinary line of a build's output, 1234567890, \x1b[32mok\x1b[0m <x>\n"), 500)
	secrets := []string{"hunter2", "a-longer-secret-of-a-stage", "1234567890abcdef"}
	for _, c := range []struct {
		name            string
		masked, service bool
	}{{"kept", false, false}, {"masked", true, false}, {"masked and sent", true, true}} {
		b.Run(c.name, func(b *testing.B) {
			s, err := newSpool(filepath.Join(b.TempDir(), "out"), 1<<20, slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			o := &output{spool: s}
			if c.masked {
				o.mask = newMasker(secrets)
			}
			if c.service {
				client, err := logservice.New(logservice.Config{URL: "http://127.0.0.1:1"}) // nobody is there
				if err != nil {
					b.Fatal(err)
				}
				defer client.Close()
				o.log = client.Stream(b.Context(), "key", logservice.StreamOptions{})
			}
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				_, _ = o.Write(text) // never fails
			}
			o.close()
		})
	}
}

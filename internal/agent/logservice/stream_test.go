package logservice_test

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice/logservicetest"
)

const (
	opOpen  = logservicetest.Open
	opWrite = logservicetest.Write
	opClose = logservicetest.Close
	opBlob  = logservicetest.Upload
	opLink  = logservicetest.Link
	opPut   = logservicetest.Put
)

func TestALogIsOpenedWrittenOnceASecondUploadedAndClosed(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, r *rig) {
		began := time.Now()
		s := r.client.Stream(t.Context(), key, logservice.StreamOptions{})
		synctest.Wait()
		write(s, "one\ntw")
		<-time.After(300 * time.Millisecond)
		write(s, "o\n")
		<-time.After(700 * time.Millisecond)
		synctest.Wait()
		r.wantOps(t, opOpen, opWrite)
		write(s, "<three>\nno newline")
		if took := finish(s); took != 0 {
			t.Errorf("the end took %s", took)
		}
		r.wantOps(t, opOpen, opWrite, opWrite, opLink, opPut, opClose)

		at := func(d time.Duration) time.Time { return began.Add(d) }
		lines := []string{
			reference(t, 0, "one\n", at(0)), reference(t, 1, "two\n", at(300*time.Millisecond)),
			reference(t, 2, "<three>\n", at(time.Second)), reference(t, 3, "no newline", at(time.Second)),
		}
		array := func(lines ...string) string {
			return "[" + strings.ReplaceAll(strings.TrimSpace(strings.Join(lines, "")), "\n", ",") + "]\n"
		}
		calls := r.Calls(key)
		if diff := cmp.Diff(array(lines[:2]...), calls[1].Body); diff != "" {
			t.Errorf("first write (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(array(lines[2:]...), calls[2].Body); diff != "" {
			t.Errorf("second write (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(strings.Join(lines, ""), calls[4].Body); diff != "" {
			t.Errorf("upload (-want +got):\n%s", diff)
		}
		query := "accountID=" + url.QueryEscape(account) + "&key=" + url.QueryEscape(key)
		for _, c := range calls {
			if want := map[bool]string{true: logservicetest.Signature, false: query}[c.Op == opPut]; c.Query != want {
				t.Errorf("%s: query %q, want %q", c.Op, c.Query, want)
			}
			for _, name := range []string{"Content-Type", "Content-Encoding", "Accept-Encoding", "Accept"} {
				if v := c.Header.Get(name); v != "" {
					t.Errorf("%s: %s %q, want none", c.Op, name, v)
				}
			}
			if length := c.Header.Get("Content-Length"); c.Op == opOpen && length != "0" {
				t.Errorf("open: length %q, want 0", length)
			}
		}
		if r.IsOpen(key) {
			t.Error("the log is still open")
		}
	})
}

func TestWhoOpensAndWhoCloses(t *testing.T) {
	t.Parallel()
	type ops = []logservicetest.Op
	for _, c := range []struct {
		name     string
		opts     logservice.StreamOptions
		indirect bool
		text     string
		want     ops
	}{
		{"through the service", logservice.StreamOptions{}, true, "a\n", ops{opOpen, opWrite, opBlob, opClose}},
		{"by a link", logservice.StreamOptions{}, false, "a\n", ops{opOpen, opWrite, opLink, opPut, opClose}},
		{"nothing printed is uploaded too", logservice.StreamOptions{}, true, "", ops{opOpen, opBlob, opClose}},
		{"somebody else opens", logservice.StreamOptions{SkipOpening: true}, true, "a\n", ops{opWrite, opClose}},
		{"somebody else closes", logservice.StreamOptions{SkipClosing: true}, true, "a\nlast", ops{opOpen, opWrite}},
		{"somebody else does both", logservice.StreamOptions{SkipOpening: true, SkipClosing: true}, true, "a\nlast", ops{opWrite}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(cfg *logservice.Config) { cfg.Indirect = c.indirect }, func(t *testing.T, r *rig) {
				if c.opts.SkipOpening {
					r.OpenElsewhere(key)
				}
				s := r.client.Stream(t.Context(), key, c.opts)
				write(s, c.text)
				finish(s)
				r.wantOps(t, c.want...)
				got := r.Log(key)
				if got.Live() != c.text {
					t.Errorf("live %q, want %q", got.Live(), c.text)
				}
				if len(got.Blobs) > 0 && got.Kept() != c.text {
					t.Errorf("kept %q, want %q", got.Kept(), c.text)
				}
				if got.Snapshot != (c.opts.SkipOpening && !c.opts.SkipClosing) {
					t.Errorf("snapshot is %t", got.Snapshot)
				}
			})
		})
	}
}

func TestNewlinesAreLeftOutOnRequest(t *testing.T) {
	t.Parallel()
	inBubble(t, func(cfg *logservice.Config) { cfg.TrimNewline = true }, func(t *testing.T, r *rig) {
		s := r.client.Stream(t.Context(), key, logservice.StreamOptions{})
		write(s, "one\n\ntwo")
		finish(s)
		if got, want := r.Log(key).Kept(), "onetwo"; got != want || len(r.Log(key).Blob()) != 3 {
			t.Errorf("kept %q in %d lines, want %q in 3", got, len(r.Log(key).Blob()), want)
		}
	})
}

func TestALineIsCutWhereItIsTooLong(t *testing.T) {
	t.Parallel()
	whole := strings.Repeat("x", logservice.MaxLine)
	for _, c := range []struct {
		name, in, want string
	}{
		{"one of the greatest length is whole", whole + "\n", whole + "\n"},
		{"a byte more is cut", whole + "x\n", whole + logservice.CutMark + "\n"},
		{"ten megabytes on a line", strings.Repeat(whole, 150) + "\n", whole + logservice.CutMark + "\n"},
		{"a long line without end", whole + "yz", whole + logservice.CutMark},
		{"no character is cut in two", whole[1:] + "€€\n", whole[1:] + logservice.CutMark + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, piece := range []int{len(c.in), 4096, 71_680} {
				inBubble(t, nil, func(t *testing.T, r *rig) {
					s := r.client.Stream(t.Context(), key, logservice.StreamOptions{})
					for rest := c.in; rest != ""; {
						n := min(piece, len(rest))
						write(s, rest[:n])
						rest = rest[n:]
					}
					write(s, "next\n")
					finish(s)
					want := c.want
					if !strings.HasSuffix(c.in, "\n") {
						want = whole + logservice.CutMark + "\n" // next ends the line
					} else {
						want += "next\n"
					}
					if got := r.Log(key); got.Live() != want || got.Kept() != want {
						t.Errorf("in pieces of %d: live %d bytes, kept %d, want %d", piece, len(got.Live()), len(got.Kept()), len(want))
					}
				})
			}
		})
	}
}

func TestOfALongLogTheNewestLinesAreKept(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, r *rig) {
		s := r.client.Stream(t.Context(), key, logservice.StreamOptions{})
		const each, seconds = 1200, 12
		padding := strings.Repeat(".", 400)
		n := 0
		for range seconds {
			for range each {
				write(s, fmt.Sprintf("line %d %s\n", n, padding))
				n++
			}
			<-time.After(time.Second)
			synctest.Wait()
		}
		finish(s)
		got := r.Log(key)
		if len(got.Lines) != n {
			t.Errorf("%d lines are live, want all %d", len(got.Lines), n)
		}
		blob := got.Blobs[0]
		if len(blob) > logservice.MaxHistory || len(blob) < logservice.MaxHistory-1024 {
			t.Errorf("%d bytes are kept, want just below %d", len(blob), logservice.MaxHistory)
		}
		lines := got.Blob()
		if want := fmt.Sprintf("[runner-agent] the first %d lines are left out: of a long log the newest 5 MiB are kept\n", lines[1].Pos); lines[0].Out != want {
			t.Errorf("the first line is %q, want %q", lines[0].Out, want)
		}
		for i, l := range lines[1:] {
			if want := fmt.Sprintf("line %d %s\n", l.Pos, padding); l.Out != want || l.Pos != lines[0].Pos+1+i {
				t.Fatalf("line %d of the upload is %+v", i+1, l)
			}
		}
		if last := lines[len(lines)-1].Pos; last != n-1 {
			t.Errorf("the last line is %d, want %d", last, n-1)
		}
	})
}

func TestTextIsTheSameHoweverItArrives(t *testing.T) {
	t.Parallel()
	const text = "one\n\ntwo\r\nthree\x00\n\n€ and the rest"
	for n := 1; n <= len(text); n++ {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			s := r.client.Stream(t.Context(), key, logservice.StreamOptions{})
			for rest := text; rest != ""; {
				cut := min(n, len(rest))
				write(s, rest[:cut])
				rest = rest[cut:]
			}
			finish(s)
			write(s, "late\n")
			s.End()
			if got := r.Log(key); got.Live() != text || got.Kept() != text {
				t.Errorf("in pieces of %d: live %q, kept %q", n, got.Live(), got.Kept())
			}
		})
	}
}

func TestLinesAreEchoedAsFlatJSON(t *testing.T) {
	t.Parallel()
	var echo buffer
	inBubble(t, func(cfg *logservice.Config) { cfg.Echo = &echo }, func(t *testing.T, r *rig) {
		s := r.client.Stream(t.Context(), `k"1`, logservice.StreamOptions{})
		write(s, "a\nb")
		at := time.Now()
		finish(s)
		line := func(pos int, text string) string {
			return strings.Replace(reference(t, pos, text, at), "{", `{"log_key":"k\"1",`, 1)
		}
		if diff := cmp.Diff(line(0, "a\n")+line(1, "b"), echo.String()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestManyLogsAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, r *rig) {
		var streams []*logservice.Stream
		for i := range 100 {
			s := r.client.Stream(t.Context(), fmt.Sprint(i), logservice.StreamOptions{})
			write(s, fmt.Sprintf("of %d\n", i))
			streams = append(streams, s)
		}
		for i, s := range streams {
			finish(s)
			if got, want := r.Log(fmt.Sprint(i)).Kept(), fmt.Sprintf("of %d\n", i); got != want {
				t.Errorf("log %d is %q, want %q", i, got, want)
			}
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	s := logservicetest.New(b, account, token, "")
	client, err := logservice.New(logservice.Config{URL: "http://" + logservicetest.Host, AccountID: account, Token: token, Dial: s.InMemory(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	s.Fail(opOpen, logservicetest.Fault{Hang: true})
	stream := client.Stream(b.Context(), key, logservice.StreamOptions{})
	text := bytes.Repeat([]byte("an ordinary line of a build's output, 1234567890, with some <marks>\n"), 500)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		_, _ = stream.Write(text) // never fails
	}
}

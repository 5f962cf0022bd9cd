package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

func testSpool(t *testing.T, limit int64) *spool {
	t.Helper()
	s, err := newSpool(filepath.Join(t.TempDir(), "out"), limit, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readAll(t *testing.T, s *spool, offset int64) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.stream(t.Context(), &b, offset, true, func() {}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func put(s *spool, text string) { _, _ = s.Write([]byte(text)) } // never fails

func TestSpoolIsReadFromAnyOffset(t *testing.T) {
	t.Parallel()
	s := testSpool(t, 1000)
	put(s, "hello ")
	put(s, "world, no newline")
	s.end()
	const all = "hello world, no newline"
	for i := range len(all) + 1 {
		if got := readAll(t, s, int64(i)); got != all[i:] {
			t.Errorf("from %d: %q, want %q", i, got, all[i:])
		}
	}
}

func TestSpoolRefusesAnOffsetOutOfBounds(t *testing.T) {
	t.Parallel()
	s := testSpool(t, 1000)
	put(s, "abc")
	for _, offset := range []int64{-1, 4} {
		err := s.check(offset)
		if !errors.Is(err, errOffset) {
			t.Fatalf("offset %d: %v, want an offset error", offset, err)
		}
	}
	if got, want := s.check(9).Error(), "error: index 'offset' is out of bounds Offset=9 Total=3"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	if err := s.check(3); err != nil {
		t.Errorf("the end itself: %v", err)
	}
	s.end()
}

func TestSpoolKeepsTheBeginningAndTheEndOfTooMuch(t *testing.T) {
	t.Parallel()
	s := testSpool(t, 100)
	put(s, strings.Repeat("a", 60))
	put(s, strings.Repeat("b", 60))
	middle := strings.Repeat("m", 10000)
	for range 100 {
		put(s, middle)
	}
	put(s, "the last line")
	s.end()
	got := readAll(t, s, 0)
	begin := strings.Repeat("a", 60) + strings.Repeat("b", 40) + "\n[runner-agent] The output is longer than 100 bytes."
	if !strings.HasPrefix(got, begin) {
		t.Errorf("begins %q, want %q", got[:min(len(got), 200)], begin)
	}
	if !strings.HasSuffix(got, "mmm"+"the last line") {
		t.Errorf("ends %q", got[max(0, len(got)-50):])
	}
	left := 20 + 100*10000 + len("the last line") - tailBytes
	if !strings.Contains(got, "bytes left out. The last 65536 bytes:\n") || !strings.Contains(got, " "+itoa(left)+" bytes left out") {
		t.Errorf("no note of %d bytes left out", left)
	}
	if len(got) > 100+tailBytes+1000 {
		t.Errorf("%d bytes kept", len(got))
	}
	// An offset means the same for whoever comes back later.
	for _, offset := range []int64{0, 99, 100, 101, 150, int64(len(got)) - 1} {
		if again := readAll(t, s, offset); again != got[offset:] {
			t.Errorf("from %d the output is another", offset)
		}
	}
}

func itoa(n int) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

func TestSpoolFollowsLiveForManyReaders(t *testing.T) {
	t.Parallel()
	s := testSpool(t, 1<<20)
	const readers, lines = 8, 500
	var wg sync.WaitGroup
	got := make([]string, readers)
	for i := range readers {
		wg.Go(func() {
			var b bytes.Buffer
			if err := s.stream(t.Context(), &b, 0, true, func() {}); err != nil {
				t.Error(err)
			}
			got[i] = b.String()
		})
	}
	var want strings.Builder
	for i := range lines {
		line := "line " + itoa(i+1) + "\n"
		want.WriteString(line)
		put(s, line)
	}
	s.end()
	wg.Wait()
	for i := range got {
		if got[i] != want.String() {
			t.Errorf("reader %d got %d bytes, want %d", i, len(got[i]), want.Len())
		}
	}
}

// stalled is a reader's connection that takes nothing.
type stalled struct{ release chan struct{} }

func (s stalled) Write(p []byte) (int, error) { <-s.release; return len(p), nil }

func TestSpoolWriterIsNotHeldUpByAStalledReader(t *testing.T) {
	t.Parallel()
	s := testSpool(t, 1<<20)
	conn := stalled{make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- s.stream(t.Context(), conn, 0, true, func() {}) }()
	written := make(chan struct{})
	go func() {
		defer close(written)
		for range 1000 {
			put(s, strings.Repeat("x", 4096))
		}
		s.end()
	}()
	select {
	case <-written:
	case <-time.After(30 * time.Second):
		t.Fatal("the writer waits for the reader")
	}
	close(conn.release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestSpoolReaderLeavesWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	s := testSpool(t, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.stream(ctx, io.Discard, 0, true, func() {}) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("stream returned %v", err)
	}
	s.end()
}

func TestSpoolOnAFullDiskLosesTextAndNothingElse(t *testing.T) {
	t.Parallel()
	s := testSpool(t, 1<<20)
	put(s, "kept\n")
	if err := s.file.Close(); err != nil { // from now on writing fails, as on a full disk
		t.Fatal(err)
	}
	put(s, "lost and found at the end\n")
	s.end()
	got := readAll(t, s, 0)
	if !strings.HasPrefix(got, "kept\n\n[runner-agent] The output cannot be kept (") || !strings.HasSuffix(got, "lost and found at the end\n") {
		t.Errorf("got %q", got)
	}
}

func TestASecretIsMaskedHoweverLongItTakesToCome(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for i := range secret {
		testbubble.Run(t, func(t *testing.T) {
			s := testSpool(t, 1<<20)
			o := &output{mask: newMasker([]string{secret}), spool: s}
			_, _ = o.Write([]byte("a prompt: " + secret[:i])) // never fails
			<-time.After(time.Hour)
			if got, want := string(o.last(100)), "a prompt: "; got != want {
				t.Errorf("after %q it shows %q, want %q", secret[:i], got, want)
			}
			_, _ = o.Write([]byte(secret[i:] + "\n")) // never fails
			o.close()
			o.close()
			_, _ = o.Write([]byte("late")) // never fails
			if got, want := readAll(t, s, 0), "a prompt: "+starsText+"\n"; got != want {
				t.Errorf("cut after %q: got %q, want %q", secret[:i], got, want)
			}
		})
	}
}

func TestTheEndOfAnOutputIsKnown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		limit int64
	}{{"all of it is in the file", 1 << 20}, {"the file is full", 5}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := testSpool(t, c.limit)
			if got := s.last(5); len(got) != 0 {
				t.Errorf("at first it is %q", got)
			}
			put(s, "one two three")
			if got := string(s.last(5)); got != "three" {
				t.Errorf("got %q, want the last five bytes", got)
			}
			s.end()
		})
	}
}

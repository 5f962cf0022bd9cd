package guestlink_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// port is a virtio-serial port as a guest sees it: one open end, to which
// hosts connect one after another; reads of nothing while none is connected.
type port struct {
	mu   sync.Mutex
	host net.Conn // the guest's end of the present host's connection
}

func (p *port) connect(t *testing.T) net.Conn {
	t.Helper()
	guest, host := net.Pipe()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.host = guest
	t.Cleanup(func() { _ = host.Close() }) // already closed by most tests
	if err := host.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return host
}

func (p *port) current() net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.host
}

func (p *port) Read(b []byte) (int, error) {
	c := p.current()
	if c == nil {
		return 0, nil
	}
	n, err := c.Read(b)
	if err != nil { // the host hung up: nothing to read, and no end either
		return n, nil
	}
	return n, nil
}

func (p *port) Write(b []byte) (int, error) {
	c := p.current()
	if c == nil {
		return len(b), nil
	}
	if _, err := c.Write(b); err != nil {
		return len(b), nil // kept by the port, lost with the connection here
	}
	return len(b), nil
}

type machine struct {
	identify func(guestlink.Request) error
	wake     func(time.Time, []byte) error
	flush    func() error
}

func (m *machine) Identify(_ context.Context, r guestlink.Request) error {
	if m.identify == nil {
		return nil
	}
	return m.identify(r)
}

func (m *machine) Wake(_ context.Context, now time.Time, entropy []byte) error {
	if m.wake == nil {
		return nil
	}
	return m.wake(now, entropy)
}

func (m *machine) Flush(context.Context) error {
	if m.flush == nil {
		return nil
	}
	return m.flush()
}

func serve(t *testing.T, m *machine) (*guestlink.Guest, *port) {
	t.Helper()
	g := guestlink.NewGuest("9.9", m, slog.New(slog.DiscardHandler))
	p := &port{}
	start(t, g, p)
	return g, p
}

func start(t *testing.T, g *guestlink.Guest, p *port) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, p) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve returned %v", err)
		}
	})
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func request(t *testing.T, r guestlink.Request) string {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

func identity(name string) *guestlink.Identity { return &guestlink.Identity{Machine: name} }

func receive(t *testing.T, r *bufio.Reader) guestlink.Response {
	t.Helper()
	line, err := r.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var got guestlink.Response
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatalf("answer %q: %v", line, err)
	}
	return got
}

func expect(t *testing.T, r *bufio.Reader, want guestlink.Response) {
	t.Helper()
	want.Version = "9.9"
	if diff := cmp.Diff(want, receive(t, r)); diff != "" {
		t.Fatalf("answer (-want +got):\n%s", diff)
	}
}

func TestGuestAnswersWhileItWaits(t *testing.T) {
	t.Parallel()
	_, p := serve(t, &machine{})
	c := p.connect(t)
	r := bufio.NewReader(c)
	send(t, c, "\n"+request(t, guestlink.Request{Seq: 7, Op: guestlink.OpPing}))
	expect(t, r, guestlink.Response{Seq: 7, State: guestlink.StateWaiting})
	send(t, c, request(t, guestlink.Request{Seq: 8, Op: "dance"}))
	expect(t, r, guestlink.Response{Seq: 8, State: guestlink.StateWaiting, Error: `unknown operation "dance"`})
	send(t, c, request(t, guestlink.Request{Seq: 9, Op: guestlink.OpIdentify}))
	expect(t, r, guestlink.Response{Seq: 9, State: guestlink.StateWaiting, Error: "identify without an identity"})
}

func TestGuestDropsWhatIsNoRequest(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, before string }{
		{"an empty line first", "\n"},
		{"half a message, then the newline of the next host", `{"seq":1,"op":"ident` + "\n"},
		{"text", "hello\n"},
		{"an array", "[1]\n"},
		{"a number", "3\n"},
		{"carriage returns and blanks", " \r\n"},
		{"an object of the wrong types", `{"seq":"x"}` + "\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, p := serve(t, &machine{})
			conn := p.connect(t)
			send(t, conn, c.before+request(t, guestlink.Request{Seq: 2, Op: guestlink.OpPing}))
			expect(t, bufio.NewReader(conn), guestlink.Response{Seq: 2, State: guestlink.StateWaiting})
		})
	}
}

func TestGuestRefusesAMessageThatIsTooLong(t *testing.T) {
	t.Parallel()
	_, p := serve(t, &machine{})
	c := p.connect(t)
	r := bufio.NewReader(c)
	send(t, c, strings.Repeat("x", guestlink.MaxMessage+1)+"\n")
	expect(t, r, guestlink.Response{State: guestlink.StateWaiting, Error: "message is longer than 1048576 bytes"})
	pad := request(t, guestlink.Request{Seq: 3, Op: guestlink.OpPing})
	send(t, c, strings.Repeat(" ", guestlink.MaxMessage-len(pad)+1)+pad)
	expect(t, r, guestlink.Response{Seq: 3, State: guestlink.StateWaiting})
}

func TestGuestIdentifiesAndIsReadyOnlyWhenTold(t *testing.T) {
	t.Parallel()
	got := make(chan guestlink.Request, 1)
	g, p := serve(t, &machine{identify: func(r guestlink.Request) error { got <- r; return nil }})
	c := p.connect(t)
	r := bufio.NewReader(c)
	want := guestlink.Request{
		Seq: 1, Op: guestlink.OpIdentify, Now: time.Date(2026, 11, 21, 1, 2, 3, 4, time.UTC),
		Entropy: bytes.Repeat([]byte{5}, 64), Identity: &guestlink.Identity{Machine: "m1", Hostname: "h", Key: []byte("k")},
	}
	send(t, c, request(t, want))
	if diff := cmp.Diff(want, <-got); diff != "" {
		t.Fatalf("request in the machine (-want +got):\n%s", diff)
	}
	send(t, c, request(t, guestlink.Request{Seq: 2, Op: guestlink.OpPing}))
	expect(t, r, guestlink.Response{Seq: 2, State: guestlink.StateStarting, Machine: "m1"})
	g.Ready()
	expect(t, r, guestlink.Response{Seq: 1, State: guestlink.StateReady, Machine: "m1"})

	send(t, c, request(t, guestlink.Request{Seq: 3, Op: guestlink.OpIdentify, Identity: identity("m1")}))
	expect(t, r, guestlink.Response{Seq: 3, State: guestlink.StateReady, Machine: "m1"})
	send(t, c, request(t, guestlink.Request{Seq: 4, Op: guestlink.OpIdentify, Identity: identity("m2")}))
	expect(t, r, guestlink.Response{Seq: 4, State: guestlink.StateReady, Machine: "m1", Error: "this machine is m1 already"})
	select {
	case again := <-got:
		t.Errorf("the machine was identified again: %+v", again)
	default:
	}
}

func TestGuestThatCannotTakeItsIdentityWaitsAgain(t *testing.T) {
	t.Parallel()
	refuse := true
	_, p := serve(t, &machine{identify: func(guestlink.Request) error {
		if refuse {
			refuse = false
			return errors.New("no clock")
		}
		return nil
	}})
	c := p.connect(t)
	r := bufio.NewReader(c)
	send(t, c, request(t, guestlink.Request{Seq: 1, Op: guestlink.OpIdentify, Identity: identity("m1")}))
	expect(t, r, guestlink.Response{Seq: 1, State: guestlink.StateWaiting, Error: "no clock"})
	send(t, c, request(t, guestlink.Request{Seq: 2, Op: guestlink.OpIdentify, Identity: identity("m2")}))
	send(t, c, request(t, guestlink.Request{Seq: 3, Op: guestlink.OpPing}))
	expect(t, r, guestlink.Response{Seq: 3, State: guestlink.StateStarting, Machine: "m2"})
}

func TestGuestKeepsTheAnswerOwedOverAReexec(t *testing.T) {
	t.Parallel()
	g := guestlink.NewGuest("9.9", &machine{}, slog.New(slog.DiscardHandler))
	g.Resume(guestlink.Request{Seq: 41, Identity: identity("m1")})
	p := &port{}
	c := p.connect(t)
	start(t, g, p)
	r := bufio.NewReader(c)
	// A second host asks for the same while the agent still starts.
	send(t, c, request(t, guestlink.Request{Seq: 42, Op: guestlink.OpIdentify, Identity: identity("m1")}))
	send(t, c, request(t, guestlink.Request{Seq: 43, Op: guestlink.OpPing}))
	expect(t, r, guestlink.Response{Seq: 43, State: guestlink.StateStarting, Machine: "m1"})
	g.Ready()
	expect(t, r, guestlink.Response{Seq: 41, State: guestlink.StateReady, Machine: "m1"})
	expect(t, r, guestlink.Response{Seq: 42, State: guestlink.StateReady, Machine: "m1"})
}

func TestGuestWakes(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	m := &machine{wake: func(at time.Time, entropy []byte) error {
		if !at.Equal(now) || string(entropy) != "salt" {
			return errors.New("wrong clock or entropy")
		}
		return nil
	}}
	_, p := serve(t, m)
	c := p.connect(t)
	r := bufio.NewReader(c)
	send(t, c, request(t, guestlink.Request{Seq: 1, Op: guestlink.OpWake, Now: now, Entropy: []byte("salt")}))
	expect(t, r, guestlink.Response{Seq: 1, State: guestlink.StateWaiting})
	send(t, c, request(t, guestlink.Request{Seq: 2, Op: guestlink.OpWake, Now: now}))
	expect(t, r, guestlink.Response{Seq: 2, State: guestlink.StateWaiting, Error: "wrong clock or entropy"})
}

func TestGuestServesOneHostAfterAnother(t *testing.T) {
	t.Parallel()
	g, p := serve(t, &machine{})
	first := p.connect(t)
	send(t, first, "\n"+request(t, guestlink.Request{Seq: 100, Op: guestlink.OpIdentify, Identity: identity("m1")}))
	send(t, first, `{"seq":101,"op":"pi`) // dies in the middle of a message
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := p.connect(t)
	r := bufio.NewReader(second)
	send(t, second, "\n"+request(t, guestlink.Request{Seq: 200, Op: guestlink.OpPing}))
	expect(t, r, guestlink.Response{Seq: 200, State: guestlink.StateStarting, Machine: "m1"})
	g.Ready()
	// The answer owed to the first host reaches the second, which knows it by
	// its number and drops it; its own question gets its own answer.
	expect(t, r, guestlink.Response{Seq: 100, State: guestlink.StateReady, Machine: "m1"})
	send(t, second, request(t, guestlink.Request{Seq: 201, Op: guestlink.OpIdentify, Identity: identity("m1")}))
	expect(t, r, guestlink.Response{Seq: 201, State: guestlink.StateReady, Machine: "m1"})
}

func TestGuestWaitsForAHostWhoConnectsLate(t *testing.T) {
	t.Parallel()
	_, p := serve(t, &machine{})
	c := p.connect(t) // Serve has been reading nothing until now
	send(t, c, request(t, guestlink.Request{Seq: 1, Op: guestlink.OpPing}))
	expect(t, bufio.NewReader(c), guestlink.Response{Seq: 1, State: guestlink.StateWaiting})
}

// blockedPort never lets a write through, as a port without a host.
type blockedPort struct {
	io.Reader
	release chan struct{}
}

func (b *blockedPort) Write(p []byte) (int, error) {
	<-b.release
	return len(p), nil
}

func TestGuestWorksOnWhileNobodyReadsItsAnswers(t *testing.T) {
	t.Parallel()
	woken := make(chan struct{}, 1000)
	m := &machine{wake: func(time.Time, []byte) error { woken <- struct{}{}; return nil }}
	g := guestlink.NewGuest("9.9", m, slog.New(slog.DiscardHandler))
	var in strings.Builder
	for i := range 200 {
		in.WriteString(request(t, guestlink.Request{Seq: uint64(i), Op: guestlink.OpWake}))
	}
	p := &blockedPort{Reader: strings.NewReader(in.String()), release: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, p) }()
	for range 200 {
		select {
		case <-woken:
		case <-time.After(20 * time.Second):
			t.Fatal("the guest stopped reading")
		}
	}
	g.Ready() // must not block either
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve returned %v", err)
	}
	close(p.release)
}

func TestGuestReportsABrokenPort(t *testing.T) {
	t.Parallel()
	g := guestlink.NewGuest("9.9", &machine{}, slog.New(slog.DiscardHandler))
	broken := errors.New("no such device")
	err := g.Serve(t.Context(), struct {
		io.Reader
		io.Writer
	}{errReader{broken}, io.Discard})
	if !errors.Is(err, broken) {
		t.Errorf("Serve returned %v, want %v", err, broken)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

func FuzzGuestLines(f *testing.F) {
	f.Add([]byte("\n{\"seq\":1,\"op\":\"ping\"}\n"), 3)
	f.Add([]byte("{\"seq\":1,\"op\":\"identify\",\"identity\":{}}\n{\"se"), 1)
	f.Fuzz(func(t *testing.T, input []byte, chunk int) {
		if chunk < 1 || chunk > 1<<16 {
			chunk = 1
		}
		g := guestlink.NewGuest("9.9", &machine{}, slog.New(slog.DiscardHandler))
		// Whatever came before, a newline and a ping must be answered.
		input = slices.Concat(input, []byte("\n{\"seq\":77777,\"op\":\"ping\"}\n"))
		answered := make(chan struct{})
		var once sync.Once
		out := writerFunc(func(p []byte) (int, error) {
			if bytes.Contains(p, []byte(`"seq":77777,`)) {
				once.Do(func() { close(answered) })
			}
			return len(p), nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			_ = g.Serve(ctx, struct { // ends with ctx
				io.Reader
				io.Writer
			}{&slowReader{input, chunk}, out})
		}()
		select {
		case <-answered:
		case <-time.After(20 * time.Second):
			t.Fatal("no answer")
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type slowReader struct {
	data  []byte
	chunk int
}

func (s *slowReader) Read(p []byte) (int, error) {
	n := copy(p, s.data[:min(s.chunk, len(s.data))])
	s.data = s.data[n:]
	return n, nil
}

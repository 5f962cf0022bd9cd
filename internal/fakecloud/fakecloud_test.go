package fakecloud_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

func TestAClientReachesTheHandlerWithoutASocket(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		client := fakecloud.Client(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("X-Path", r.URL.Path+" "+r.Host)
			w.WriteHeader(http.StatusTeapot)
			_, _ = w.Write(append([]byte("got "), body...))
		}))
		<-time.After(time.Hour) // of the bubble: no socket keeps its clock from running
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://cloud.example/a/b", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if got := resp.Header.Get("X-Path") + " " + string(body); resp.StatusCode != http.StatusTeapot || got != "/a/b cloud.example got x" {
			t.Errorf("answer %d %q", resp.StatusCode, got)
		}
	})
}

// call carries out one call of a fake with those faults, from a client that
// waits a minute.
func call(t *testing.T, f *fakecloud.Faults, c fakecloud.Call) (took time.Duration, done bool, err error) {
	t.Helper()
	refused := errors.New("refused by the handler")
	client := fakecloud.Client(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.Around(r.Context(), c, func() error { done = true; return nil }) != nil {
			err = refused
		}
	}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, fail := http.NewRequestWithContext(ctx, http.MethodGet, "https://cloud.example/", nil)
	if fail != nil {
		t.Fatal(fail)
	}
	begun := time.Now()
	resp, fail := client.Do(r)
	if fail == nil {
		resp.Body.Close()
		fail = err
	}
	return time.Since(begun), done, fail
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		effect fakecloud.Effect
		took   time.Duration
		done   bool
		err    error
	}{
		{"a refused call has no effect", fakecloud.Refuse, 0, false, nil},
		{"a lost answer has one", fakecloud.Lose, 0, true, fakecloud.ErrLost},
		{"a dropped call has none", fakecloud.Drop, 0, false, fakecloud.ErrLost},
		{"a call that hangs has none", fakecloud.Hang, time.Minute, false, context.DeadlineExceeded},
		{"one that hangs afterwards has one", fakecloud.HangAfter, time.Minute, true, context.DeadlineExceeded},
		{"a slow one too", fakecloud.Slow, 10 * time.Second, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testbubble.Run(t, func(t *testing.T) {
				var f fakecloud.Faults
				boom := errors.New("boom")
				f.Add(fakecloud.Fault{
					Method: "insert", Match: func(c fakecloud.Call) bool { return c.Zone == "a" }, Skip: 1, Times: 1,
					Effect: c.effect, Err: boom, For: 10 * time.Second,
				})
				for _, other := range []fakecloud.Call{{Method: "delete", Zone: "a"}, {Method: "insert", Zone: "b"}, {Method: "insert", Zone: "a"}} {
					if took, done, err := call(t, &f, other); took != 0 || !done || err != nil {
						t.Errorf("%v: took %s, carried out %t, %v", other, took, done, err)
					}
				}
				took, done, err := call(t, &f, fakecloud.Call{Method: "insert", Zone: "a"})
				if took != c.took || done != c.done {
					t.Errorf("took %s, carried out %t", took, done)
				}
				if c.effect == fakecloud.Refuse && err == nil || c.err != nil && !errors.Is(err, c.err) {
					t.Errorf("error %v, want %v", err, c.err)
				}
				if took, done, err := call(t, &f, fakecloud.Call{Method: "insert", Zone: "a"}); took != 0 || !done || err != nil {
					t.Errorf("afterwards: took %s, carried out %t, %v", took, done, err)
				}
			})
		})
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 2, 12, 0, 50, 0, time.UTC)
	minute := fakecloud.Minute{Most: 2}
	var got []bool
	for _, after := range []time.Duration{0, time.Second, 2 * time.Second, 10 * time.Second} {
		got = append(got, minute.Take(1, at.Add(after)))
	}
	if diff := cmp.Diff([]bool{true, true, false, true}, got); diff != "" {
		t.Errorf("a fixed minute (-want +got):\n%s", diff)
	}
	bucket := fakecloud.Bucket{Size: 3, PerSecond: 1}
	got = nil
	for _, n := range []float64{3, 1} {
		got = append(got, bucket.Take(n, at))
	}
	got = append(got, bucket.Take(1, at.Add(time.Second)), bucket.Take(4, at.Add(time.Hour)))
	if diff := cmp.Diff([]bool{true, false, true, false}, got); diff != "" {
		t.Errorf("a bucket (-want +got):\n%s", diff)
	}
}

func TestBooks(t *testing.T) {
	t.Parallel()
	var b fakecloud.Books
	at := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	b.Make(fakecloud.Thing{Kind: "disk", ID: "1", Name: "d", Made: at})
	b.Make(fakecloud.Thing{Kind: "instance", ID: "1", Name: "i", Made: at})
	b.End("disk", "1", at.Add(time.Hour))
	b.End("disk", "1", at.Add(2*time.Hour))
	b.Called("list")
	b.Called("list")
	living := b.Living()
	if len(living) != 1 || living[0].Name != "i" || len(b.Ever()) != 2 || !b.Ever()[0].Gone.Equal(at.Add(time.Hour)) {
		t.Errorf("books: %v", b.Ever())
	}
	if b.Calls()["list"] != 2 || b.Total() != 2 {
		t.Errorf("calls: %v", b.Calls())
	}
}

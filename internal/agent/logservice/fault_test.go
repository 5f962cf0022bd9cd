package logservice_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice/logservicetest"
)

type fault = logservicetest.Fault

// TestAFailureOfTheLogServiceCostsOnlyWhatItFailed goes through every call and
// every way to fail.
func TestAFailureOfTheLogServiceCostsOnlyWhatItFailed(t *testing.T) {
	t.Parallel()
	type ops = []logservicetest.Op
	const text = "one\ntwo\n"
	direct := ops{opOpen, opWrite, opLink, opPut, opClose}
	cases := []struct {
		name     string
		op       logservicetest.Op
		fault    fault
		indirect bool
		want     ops
		live     string
		kept     string
		atMost   time.Duration // from the end of the text to the end of the log
	}{
		{name: "open is refused once", op: opOpen, fault: fault{Status: 500, Times: 1}, want: append(ops{opOpen}, direct...), live: text, kept: text, atMost: time.Second},
		{name: "open is cut once", op: opOpen, fault: fault{Cut: true, Times: 1}, want: append(ops{opOpen}, direct...), live: text, kept: text, atMost: time.Second},
		{name: "open comes late", op: opOpen, fault: fault{After: 8 * time.Second}, want: direct, live: text, kept: text, atMost: 8 * time.Second},
		{name: "open is forbidden", op: opOpen, fault: fault{Status: 403}, want: ops{opOpen, opLink, opPut, opClose}, kept: text},
		{name: "open always fails", op: opOpen, fault: fault{Status: 503}, kept: text, atMost: 11 * time.Second},
		{name: "open hangs", op: opOpen, fault: fault{Hang: true}, want: ops{opOpen, opLink, opPut, opClose}, kept: text, atMost: 11 * time.Second},
		{name: "a write fails and is not repeated", op: opWrite, fault: fault{Status: 500}, want: direct, kept: text},
		{name: "a write is cut", op: opWrite, fault: fault{Cut: true}, want: direct, kept: text},
		{name: "a write hangs", op: opWrite, fault: fault{Hang: true}, want: direct, kept: text, atMost: 10 * time.Second},
		{name: "a write is slow", op: opWrite, fault: fault{After: 5 * time.Second}, want: direct, live: text, kept: text, atMost: 5 * time.Second},
		{name: "the link fails twice", op: opLink, fault: fault{Status: 502, Times: 2}, want: ops{opOpen, opWrite, opLink, opLink, opLink, opPut, opClose}, live: text, kept: text, atMost: 2 * time.Second},
		{name: "the link is forbidden", op: opLink, fault: fault{Status: 403}, want: ops{opOpen, opWrite, opLink, opClose}, live: text},
		{name: "the link hangs", op: opLink, fault: fault{Hang: true}, want: ops{opOpen, opWrite, opLink, opClose}, live: text, atMost: 10 * time.Second},
		{name: "the store fails once and is sent everything again", op: opPut, fault: fault{Status: 500, Times: 1}, want: ops{opOpen, opWrite, opLink, opPut, opPut, opClose}, live: text, kept: text, atMost: time.Second},
		{name: "the store cuts once", op: opPut, fault: fault{Cut: true, Times: 1}, want: ops{opOpen, opWrite, opLink, opPut, opPut, opClose}, live: text, kept: text, atMost: time.Second},
		{name: "the store refuses", op: opPut, fault: fault{Status: 403}, want: direct, live: text},
		{name: "the store hangs", op: opPut, fault: fault{Hang: true}, want: nil, live: text, atMost: 60 * time.Second},
		{name: "the store leads elsewhere", op: opPut, fault: fault{Status: 307}, want: direct, live: text},
		{name: "the service leads elsewhere", op: opWrite, fault: fault{Status: 308}, want: direct, kept: text},
		{name: "an upload fails once and is sent everything again", op: opBlob, indirect: true, fault: fault{Status: 500, Times: 1}, want: ops{opOpen, opWrite, opBlob, opBlob, opClose}, live: text, kept: text, atMost: time.Second},
		{name: "an upload is refused", op: opBlob, indirect: true, fault: fault{Status: 413}, want: ops{opOpen, opWrite, opBlob, opClose}, live: text},
		{name: "close fails", op: opClose, fault: fault{Status: 500}, want: direct, live: text, kept: text},
		{name: "close hangs", op: opClose, fault: fault{Hang: true}, want: direct, live: text, kept: text, atMost: 10 * time.Second},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(cfg *logservice.Config) { cfg.Indirect = c.indirect }, func(t *testing.T, r *rig) {
				if c.op != opOpen || c.fault.Status == 403 || c.fault.Hang || c.fault.Status == 503 {
					r.OpenElsewhere(key) // so that only what is tried here is a problem
				}
				r.Fail(c.op, c.fault)
				s := r.client.Stream(t.Context(), key, logservice.StreamOptions{})
				write(s, text)
				if took := finish(s); took > c.atMost {
					t.Errorf("the end took %s, want at most %s", took, c.atMost)
				}
				if c.want != nil {
					r.wantOps(t, c.want...)
				}
				got := r.Log(key)
				if got.Live() != c.live {
					t.Errorf("live %q, want %q", got.Live(), c.live)
				}
				if got.Kept() != c.kept {
					t.Errorf("kept %q, want %q", got.Kept(), c.kept)
				}
				for _, call := range r.Calls(key) {
					if want := map[logservicetest.Op]bool{opBlob: true, opPut: true}[call.Op]; want && call.Body == "" {
						t.Errorf("%s without a body", call.Op)
					}
				}
				if told := r.log.String(); !strings.Contains(told, "level=WARN") && c.fault.After == 0 && c.fault.Times == 0 {
					t.Errorf("the failure is not in the log: %q", told)
				}
			})
		})
	}
}

func TestWhatTheLiveStreamMissesIsToldInIt(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, r *rig) {
		s := r.client.Stream(t.Context(), key, logservice.StreamOptions{})
		synctest.Wait()
		r.Fail(opWrite, fault{Status: 500, Times: 2})
		for i := range 3 {
			write(s, fmt.Sprintf("%d a\n%d b\n", i, i))
			<-time.After(2 * time.Second)
			synctest.Wait()
		}
		if r.client.Failing() {
			t.Error("the service counts as failing after it took lines")
		}
		finish(s)
		const missing = "[runner-agent] 4 lines are missing here: the log service did not take them in time\n"
		got := r.Log(key)
		if want := missing + "2 a\n2 b\n"; got.Live() != want {
			t.Errorf("live %q, want %q", got.Live(), want)
		}
		if got.Lines[0].Pos != 3 || got.Lines[1].Pos != 4 {
			t.Errorf("the note is at %d before %d, want 3 before 4", got.Lines[0].Pos, got.Lines[1].Pos)
		}
		if want := "0 a\n0 b\n1 a\n1 b\n2 a\n2 b\n"; got.Kept() != want {
			t.Errorf("kept %q, want %q", got.Kept(), want)
		}
	})
}

// TestAStalledServiceCostsNeitherTimeNorMemory: in a bubble a write that waits
// for the service would take time.
func TestAStalledServiceCostsNeitherTimeNorMemory(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.OpenElsewhere(key)
		s := r.client.Stream(t.Context(), key, logservice.StreamOptions{SkipOpening: true})
		r.Fail(opWrite, fault{Hang: true, Times: 1})
		before := heap()
		text := strings.Repeat("a line of a step that prints as fast as it can\n", 1<<14)
		began, n := time.Now(), 0
		for range 32 { // 25 MB
			write(s, text)
			n += 1 << 14
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("writing waited %s", took)
		}
		if more := int64(heap()) - int64(before); more > 20<<20 {
			t.Errorf("%d MB are kept in memory", more>>20)
		}
		<-time.After(30 * time.Second)
		write(s, "the last\n")
		finish(s)
		lines := r.Log(key).Lines
		if len(lines) == 0 || !strings.Contains(lines[0].Out, " lines are missing here: ") {
			t.Fatalf("%d lines, without a note at their beginning: %.300v", len(lines), lines)
		}
		if last := lines[len(lines)-1]; last.Out != "the last\n" || last.Pos != n {
			t.Errorf("the last line is %+v, want number %d", last, n)
		}
	})
}

func TestCloseBreaksOffWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.Fail(opLink, fault{Hang: true})
		ended := r.client.Stream(t.Context(), key, logservice.StreamOptions{})
		ended.End()
		open := r.client.Stream(t.Context(), "another", logservice.StreamOptions{})
		write(open, "text\n")
		synctest.Wait()
		began := time.Now()
		r.client.Close()
		if took := time.Since(began); took != 0 {
			t.Errorf("close took %s", took)
		}
		<-ended.Done()
		<-open.Done()
		late := r.client.Stream(t.Context(), "late", logservice.StreamOptions{})
		write(late, "text\n")
		late.End()
		<-late.Done()
		if calls := r.Calls("late"); len(calls) > 0 {
			t.Errorf("a closed client calls: %v", calls)
		}
		if told := r.log.String(); told != "" {
			t.Errorf("it is told as a failure: %s", told)
		}
	})
}

func TestALinkThatIsNone(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{`{"link":""}`, `{}`, `nonsense`, `{"link":"file:///etc/passwd"}`, `{"link":"/relative"}`, `{"link":"http://[bad"}`, `{"link":7}`} {
		t.Run(answer, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/link/upload") {
					_, _ = fmt.Fprint(w, answer) // the client is there
				}
			}))
			defer srv.Close()
			var log buffer
			client := newClient(t, logservice.Config{URL: srv.URL, Log: logger(&log)})
			s := client.Stream(t.Context(), key, logservice.StreamOptions{})
			finish(s)
			if !strings.Contains(log.String(), "log is not kept") {
				t.Errorf("no word of it: %q", log.String())
			}
		})
	}
}

func TestTheClientPairIsShownToTheServiceAndToNobodyElse(t *testing.T) {
	t.Parallel()
	shown := make(chan string, 10)
	handler := func(who string, link func() string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			shown <- fmt.Sprintf("%s %s %d", who, r.Method, len(r.TLS.PeerCertificates))
			if strings.HasSuffix(r.URL.Path, "/link/upload") {
				_ = json.NewEncoder(w).Encode(map[string]any{"link": link()}) // the client is there
			}
		})
	}
	start := func(h http.Handler) *httptest.Server {
		srv := httptest.NewUnstartedServer(h)
		srv.TLS = serverTLS()
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return srv
	}
	store := start(handler("store", nil))
	service := start(handler("service", func() string { return store.URL + "/b?sig=1" }))
	cert, key := clientPair(t)
	client := newClient(t, logservice.Config{URL: service.URL, ClientCert: cert, ClientKey: key})
	logservice.Trust(client, service.Certificate())
	finish(client.Stream(t.Context(), "k", logservice.StreamOptions{}))
	close(shown)
	var got []string
	for s := range shown {
		got = append(got, s)
	}
	want := []string{"service POST 1", "service POST 1", "store PUT 0", "service DELETE 1"}
	if !slices.Equal(got, want) {
		t.Errorf("certificates shown: %v, want %v", got, want)
	}
}

func TestRequestsTakeTheProxy(t *testing.T) {
	t.Parallel()
	var asked buffer
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(&asked, r.Method, r.URL.Host, r.Header.Get("X-Harness-Token")) // never fails
		w.WriteHeader(http.StatusNoContent)
	}))
	defer proxy.Close()
	to, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(t, logservice.Config{URL: "http://logs.invalid", Token: token, Indirect: true, Proxy: http.ProxyURL(to)})
	finish(client.Stream(t.Context(), key, logservice.StreamOptions{}))
	want := "POST logs.invalid LOGTOKEN\nPOST logs.invalid LOGTOKEN\nDELETE logs.invalid LOGTOKEN\n"
	if got := asked.String(); got != want {
		t.Errorf("the proxy was asked %q, want %q", got, want)
	}
}

func TestNothingIsMadeOfABadConfiguration(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cfg  logservice.Config
		want string
	}{
		{"no URL", logservice.Config{}, "URL of the log service: not of the form https://host/path"},
		{"another scheme", logservice.Config{URL: "ftp://host"}, "URL of the log service: not of the form https://host/path"},
		{"no URL at all, and no word of the password in it", logservice.Config{URL: "https://u:secret@h\x7f"}, "URL of the log service: net/url: invalid control character in URL"},
		{"half a pair", logservice.Config{URL: "https://h", ClientCert: []byte("x")}, "client certificate for the log service: tls: failed to find any PEM data in certificate input"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := logservice.New(c.cfg); err == nil || err.Error() != c.want {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

func TestAServiceThatIsNotThere(t *testing.T) {
	t.Parallel()
	inBubble(t, func(cfg *logservice.Config) { cfg.URL = "http://nowhere.test" }, func(t *testing.T, r *rig) {
		s := r.client.Stream(t.Context(), key, logservice.StreamOptions{})
		write(s, "text\n")
		if took := finish(s); took > 35*time.Second {
			t.Errorf("the end took %s", took)
		}
		if !r.client.Failing() {
			t.Error("the service does not count as failing")
		}
		if told := r.log.String(); strings.Count(told, "level=WARN") != 1 || !strings.Contains(told, "no such host") {
			t.Errorf("want one warning: %s", told)
		}
	})
}

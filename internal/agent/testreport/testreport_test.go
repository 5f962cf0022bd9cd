package testreport_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent/testreport"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

func TestReportsOfBothKinds(t *testing.T) {
	t.Parallel()
	type result = testreport.Result
	cases := map[string][]testreport.Case{
		"junit.xml": {
			{Name: "passes", ClassName: "pkg.A", FileName: "a_test.go", SuiteName: "outer", Result: result{Status: "passed"}, DurationMS: 1_234_500},
			{
				Name: "fails", ClassName: "pkg.B", SuiteName: "inner", DurationMS: 250, Stdout: "printed ?[31mred", Stderr: "to stderr",
				Result: result{Status: "failed", Message: "want 1 & got 2", Type: "AssertionError", Desc: "a_test.go:7: <trace>"},
			},
			{Name: "breaks", SuiteName: "inner", DurationMS: 2000, Result: result{Status: "error", Message: "boom", Type: "Panic", Desc: "stack"}},
			{Name: "is skipped", ClassName: "pkg.A", SuiteName: "outer", Result: result{Status: "skipped", Message: "not today"}},
			{Name: "flickers", ClassName: "pkg.A", SuiteName: "outer", Result: result{Status: "passed"}, Flaky: true},
		},
		"results.trx": {
			{Name: "Adds", ClassName: "Calc.Tests", SuiteName: "Calc.Tests", Result: result{Status: "passed"}, DurationMS: 1500, Stdout: "out"},
			{
				Name: "Divides", ClassName: "Calc.Tests", SuiteName: "Calc.Tests", DurationMS: 60_000,
				Result: result{Status: "failed", Message: "by zero", Desc: "at Divides()"},
			},
			{Name: "Waits", Result: result{Status: "error"}},
			{Name: "Later", Result: result{Status: "skipped"}},
		},
	}
	for name, want := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, problems := testreport.Read(t.Context(), []string{filepath.Join("testdata", name)})
			if len(problems) > 0 {
				t.Errorf("problems: %v", problems)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestABadReportCostsOnlyItself(t *testing.T) {
	t.Parallel()
	one := `<testsuite name="s"><testcase name="a"/>`
	for _, c := range []struct {
		name, text string
		cases      int
		problem    string
	}{
		{"another kind of XML", `<project><name>x</name></project>`, 0, ""},
		{"no XML", "total: 3 passed", 0, ""},
		{"nothing", "", 0, ""},
		{"one that was cut off keeps what it has", one, 1, "unexpected EOF"},
		{"one that was cut off in an element", one + `<testcase na`, 1, "unexpected EOF"},
		{"bytes that are no text", one + "<testcase name=\"\xff\"/></testsuite>", 1, "invalid UTF-8"},
		{"elements in each other without end", strings.Repeat("<a>", 2000), 0, "more than 1000 elements in each other"},
		{"Latin-1", "<?xml version='1.0' encoding='ISO-8859-1'?><testcase name='\xe9'/>", 1, ""},
		{"an unknown entity", `<testcase name="a">&nbsp;</testcase>`, 1, ""},
		{"ends without beginnings", `</testsuite></testcase><testcase name="a"/>`, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "r.xml")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			cases, problems := testreport.Read(t.Context(), []string{path, filepath.Join("testdata", "junit.xml")})
			if len(cases) != c.cases+5 {
				t.Errorf("%d tests, want %d and those of the good report", len(cases), c.cases)
			}
			switch {
			case c.problem == "" && len(problems) > 0:
				t.Errorf("problems: %v", problems)
			case c.problem != "" && (len(problems) != 1 || !strings.Contains(problems[0].Error(), c.problem) || !strings.Contains(problems[0].Error(), path)):
				t.Errorf("problems %v, want one of %s with %q", problems, path, c.problem)
			}
		})
	}
	if _, problems := testreport.Read(t.Context(), []string{t.TempDir(), "/no/such/report.xml"}); len(problems) != 2 {
		t.Errorf("a folder and a missing file: problems %v", problems)
	}
}

func TestOfLongTextsTheLastCharactersAreKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "r.xml")
	text := strings.Repeat("é", 100_000) + "end"
	if err := os.WriteFile(path, fmt.Appendf(nil, "<testcase name='%[1]s'><system-out>%[1]s</system-out></testcase>", text), 0o600); err != nil {
		t.Fatal(err)
	}
	cases, problems := testreport.Read(t.Context(), []string{path})
	if len(cases) != 1 || len(problems) > 0 {
		t.Fatalf("%d tests, problems %v", len(cases), problems)
	}
	for _, got := range []string{cases[0].Stdout, cases[0].Name} {
		if utf8.RuneCountInString(got) != 8000 || !strings.HasSuffix(got, "éend") || !utf8.ValidString(got) {
			t.Errorf("%d characters, ending %q", utf8.RuneCountInString(got), got[len(got)-5:])
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a.xml", "b.txt", "sub/c.xml", "sub/deep/er/d.xml", "sub/deep/e.trx", "home/f.xml", "we[ird/g.xml"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		globs []string
		want  []string
	}{
		{"one file", []string{"a.xml"}, []string{"a.xml"}},
		{"a file that is not there", []string{"no.xml"}, nil},
		{"a folder is no report", []string{"sub"}, nil},
		{"in one folder", []string{"*.xml"}, []string{"a.xml"}},
		{"in a folder below", []string{"*/*.xml"}, []string{"home/f.xml", "sub/c.xml", "we[ird/g.xml"}},
		{"at any depth, and at none", []string{"**/*.xml"}, []string{"a.xml", "home/f.xml", "sub/c.xml", "sub/deep/er/d.xml", "we[ird/g.xml"}},
		{"all below a folder", []string{"sub/**"}, []string{"sub/c.xml", "sub/deep/e.trx", "sub/deep/er/d.xml"}},
		{"in between", []string{"sub/**/er/*.xml"}, []string{"sub/deep/er/d.xml"}},
		{"each once", []string{"a.xml", "*.xml", " ", "./a.xml"}, []string{"a.xml"}},
		{"at home", []string{"~/f.xml", "~/**/*.xml"}, []string{"home/f.xml"}},
		{"at a full path", []string{filepath.Join(dir, "sub", "*.xml")}, []string{"sub/c.xml"}},
		{"up and down", []string{"sub/../a.xml"}, []string{"a.xml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found, err := testreport.Find(t.Context(), c.globs, dir, filepath.Join(dir, "home"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				rel, err := filepath.Rel(dir, f)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, rel)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, c := range []struct{ glob, dir, want string }{
		{"[", dir, "reports [: syntax error in pattern"},
		{"**/*.xml", "", "reports **/*.xml: not below any folder; the step has no working_dir"},
	} {
		if _, err := testreport.Find(t.Context(), []string{c.glob}, c.dir, ""); err == nil || err.Error() != c.want {
			t.Errorf("%s: error %v, want %s", c.glob, err, c.want)
		}
	}
}

func TestWhatIsLookedForTooLongIsGivenUp(t *testing.T) {
	t.Parallel()
	late := errors.New("no time left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(late)
	if _, err := testreport.Find(ctx, []string{"**/*.xml"}, ".", ""); !errors.Is(err, late) {
		t.Errorf("find: %v", err)
	}
	if cases, problems := testreport.Read(ctx, []string{filepath.Join("testdata", "junit.xml")}); len(cases) != 0 || len(problems) != 1 || !errors.Is(problems[0], late) {
		t.Errorf("read: %d tests, %v", len(cases), problems)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	cases, _ := testreport.Read(t.Context(), []string{filepath.Join("testdata", "junit.xml")})
	const want = `Harness Test Report
+-------+--------+--------+---------+-----------+
| Total | Passed | Failed | Skipped | Duration  |
+-------+--------+--------+---------+-----------+
|     5 |      2 |      2 |       1 | 20m36.75s |
+-------+--------+--------+---------+-----------+
failed: pkg.B fails: want 1 & got 2
error: breaks: boom
`
	if diff := cmp.Diff(want, testreport.Table(cases)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	many := testreport.Table(failures(30))
	if n := strings.Count(many, "failed: "); n != 20 || !strings.HasSuffix(many, "and 10 more\n") {
		t.Errorf("of 30 failures %d are named:\n%s", n, many)
	}
}

// failures are n tests that failed.
func failures(n int) []testreport.Case {
	cases := make([]testreport.Case, n)
	for i := range cases {
		cases[i] = testreport.Case{Name: fmt.Sprint(i), Result: testreport.Result{Status: testreport.Failed}}
	}
	return cases
}

func target(address string) testreport.Target {
	return testreport.Target{
		URL: address, Token: "TITOKEN", Account: "a&c", Org: "o", Project: "p", Pipeline: "pl", Build: "7", Stage: "st", Step: "the step",
		Repo: "r/r", Sha: "abc", CommitLink: "https://git.test/c?x=1",
	}
}

func TestUpload(t *testing.T) {
	t.Parallel()
	var query, token, body string
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		_, _ = b.ReadFrom(r.Body) // the client is there
		query, token, body = r.URL.Path+"?"+r.URL.RawQuery, r.Header.Get("X-Harness-Token"), b.String()
	}))
	defer srv.Close()
	cases := []testreport.Case{{Name: "n", ClassName: "c", Result: testreport.Result{Status: testreport.Passed}, DurationMS: 3}}
	if err := testreport.Upload(t.Context(), srv.Client(), target(srv.URL+"/ti/"), cases); err != nil {
		t.Fatal(err)
	}
	const want = "/ti/reports/write?accountId=a%26c&orgId=o&projectId=p&pipelineId=pl&buildId=7&stageId=st&stepId=the+step&report=junit" +
		"&repo=r%2Fr&sha=abc&commitLink=https%3A%2F%2Fgit.test%2Fc%3Fx%3D1&parentUniqueId="
	if query != want || token != "TITOKEN" {
		t.Errorf("sent to %s with token %q, want %s", query, token, want)
	}
	const wantBody = `[{"name":"n","class_name":"c","file_name":"","suite_name":"","result":{"status":"passed","message":"","type":"","desc":""},"duration_ms":3,"stdout":"","stderr":"","flaky":false}]`
	if body != wantBody || !json.Valid([]byte(body)) {
		t.Errorf("sent %s, want %s", body, wantBody)
	}
}

// roundTrip is a service without a socket, for bubbles.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAnUploadIsTriedAgainForAMinute(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		answers []int // the last one again and again; 0: none
		tries   int32 // 0: several
		atMost  time.Duration
		want    string
	}{
		{"taken", []int{204}, 1, 0, ""},
		{"in trouble twice", []int{503, 500, 200}, 3, 3 * time.Second, ""},
		{"refused", []int{403}, 1, 0, "test service: answered 403: why"},
		{"always in trouble", []int{500}, 0, time.Minute, "test service: answered 500: why (not taken within 1m0s)"},
		{"silent", []int{0}, 0, time.Minute + time.Second, "test service: no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testbubble.Run(t, func(t *testing.T) {
				var tries atomic.Int32
				client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
					n := int(tries.Add(1))
					status := c.answers[min(n, len(c.answers))-1]
					if status == 0 {
						<-r.Context().Done()
						return nil, fmt.Errorf("no answer: %w", r.Context().Err())
					}
					rec := httptest.NewRecorder()
					http.Error(rec, "why", status)
					return rec.Result(), nil
				})}
				began := time.Now()
				err := testreport.Upload(t.Context(), client, target("http://ti.test"), failures(1))
				switch {
				case c.want == "" && err != nil:
					t.Errorf("error %v", err)
				case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
					t.Errorf("error %v, want %s", err, c.want)
				}
				if took := time.Since(began); took > c.atMost {
					t.Errorf("took %s, want at most %s", took, c.atMost)
				}
				if c.tries != 0 && tries.Load() != c.tries {
					t.Errorf("%d tries, want %d", tries.Load(), c.tries)
				}
			})
		})
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"junit.xml", "results.trx"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "r")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cases, _ := testreport.Read(t.Context(), []string{path})
		for _, c := range cases {
			if c.DurationMS < 0 || c.Result.Status == "" {
				t.Errorf("test %+v", c)
			}
		}
		if n := testreport.Summarize(cases); n.Passed+n.Failed+n.Skipped != n.Total {
			t.Errorf("summary %+v", n)
		}
		if table := testreport.Table(cases); !strings.HasSuffix(table, "\n") {
			t.Errorf("table %q", table)
		}
	})
}

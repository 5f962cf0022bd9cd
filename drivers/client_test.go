package drivers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// bare is a driver without abilities whose answers are set by a test.
type bare struct {
	err      error
	destroys []error
	listing  drivers.Listing
	creates  int
}

func (b *bare) Scope() string              { return "bare:1" }
func (b *bare) Ping(context.Context) error { return b.err }
func (b *bare) Create(context.Context, drivers.Spec) (drivers.Ref, error) {
	b.creates++
	return drivers.Ref{ID: "id-1"}, b.err
}

func (b *bare) Destroy(context.Context, []drivers.Ref, drivers.DestroyOptions) []error {
	return b.destroys
}

func (b *bare) List(context.Context, drivers.Query) (drivers.Listing, error) {
	return b.listing, b.err
}

// able has every ability.
type able struct{ bare }

func (a *able) Suspend(context.Context, drivers.Ref) error { return a.err }
func (a *able) Resume(_ context.Context, r drivers.Ref) (drivers.Instance, error) {
	return drivers.Instance{Ref: r, Status: drivers.StatusRunning}, a.err
}
func (a *able) Pause(context.Context, drivers.Ref) error                      { return a.err }
func (a *able) Unpause(context.Context, drivers.Ref) error                    { return a.err }
func (a *able) Identify(context.Context, drivers.Ref, drivers.Identity) error { return a.err }
func (a *able) Advice(context.Context) []drivers.Advice                       { return []drivers.Advice{{Part: "disks"}} }

func (a *able) DestroyDisks(_ context.Context, n []drivers.Ref) []error { return make([]error, len(n)) }

func (a *able) Console(_ context.Context, _ drivers.Ref, w io.Writer, _ int64) error {
	_, err := io.WriteString(w, "boot\n")
	return errors.Join(err, a.err)
}

func goodSpec() drivers.Spec {
	return drivers.Spec{Name: "m-1", Tags: drivers.Tags{Controller: "c1"}}
}

func TestClientNamesDriverPoolAndCallOnce(t *testing.T) {
	t.Parallel()
	cause := fmt.Errorf("%w: zone is full", drivers.ErrCapacity)
	inner := drivers.NewClient(&able{bare{err: cause}}, drivers.ClientOptions{Pool: "linux", Type: "able"})

	_, err := inner.Create(t.Context(), goodSpec())
	if got, want := err.Error(), "able pool linux: create m-1: no capacity: zone is full"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	if !errors.Is(err, drivers.ErrCapacity) {
		t.Error("the kind is lost")
	}
	op, ok := errors.AsType[*drivers.OpError](err)
	if !ok || op.Op != "create" || op.Subject != "m-1" {
		t.Errorf("op error %+v, want one of create m-1", op)
	}

	outer := drivers.NewClient(&bare{err: err}, drivers.ClientOptions{Pool: "other", Type: "outer"})
	if again := outer.Ping(t.Context()); again != err { //nolint:errorlint // the very same
		t.Errorf("wrapped twice: %v", again)
	}
}

func TestClientWithoutAbilities(t *testing.T) {
	t.Parallel()
	c := drivers.NewClient(&bare{}, drivers.ClientOptions{Pool: "p", Type: "bare"})
	if c.CanHibernate() || c.CanPause() || c.CanIdentify() || c.CanReadConsole() || c.CanKeepDisks() {
		t.Error("a bare driver has abilities")
	}
	if got := c.Advice(t.Context()); got != nil {
		t.Errorf("a bare driver advises %v", got)
	}
	ref := drivers.Ref{Name: "m-1"}
	_, resume := c.Resume(t.Context(), ref)
	_, find := c.Find(t.Context(), ref)
	for op, err := range map[string]error{
		"suspend":  c.Suspend(t.Context(), ref),
		"resume":   resume,
		"find":     find,
		"pause":    c.Pause(t.Context(), ref),
		"unpause":  c.Unpause(t.Context(), ref),
		"identify": c.Identify(t.Context(), ref, drivers.Identity{}),
		"console":  c.Console(t.Context(), ref, io.Discard, 1),
		"disks":    c.DestroyDisks(t.Context(), []drivers.Ref{{Name: "d"}})[0],
	} {
		if !errors.Is(err, drivers.ErrUnsupported) {
			t.Errorf("%s: %v, want unsupported", op, err)
		}
	}
}

func TestClientWithAbilities(t *testing.T) {
	t.Parallel()
	c := drivers.NewClient(&able{}, drivers.ClientOptions{Pool: "p", Type: "able"})
	if !c.CanHibernate() || !c.CanPause() || !c.CanIdentify() || !c.CanReadConsole() || !c.CanKeepDisks() {
		t.Error("an ability was not found")
	}
	ref := drivers.Ref{Name: "m-1"}
	inst, err := c.Resume(t.Context(), ref)
	if err != nil || inst.Status != drivers.StatusRunning {
		t.Errorf("resume: %+v, %v", inst, err)
	}
	var console bytes.Buffer
	if err := c.Console(t.Context(), ref, &console, 10); err != nil || console.String() != "boot\n" {
		t.Errorf("console: %q, %v", console.String(), err)
	}
	if got := c.Advice(t.Context()); len(got) != 1 || got[0].Part != "disks" {
		t.Errorf("advice: %v", got)
	}
	if errs := c.DestroyDisks(t.Context(), []drivers.Ref{{Name: "a"}, {Name: "b"}}); errors.Join(errs...) != nil || len(errs) != 2 {
		t.Errorf("disks: %v", errs)
	}
}

// mortal knows better than its type.
type mortal struct {
	bare
	dies bool
}

func (m *mortal) Dies() bool { return m.dies }

func TestClientTellsWhetherMachinesDieWithTheRunner(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		d      drivers.Driver
		byType bool
		want   bool
	}{
		{"the type says yes", &bare{}, true, true},
		{"the type says no", &bare{}, false, false},
		{"this pool's do not", &mortal{dies: false}, true, false},
		{"this pool's do", &mortal{dies: true}, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := drivers.NewClient(tc.d, drivers.ClientOptions{Dies: tc.byType}).Dies(); got != tc.want {
				t.Errorf("dies %v, want %v", got, tc.want)
			}
		})
	}
}

func TestClientDestroyAnswersForEveryRef(t *testing.T) {
	t.Parallel()
	refs := []drivers.Ref{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	boom := errors.New("boom")
	for _, tc := range []struct {
		name   string
		driver []error
		want   []string
	}{
		{"one fails", []error{nil, boom, nil}, []string{"", "bare pool p: destroy b: boom", ""}},
		{"an answer is missing and so no confirmation", []error{nil, nil}, []string{"", "", "bare pool p: destroy c: the driver gave no answer for this machine"}},
		{"more answers than refs", []error{nil, nil, nil, boom}, []string{"", "", ""}},
		{"nothing at all", nil, []string{
			"bare pool p: destroy a: the driver gave no answer for this machine",
			"bare pool p: destroy b: the driver gave no answer for this machine",
			"bare pool p: destroy c: the driver gave no answer for this machine",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := drivers.NewClient(&bare{destroys: tc.driver}, drivers.ClientOptions{Pool: "p", Type: "bare"})
			var got []string
			for _, err := range c.Destroy(t.Context(), refs, drivers.DestroyOptions{}) {
				if err == nil {
					got = append(got, "")
				} else {
					got = append(got, err.Error())
				}
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestClientRefusesWhatCouldNotBeFoundAgain(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		spec drivers.Spec
		ok   bool
	}{
		{"a proper spec", goodSpec(), true},
		{"63 characters", drivers.Spec{Name: "m" + strings.Repeat("x", 62), Tags: drivers.Tags{Controller: "c"}}, true},
		{"64 characters", drivers.Spec{Name: "m" + strings.Repeat("x", 63), Tags: drivers.Tags{Controller: "c"}}, false},
		{"no name", drivers.Spec{Tags: drivers.Tags{Controller: "c"}}, false},
		{"upper case", drivers.Spec{Name: "M-1", Tags: drivers.Tags{Controller: "c"}}, false},
		{"a path", drivers.Spec{Name: "../m", Tags: drivers.Tags{Controller: "c"}}, false},
		{"a leading digit", drivers.Spec{Name: "1m", Tags: drivers.Tags{Controller: "c"}}, false},
		{"a trailing hyphen", drivers.Spec{Name: "m-", Tags: drivers.Tags{Controller: "c"}}, false},
		{"no controller", drivers.Spec{Name: "m-1"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := &bare{}
			ref, err := drivers.NewClient(d, drivers.ClientOptions{Pool: "p", Type: "bare"}).Create(t.Context(), tc.spec)
			if tc.ok {
				if err != nil || ref.Name != tc.spec.Name || ref.ID != "id-1" {
					t.Errorf("ref %+v, %v", ref, err)
				}
				return
			}
			if !errors.Is(err, drivers.ErrInvalid) || d.creates != 0 {
				t.Errorf("%v after %d calls, want invalid after none", err, d.creates)
			}
		})
	}
}

func TestClientListingWithAnErrorIsNeverComplete(t *testing.T) {
	t.Parallel()
	now := time.Now()
	future := now.Add(time.Hour)
	c := drivers.NewClient(&bare{err: errors.New("page 2"), listing: drivers.Listing{Complete: true, At: future}}, drivers.ClientOptions{})
	l, err := c.List(t.Context(), drivers.Query{})
	if err == nil || l.Complete {
		t.Errorf("complete %v with error %v", l.Complete, err)
	}
	if l.At.IsZero() || !l.At.Before(future) {
		t.Errorf("at %v, want no later than the call", l.At)
	}
}

func TestClientObservesAndLogs(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	var seen []string
	c := drivers.NewClient(&bare{err: drivers.ErrQuota}, drivers.ClientOptions{
		Pool: "p", Type: "bare",
		Log:     slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Observe: func(op string, d time.Duration, kind string) { seen = append(seen, fmt.Sprint(op, " ", kind, d >= 0)) },
	})
	spec := goodSpec()
	spec.Identity = drivers.Identity{Machine: "m-1", Key: []byte("hidden")}
	_, err := c.Create(t.Context(), spec)
	c.Destroy(t.Context(), []drivers.Ref{{Name: "a"}}, drivers.DestroyOptions{})
	if d := cmp.Diff([]string{"create quotatrue", "destroy transienttrue"}, seen); d != "" {
		t.Error(d)
	}
	for _, want := range []string{"msg=\"driver call\"", "op=create", "driver=bare", "pool=p", "name=m-1", "kind=quota", "count=1"} {
		if !strings.Contains(buf.String(), want) {
			t.Errorf("log lacks %s:\n%s", want, buf.String())
		}
	}
	if strings.Contains(buf.String()+err.Error(), "hidden") {
		t.Error("a key reached the log or the error")
	}
}

func TestAGuardedClientMakesNoCallItsGuardRefuses(t *testing.T) {
	t.Parallel()
	stop := errors.New("not any more")
	allowed := true
	c := drivers.NewClient(&able{}, drivers.ClientOptions{Pool: "p", Type: "bare"}).Guarded(func(context.Context) error {
		if allowed {
			return nil
		}
		return stop
	})
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	allowed = false
	calls := map[string]error{
		"ping":          c.Ping(t.Context()),
		"suspend":       c.Suspend(t.Context(), drivers.Ref{Name: "m"}),
		"destroy":       c.Destroy(t.Context(), []drivers.Ref{{Name: "m"}}, drivers.DestroyOptions{})[0],
		"destroy disks": c.DestroyDisks(t.Context(), []drivers.Ref{{Name: "d"}})[0],
	}
	_, calls["create"] = c.Create(t.Context(), drivers.Spec{Name: "m", Tags: drivers.Tags{Controller: "c"}})
	_, calls["list"] = c.List(t.Context(), drivers.Query{})
	for name, err := range calls {
		if !errors.Is(err, stop) {
			t.Errorf("%s answered %v, want the guard's error", name, err)
		}
	}
}

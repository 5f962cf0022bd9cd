package drivertest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
)

// defectVariable tells a child of this test which defect its driver has.
const defectVariable = "DRIVERTEST_DEFECT"

// flawed is a good driver with at most one defect, each of them one that some
// driver of another runner has had.
type flawed struct {
	*noop.Driver
	c *cloud
}

// cloud is a pretend cloud, what it may be told to do wrong, and what the
// driver of a defect has lost in it.
type cloud struct {
	defect string
	world  *noop.World

	mu     sync.Mutex
	refuse map[string]bool
	lost   []string
	fail   error
	lose   bool
	hide   bool
}

func (c *cloud) is(defect string) bool { return c.defect == defect }

var serial atomic.Int64

func (d *flawed) Create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	c := d.c
	c.mu.Lock()
	fail, lose := c.fail, c.lose
	c.fail, c.lose = nil, false
	if c.is("a cancelled create leaves a disk") && ctx.Err() != nil || c.is("a failed create leaves an address") && fail != nil {
		c.lost = append(c.lost, "rest of "+spec.Name)
	}
	c.mu.Unlock()
	if fail != nil {
		return drivers.Ref{}, fail
	}
	if c.is("tags are lost") {
		spec.Tags.Labels = nil
	}
	if c.is("a name makes a machine each time") {
		spec.Name += fmt.Sprintf("-%d", serial.Add(1))
	}
	if c.is("what it cannot give is a transient error") && spec.GPU {
		return drivers.Ref{}, errors.New("no GPU here")
	}
	if c.is("zones it does not have are an error") && len(spec.Zones) > 0 {
		return drivers.Ref{}, fmt.Errorf("%w: no zone %s", drivers.ErrInvalid, spec.Zones[0])
	}
	ref, err := d.Driver.Create(ctx, spec)
	if lose {
		err = errors.New("connection reset")
	}
	if c.is("kinds of errors are lost") && err != nil {
		err = errors.New(err.Error())
	}
	return ref, err
}

func (d *flawed) Destroy(ctx context.Context, refs []drivers.Ref, o drivers.DestroyOptions) []error {
	c := d.c
	errs := make([]error, len(refs))
	for i, ref := range refs {
		c.mu.Lock()
		refused := c.refuse[ref.Name]
		c.mu.Unlock()
		known := slices.ContainsFunc(c.world.Machines(), func(m drivers.Instance) bool { return m.Name == ref.Name })
		switch {
		case refused && c.is("a failed destroy is reported as done"):
		case refused:
			errs[i] = errors.New("the cloud refuses")
		case c.is("an unknown machine is an error") && !known:
			errs[i] = drivers.ErrNotFound
		case c.is("a name alone is not enough") && ref.ID == "":
		default:
			errs[i] = d.Driver.Destroy(ctx, []drivers.Ref{ref}, o)[0]
		}
		if errs[i] != nil && c.is("the first failure ends the batch") {
			for j := i + 1; j < len(refs); j++ {
				errs[j] = errs[i]
			}
			return errs
		}
	}
	return errs
}

func (d *flawed) List(ctx context.Context, q drivers.Query) (drivers.Listing, error) {
	c := d.c
	if c.is("the filter is not applied") {
		q.Controller = ""
	}
	l, err := d.Driver.List(ctx, q)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hide {
		c.hide = false
		l.Instances, l.Complete = nil, c.is("a partial listing is complete")
	}
	if c.is("dead machines are not listed") {
		l.Instances = slices.DeleteFunc(l.Instances, func(m drivers.Instance) bool { return m.Status == drivers.StatusDead })
	}
	return l, err
}

func (d *flawed) Suspend(ctx context.Context, ref drivers.Ref) error {
	for _, m := range d.c.world.Machines() {
		if d.c.is("suspend cannot be repeated") && m.Name == ref.Name && m.Status == drivers.StatusSuspended {
			return errors.New("it is suspended already")
		}
	}
	return d.Driver.Suspend(ctx, ref)
}

func (d *flawed) Resume(ctx context.Context, ref drivers.Ref) (drivers.Instance, error) {
	for _, m := range d.c.world.Machines() {
		if d.c.is("a resume that fails destroys") && m.Name == ref.Name && m.Status == drivers.StatusDead {
			d.c.world.Vanish(ref.Name)
			return drivers.Instance{}, errors.New("it cannot be resumed")
		}
	}
	return d.Driver.Resume(ctx, ref)
}

func (d *flawed) Console(ctx context.Context, ref drivers.Ref, w io.Writer, limit int64) error {
	if d.c.is("the console is cut at its beginning") {
		limit = max(limit, 1<<20)
	}
	return d.Driver.Console(ctx, ref, w, limit)
}

func (c *cloud) driver(t testing.TB, cfg noop.Config) drivers.Driver {
	t.Helper()
	d, err := noop.New(drivers.Options{Pool: "pool", Config: &cfg, DataDir: "/data"}, noop.Setup{World: c.world})
	if err != nil {
		t.Fatal(err)
	}
	return &flawed{d, c}
}

// TestSuite runs the suite on a driver without a defect, or in a child of
// TestSuiteSeesDefects on one with.
func TestSuite(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(*testing.T) drivertest.Harness {
		c := &cloud{defect: os.Getenv(defectVariable), world: noop.NewWorld(), refuse: make(map[string]bool)}
		spec := func(testing.TB) drivers.Spec { return drivers.Spec{Name: fmt.Sprintf("m-%d", serial.Add(1))} }
		set := func(f func()) { c.mu.Lock(); f(); c.mu.Unlock() }
		return drivertest.Harness{
			Open: func(t testing.TB) drivers.Driver { return c.driver(t, noop.Config{}) },
			Spec: spec,
			Existing: func(testing.TB) []string {
				c.mu.Lock()
				all := slices.Clone(c.lost)
				c.mu.Unlock()
				for _, m := range c.world.Machines() {
					all = append(all, m.Name)
				}
				return all
			},
			FailDestroy: func(_ testing.TB, ref drivers.Ref) func() {
				set(func() { c.refuse[ref.Name] = true })
				return func() { set(func() { delete(c.refuse, ref.Name) }) }
			},
			FailCreate:   func(_ testing.TB, err error) { set(func() { c.fail = err }) },
			LoseAnswer:   func(testing.TB) { set(func() { c.lose = true }) },
			HideFromList: func(testing.TB) { set(func() { c.hide = true }) },
			Kill:         func(_ testing.TB, ref drivers.Ref) { c.world.Kill(ref.Name, "host error") },
			Full: func(t testing.TB) drivers.Driver {
				s := spec(t)
				s.Tags.Controller = "c"
				if _, err := c.driver(t, noop.Config{}).Create(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				return c.driver(t, noop.Config{Capacity: 1})
			},
			Invalid:  func(testing.TB) drivers.Spec { return drivers.Spec{Name: "../escape"} },
			Patience: 2e9,
		}
	})
}

const everyField = "create with every field set is made, or refused as invalid where the driver has no such machines"

// TestSuiteSeesDefects: a suite that passes everything proves nothing. For
// each defect the test that is about it fails.
func TestSuiteSeesDefects(t *testing.T) {
	t.Parallel()
	if os.Getenv(defectVariable) != "" {
		return // this is a child, which only runs the suite
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ defect, test string }{
		{"tags are lost", "create is listed with its tags"},
		{"a name makes a machine each time", "create twice returns the same machine"},
		{"a cancelled create leaves a disk", "create with a cancelled context leaves nothing unlisted"},
		{"a failed create leaves an address", "create that fails leaves nothing unlisted"},
		{"kinds of errors are lost", "create without room is a capacity error and leaves nothing"},
		{"kinds of errors are lost", "create of what can never succeed is invalid and leaves nothing"},
		{"what it cannot give is a transient error", everyField},
		{"zones it does not have are an error", everyField},
		{"a failed destroy is reported as done", "destroy reports exactly the failing one, in every order"},
		{"the first failure ends the batch", "destroy reports exactly the failing one, in every order"},
		{"an unknown machine is an error", "destroy of an unknown machine is no error"},
		{"an unknown machine is an error", "destroy twice and twice at once is no error"},
		{"a name alone is not enough", "destroy by name alone is enough"},
		{"the filter is not applied", "list narrows to one controller"},
		{"a partial listing is complete", "list that cannot read everything is not complete"},
		{"dead machines are not listed", "destroy of a dead machine confirms its end"},
		{"suspend cannot be repeated", "suspend and resume can be repeated"},
		{"a resume that fails destroys", "resume that fails destroys nothing"},
		{"the console is cut at its beginning", "console is cut to its end and works on a dead machine"},
	} {
		t.Run(tc.defect+": "+tc.test, func(t *testing.T) {
			t.Parallel()
			name := strings.ReplaceAll(tc.test, " ", "_")
			cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestSuite$/^"+name+"$")
			cmd.Env = append(os.Environ(), defectVariable+"="+tc.defect)
			out, err := cmd.CombinedOutput()
			if _, failed := errors.AsType[*exec.ExitError](err); !failed || !strings.Contains(string(out), "--- FAIL: TestSuite/"+name) {
				t.Errorf("the suite does not see it: %v\n%s", err, out)
			}
		})
	}
}

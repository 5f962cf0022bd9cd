package drivers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"time"
)

// Ephemeral is implemented by drivers for whose type Registration.Dies is not
// the whole truth: one pool's machines end with the runner's process, another's
// do not.
type Ephemeral interface {
	// Dies says whether this pool's machines end with the runner's process.
	Dies() bool
}

// ClientOptions names the driver a client speaks for and who listens.
type ClientOptions struct {
	// Pool and Type stand in errors and logs.
	Pool string
	Type string
	// Dies is the type's Registration.Dies.
	Dies bool
	// Log gets one debug record per call. Nil: none.
	Log Logger
	// Observe is told of every call's duration and of its error's kind (see
	// Kind, "" for success). It must be quick and safe for concurrent use.
	// Nil: nobody.
	Observe func(op string, d time.Duration, kind string)
	// Now is the host's clock, for the time of listings. Nil: time.Now.
	Now func() time.Time
}

// Client is what the engine holds of a driver: the same calls, each timed,
// logged and with driver, pool and call named in its error, and the optional
// abilities as ordinary methods. It is as safe for concurrent use as the
// driver, and it never retries.
type Client struct {
	d          Driver
	o          ClientOptions
	hibernator Hibernator
	pauser     Pauser
	identifier Identifier
	disks      DiskKeeper
	console    ConsoleReader
	finder     Finder
	// guard, if set, is asked before each call.
	guard func(ctx context.Context) error
}

// NewClient wraps a driver and looks its abilities up, once.
func NewClient(d Driver, o ClientOptions) *Client {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	c := &Client{d: d, o: o}
	c.hibernator, _ = d.(Hibernator)
	c.pauser, _ = d.(Pauser)
	c.identifier, _ = d.(Identifier)
	c.disks, _ = d.(DiskKeeper)
	c.console, _ = d.(ConsoleReader)
	c.finder, _ = d.(Finder)
	return c
}

// Guarded returns a client of the same driver that asks guard before each call
// and makes none if it answers with an error, which is then the call's.
func (c *Client) Guarded(guard func(ctx context.Context) error) *Client {
	guarded := *c
	guarded.guard = guard
	return &guarded
}

func (c *Client) admit(ctx context.Context) error {
	if c.guard == nil {
		return nil
	}
	return c.guard(ctx)
}

// OpError is a driver's error with the call it came from. Every error of a
// Client is one, wrapped exactly once.
type OpError struct {
	// Type and Pool are the driver's, Op is the call in lower case ("create").
	Type, Pool, Op string
	// Subject is the machine or disk it was about, "" for a whole scope.
	Subject string
	Err     error
}

// Error reads "noop pool linux: create linux-abc: no capacity".
func (e *OpError) Error() string {
	op := e.Op
	if e.Subject != "" {
		op += " " + e.Subject
	}
	return fmt.Sprintf("%s pool %s: %s: %v", e.Type, e.Pool, op, e.Err)
}

// Unwrap gives the driver's own error.
func (e *OpError) Unwrap() error { return e.Err }

// Pool is the pool the client was made for.
func (c *Client) Pool() string { return c.o.Pool }

// Type is the registered name of the driver.
func (c *Client) Type() string { return c.o.Type }

// Scope is the driver's.
func (c *Client) Scope() string { return c.d.Scope() }

// CanHibernate says whether Suspend and Resume are supported.
func (c *Client) CanHibernate() bool { return c.hibernator != nil }

// CanPause says whether Pause and Unpause are supported.
func (c *Client) CanPause() bool { return c.pauser != nil }

// CanIdentify says whether the machine's identity is handed over by Identify
// rather than by boot data.
func (c *Client) CanIdentify() bool { return c.identifier != nil }

// CanKeepDisks says whether DestroyDisks is supported.
func (c *Client) CanKeepDisks() bool { return c.disks != nil }

// CanReadConsole says whether Console is supported.
func (c *Client) CanReadConsole() bool { return c.console != nil }

// CanFind says whether Find is supported.
func (c *Client) CanFind() bool { return c.finder != nil }

// Dies says whether the pool's machines end with the runner's process: by the
// driver's word if it is Ephemeral, else by its type's.
func (c *Client) Dies() bool {
	if e, ok := c.d.(Ephemeral); ok {
		return e.Dies()
	}
	return c.o.Dies
}

// Ping is the driver's.
func (c *Client) Ping(ctx context.Context) error {
	return c.call(ctx, "ping", "", func() error { return c.d.Ping(ctx) })
}

// Advice is the driver's, nil if it is no Adviser.
func (c *Client) Advice(ctx context.Context) []Advice {
	if a, ok := c.d.(Adviser); ok {
		return a.Advice(ctx)
	}
	return nil
}

// nameRule is what Spec.Name promises to every cloud.
var nameRule = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Create is the driver's. A spec that breaks the rules of Spec.Name, or that
// lacks the controller a sweep would look for, is refused with ErrInvalid
// before the cloud is asked: such a machine could not be found again.
func (c *Client) Create(ctx context.Context, spec Spec) (Ref, error) {
	var ref Ref
	err := c.call(ctx, "create", spec.Name, func() (err error) {
		if !nameRule.MatchString(spec.Name) {
			return fmt.Errorf("%w: name is not 1 to 63 characters of [a-z0-9-] that start with a letter", ErrInvalid)
		}
		if spec.Tags.Controller == "" {
			return fmt.Errorf("%w: tags name no controller", ErrInvalid)
		}
		ref, err = c.d.Create(ctx, spec)
		if err == nil && ref.Name == "" {
			ref.Name = spec.Name
		}
		return err
	})
	return ref, err
}

// Destroy is the driver's. The answer always has one entry per ref: what a
// driver did not answer for is an error, never a confirmation.
func (c *Client) Destroy(ctx context.Context, refs []Ref, o DestroyOptions) []error {
	start := time.Now()
	var got []error
	refused := c.admit(ctx)
	if refused == nil {
		got = c.d.Destroy(ctx, refs, o)
	}
	errs := make([]error, len(refs))
	for i, ref := range refs {
		err := errUnanswered
		switch {
		case refused != nil:
			err = refused
		case i < len(got):
			err = got[i]
		}
		errs[i] = c.wrap("destroy", ref.Name, err)
	}
	c.done(ctx, "destroy", "", start, errors.Join(errs...), slog.Int("count", len(refs)))
	return errs
}

var errUnanswered = errors.New("the driver gave no answer for this machine")

// List is the driver's. A listing that comes with an error is never complete,
// and At is never later than the call.
func (c *Client) List(ctx context.Context, q Query) (Listing, error) {
	start := c.o.Now()
	var l Listing
	err := c.call(ctx, "list", "", func() (err error) {
		l, err = c.d.List(ctx, q)
		return err
	})
	if err != nil {
		l.Complete = false
	}
	if l.At.IsZero() || l.At.After(start) {
		l.At = start
	}
	return l, err
}

// Suspend is the driver's, or ErrUnsupported.
func (c *Client) Suspend(ctx context.Context, ref Ref) error {
	return c.call(ctx, "suspend", ref.Name, func() error {
		if c.hibernator == nil {
			return ErrUnsupported
		}
		return c.hibernator.Suspend(ctx, ref)
	})
}

// Resume is the driver's, or ErrUnsupported.
func (c *Client) Resume(ctx context.Context, ref Ref) (Instance, error) {
	var inst Instance
	err := c.call(ctx, "resume", ref.Name, func() (err error) {
		if c.hibernator == nil {
			return ErrUnsupported
		}
		inst, err = c.hibernator.Resume(ctx, ref)
		return err
	})
	return inst, err
}

// Pause is the driver's, or ErrUnsupported.
func (c *Client) Pause(ctx context.Context, ref Ref) error {
	return c.call(ctx, "pause", ref.Name, func() error {
		if c.pauser == nil {
			return ErrUnsupported
		}
		return c.pauser.Pause(ctx, ref)
	})
}

// Unpause is the driver's, or ErrUnsupported.
func (c *Client) Unpause(ctx context.Context, ref Ref) error {
	return c.call(ctx, "unpause", ref.Name, func() error {
		if c.pauser == nil {
			return ErrUnsupported
		}
		return c.pauser.Unpause(ctx, ref)
	})
}

// Identify is the driver's, or ErrUnsupported.
func (c *Client) Identify(ctx context.Context, ref Ref, id Identity) error {
	return c.call(ctx, "identify", ref.Name, func() error {
		if c.identifier == nil {
			return ErrUnsupported
		}
		return c.identifier.Identify(ctx, ref, id)
	})
}

// Find is the driver's, or ErrUnsupported.
func (c *Client) Find(ctx context.Context, ref Ref) (Instance, error) {
	var inst Instance
	err := c.call(ctx, "find", ref.Name, func() (err error) {
		if c.finder == nil {
			return ErrUnsupported
		}
		inst, err = c.finder.Find(ctx, ref)
		return err
	})
	return inst, err
}

// DestroyDisks is the driver's, or ErrUnsupported for each disk.
func (c *Client) DestroyDisks(ctx context.Context, disks []Ref) []error {
	start := time.Now()
	var got []error
	refused := c.admit(ctx)
	if c.disks != nil && refused == nil {
		got = c.disks.DestroyDisks(ctx, disks)
	}
	errs := make([]error, len(disks))
	for i, disk := range disks {
		err := errUnanswered
		switch {
		case c.disks == nil:
			err = ErrUnsupported
		case refused != nil:
			err = refused
		case i < len(got):
			err = got[i]
		}
		errs[i] = c.wrap("destroy disk", disk.Name, err)
	}
	c.done(ctx, "destroy disk", "", start, errors.Join(errs...), slog.Int("count", len(disks)))
	return errs
}

// Console is the driver's, or ErrUnsupported.
func (c *Client) Console(ctx context.Context, ref Ref, w io.Writer, limit int64) error {
	return c.call(ctx, "console", ref.Name, func() error {
		if c.console == nil {
			return ErrUnsupported
		}
		return c.console.Console(ctx, ref, w, limit)
	})
}

func (c *Client) call(ctx context.Context, op, subject string, f func() error) error {
	start := time.Now()
	err := c.admit(ctx)
	if err == nil {
		err = f()
	}
	err = c.wrap(op, subject, err)
	c.done(ctx, op, subject, start, err)
	return err
}

func (c *Client) wrap(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*OpError](err); ok {
		return err
	}
	return &OpError{Type: c.o.Type, Pool: c.o.Pool, Op: op, Subject: subject, Err: err}
}

func (c *Client) done(ctx context.Context, op, subject string, start time.Time, err error, more ...slog.Attr) {
	took := time.Since(start)
	if c.o.Observe != nil {
		c.o.Observe(op, took, Kind(err))
	}
	if !c.o.Log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := append([]slog.Attr{
		slog.String("op", op), slog.String("driver", c.o.Type), slog.String("pool", c.o.Pool), slog.Duration("took", took),
	}, more...)
	if subject != "" {
		attrs = append(attrs, slog.String("name", subject))
	}
	if err != nil {
		attrs = append(attrs, slog.String("kind", Kind(err)), slog.Any("err", err))
	}
	c.o.Log.LogAttrs(ctx, slog.LevelDebug, "driver call", attrs...)
}

//go:build !no_google

package google

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	compute "cloud.google.com/go/compute/apiv1"
	"cloud.google.com/go/compute/apiv1/computepb"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// operations waits for changes to be done. A few in a zone are waited for one by
// one, by calls that the cloud answers when they are done; more are read
// together, by one list of the zone every few seconds. It is safe for concurrent
// use.
type operations struct {
	a     *account
	mu    sync.Mutex
	zones map[string]*zoneOperations
}

// single is how many operations of a zone are waited for one by one.
const single = 4

// zoneOperations are those of one zone that somebody waits for.
type zoneOperations struct {
	// turn is held by the one that reads the list for all.
	turn chan struct{}

	mu      sync.Mutex
	singles int
	listed  map[string]*awaited
	last    time.Time
}

// awaited is an operation in a list that somebody waits for.
type awaited struct {
	begun  time.Time
	missed int
	done   chan struct{}
	result *computepb.Operation
	err    error
}

// errForgotten is an operation that the cloud does not know any more.
var errForgotten = errors.New("the cloud knows nothing of the operation")

// await returns when an operation is done, with its error. It outlasts passing
// problems: only ctx ends it early.
func (o *operations) await(ctx context.Context, zone string, op *computepb.Operation) error {
	if op.GetStatus() == computepb.Operation_DONE {
		return failed(zone, op)
	}
	z := o.zone(zone)
	z.mu.Lock()
	if z.singles < single {
		z.singles++
		z.mu.Unlock()
		defer func() {
			z.mu.Lock()
			z.singles--
			z.mu.Unlock()
		}()
		return o.wait(ctx, zone, op.GetName())
	}
	w := &awaited{begun: time.Now(), done: make(chan struct{})}
	z.listed[op.GetName()] = w
	z.mu.Unlock()
	defer func() {
		z.mu.Lock()
		delete(z.listed, op.GetName())
		z.mu.Unlock()
	}()
	for {
		select {
		case <-w.done:
		case <-ctx.Done():
			return fmt.Errorf("operation %s: %w", op.GetName(), context.Cause(ctx))
		case z.turn <- struct{}{}:
			err := o.read(ctx, zone, z, w)
			<-z.turn
			if errors.Is(err, drivers.ErrAuth) {
				return err
			}
			if err != nil && ctx.Err() == nil && pause(ctx, listEvery) == nil {
				continue
			}
		}
		select {
		case <-w.done:
			if w.err != nil {
				return w.err
			}
			return failed(zone, w.result)
		default:
		}
	}
}

func (o *operations) zone(name string) *zoneOperations {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.zones == nil {
		o.zones = map[string]*zoneOperations{}
	}
	if o.zones[name] == nil {
		o.zones[name] = &zoneOperations{turn: make(chan struct{}, 1), listed: map[string]*awaited{}}
	}
	return o.zones[name]
}

// wait has the cloud answer when one operation is done.
func (o *operations) wait(ctx context.Context, zone, name string) error {
	for {
		var op *computepb.Operation
		err := o.a.call(ctx, operationGets, waitPatience, func(ctx context.Context) error {
			c, err := o.a.clients(ctx)
			if err != nil {
				return err
			}
			op, err = c.operations.Wait(ctx, &computepb.WaitZoneOperationRequest{Project: o.a.project, Zone: zone, Operation: name})
			return err
		})
		switch {
		case err == nil && op.GetStatus() == computepb.Operation_DONE:
			return failed(zone, op)
		case errors.Is(err, drivers.ErrNotFound):
			return fmt.Errorf("operation %s: %w", name, errForgotten)
		case errors.Is(err, drivers.ErrAuth):
			return err
		case err != nil:
			if pause(ctx, listEvery) != nil {
				return fmt.Errorf("operation %s: %w", name, err)
			}
		case ctx.Err() != nil:
			return fmt.Errorf("operation %s: %w", name, context.Cause(ctx))
		}
	}
}

// How often a zone's operations are listed: while the oldest that is waited for
// is young, and later; and how often one may be missing from the list.
const (
	listEvery  = 2 * time.Second
	listLater  = 4 * time.Second
	listYoung  = 10 * time.Second
	mostMissed = 5
)

// read lists a zone's operations once, in its own time, and tells who waits for
// them. It returns early when w is done.
func (o *operations) read(ctx context.Context, zone string, z *zoneOperations, w *awaited) error {
	z.mu.Lock()
	now := time.Now()
	oldest := now
	for _, other := range z.listed {
		if other.begun.Before(oldest) {
			oldest = other.begun
		}
	}
	every := listEvery
	if now.Sub(oldest) > listYoung {
		every = listLater
	}
	// The first list of a burst has something to show only in a while.
	next := z.last.Add(every)
	if soonest := w.begun.Add(listEvery); soonest.After(next) {
		next = soonest
	}
	z.mu.Unlock()
	t := time.NewTimer(next.Sub(now))
	defer t.Stop()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
	}
	z.mu.Lock()
	z.last = time.Now()
	wanted := make(map[string]*awaited, len(z.listed))
	for name, other := range z.listed {
		wanted[name] = other
	}
	z.mu.Unlock()
	query := url.Values{"orderBy": {"creationTimestamp desc"}}
	for {
		var page computepb.OperationList
		if err := o.a.page(ctx, "zones/"+url.PathEscape(zone)+"/operations", query, &page); err != nil {
			return err
		}
		older := false
		for _, op := range page.GetItems() {
			if at, err := time.Parse(time.RFC3339, op.GetInsertTime()); err == nil && at.Before(oldest.Add(-time.Minute)) {
				older = true
			}
			other := wanted[op.GetName()]
			if other == nil {
				continue
			}
			delete(wanted, op.GetName())
			if op.GetStatus() == computepb.Operation_DONE {
				other.finish(op, nil)
			}
		}
		if len(wanted) == 0 {
			return nil
		}
		if page.GetNextPageToken() == "" || older {
			break
		}
		query.Set("pageToken", page.GetNextPageToken())
	}
	for name, other := range wanted {
		if other.missed++; other.missed >= mostMissed {
			other.finish(nil, fmt.Errorf("operation %s: %w", name, errForgotten))
		}
	}
	return nil
}

// finish is called by the one that has the turn.
func (w *awaited) finish(op *computepb.Operation, err error) {
	select {
	case <-w.done:
	default:
		w.result, w.err = op, err
		close(w.done)
	}
}

// change begins a change of a zone's resource and returns when it is done, with
// the operation that it was.
func (a *account) change(ctx context.Context, zone string, begin func(context.Context, *clients) (*compute.Operation, error)) (*computepb.Operation, error) {
	op, err := a.begin(ctx, begin)
	if err != nil {
		return nil, err
	}
	return op, a.operations.await(ctx, zone, op)
}

// begin begins a change.
func (a *account) begin(ctx context.Context, call func(context.Context, *clients) (*compute.Operation, error)) (*computepb.Operation, error) {
	var op *computepb.Operation
	err := a.call(ctx, mutations, callPatience, func(ctx context.Context) error {
		c, err := a.clients(ctx)
		if err != nil {
			return err
		}
		began, err := call(ctx, c)
		if err == nil {
			op = proto.CloneOf(began.Proto())
		}
		return err
	})
	return op, err
}

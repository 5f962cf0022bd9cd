package fakecloud

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Call is one call of a cloud's API, as far as it is understood before it is
// carried out.
type Call struct {
	// Method is the cloud's own name of the operation:
	// "compute.instances.insert", "RunInstances".
	Method string
	// Name is the resource's, Zone where it is or shall be, Type its machine
	// type; each empty where the call does not say.
	Name, Zone, Type string
	// At is when it came, by the fake's clock.
	At time.Time
}

// Effect is what a fault does to a call.
type Effect int

// The effects of faults.
const (
	// Refuse answers with Fault.Err, or a fake's plain internal error, and does
	// nothing.
	Refuse Effect = iota
	// Lose carries the call out and drops the connection.
	Lose
	// Drop drops the connection and does nothing.
	Drop
	// Hang does nothing and answers nothing until the caller gives up.
	Hang
	// HangAfter carries the call out and answers nothing until the caller gives
	// up: the success after a time-out.
	HangAfter
	// Slow carries the call out Fault.For later.
	Slow
)

// Fault is one way in which a fake misbehaves.
type Fault struct {
	// Method limits it to one operation, Match to some calls; zero values limit
	// nothing.
	Method string
	Match  func(Call) bool
	// Skip is how many such calls it lets pass, Times how many it spoils then, 0
	// all.
	Skip, Times int
	Effect      Effect
	// Err is what Refuse answers with: an error of the fake's package, in the
	// cloud's own shape.
	Err error
	// For is how long Slow takes.
	For time.Duration
}

// Faults are a fake's present ones. The zero value has none. It is safe for
// concurrent use.
type Faults struct {
	mu  sync.Mutex
	all []*active
	// before and after are called around every call, see Around.
	before, after func(Call)
}

type active struct {
	Fault
	seen int
}

// Add has the fake misbehave until remove is called, or the fault's Times are
// over. Of several that fit a call the one added first counts.
func (f *Faults) Add(fault Fault) (remove func()) {
	a := &active{Fault: fault}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, a)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.all = slices.DeleteFunc(f.all, func(other *active) bool { return other == a })
	}
}

// Clear ends all faults.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = nil
}

// Stops has before called when a call has come, and after when it was carried
// out and is not yet answered: where a test kills the caller. Either may be nil
// and may panic with http.ErrAbortHandler.
func (f *Faults) Stops(before, after func(Call)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

// Around carries a call out unless a fault keeps it from being. The error is
// the fault's; a fault that drops the connection, or outlasts the caller,
// panics with http.ErrAbortHandler.
func (f *Faults) Around(ctx context.Context, c Call, carryOut func() error) error {
	f.mu.Lock()
	before, after := f.before, f.after
	fault := f.pick(c)
	f.mu.Unlock()
	if before != nil {
		before(c)
	}
	switch {
	case fault == nil:
	case fault.Effect == Refuse:
		return fault.Err
	case fault.Effect == Drop:
		panic(http.ErrAbortHandler)
	case fault.Effect == Hang:
		<-ctx.Done()
		panic(http.ErrAbortHandler)
	case fault.Effect == Slow:
		t := time.NewTimer(fault.For)
		defer t.Stop()
		select {
		case <-ctx.Done():
			panic(http.ErrAbortHandler)
		case <-t.C:
		}
	}
	err := carryOut()
	if after != nil {
		after(c)
	}
	if fault != nil {
		switch fault.Effect {
		case Lose:
			panic(http.ErrAbortHandler)
		case HangAfter:
			<-ctx.Done()
			panic(http.ErrAbortHandler)
		default: // of what comes before
		}
	}
	return err
}

// pick is the fault that a call meets; f.mu is held.
func (f *Faults) pick(c Call) *Fault {
	for i, a := range f.all {
		if a.Method != "" && a.Method != c.Method || a.Match != nil && !a.Match(c) {
			continue
		}
		a.seen++
		if a.seen <= a.Skip {
			continue
		}
		if a.Times > 0 && a.seen >= a.Skip+a.Times {
			f.all = slices.Delete(f.all, i, i+1)
		}
		return &a.Fault
	}
	return nil
}

//go:build !no_google

package google

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"cloud.google.com/go/compute/apiv1/computepb"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Short names of the vendor's types.
type (
	instance = computepb.Instance
	disk     = computepb.Disk
)

// errUnreachable is a list in which zones are missing.
var errUnreachable = errors.New("zones do not answer")

// finder finds things by their names in every zone. Names that are asked for at
// the same time are read by one list. It is safe for concurrent use; find has to
// be set.
type finder[T any] struct {
	// find gives what has one of the names, in whatever zone, and whether that is
	// all.
	find func(ctx context.Context, names []string) (found []T, complete bool, err error)

	mu      sync.Mutex
	turn    chan struct{} // held by the one that reads
	pending []*sought[T]
}

// sought is a name that somebody asks for.
type sought[T any] struct {
	name  string
	done  chan struct{}
	found []T
	err   error
}

// mostNames is how many names one list is asked for: a filter has to fit into an
// address.
const mostNames = 20

// named is implemented by what has a name.
type named interface{ GetName() string }

// byName is what has a name, in every zone. Where zones did not answer and
// nothing was found the error is errUnreachable: it may be there.
func (f *finder[T]) byName(ctx context.Context, name string) ([]T, error) {
	w := &sought[T]{name: name, done: make(chan struct{})}
	f.mu.Lock()
	if f.turn == nil {
		f.turn = make(chan struct{}, 1)
	}
	f.pending = append(f.pending, w)
	f.mu.Unlock()
	for {
		select {
		case <-w.done:
			return w.found, w.err
		default:
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			f.forget(w)
			return nil, context.Cause(ctx)
		case f.turn <- struct{}{}:
			f.read(ctx)
			<-f.turn
		}
	}
}

// forget takes a name back that nobody asks for any more.
func (f *finder[T]) forget(w *sought[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, other := range f.pending {
		if other == w {
			f.pending = append(f.pending[:i], f.pending[i+1:]...)
			return
		}
	}
}

// read answers the first who ask. Where it was ctx that ended, the others go on
// asking.
func (f *finder[T]) read(ctx context.Context) {
	f.mu.Lock()
	n := min(mostNames, len(f.pending))
	batch := f.pending[:n:n]
	f.pending = f.pending[n:]
	f.mu.Unlock()
	if n == 0 {
		return
	}
	var names []string
	for _, w := range batch {
		names = append(names, w.name)
	}
	found, complete, err := f.find(ctx, names)
	if err != nil && ctx.Err() != nil {
		f.mu.Lock()
		f.pending = append(batch, f.pending...)
		f.mu.Unlock()
		return
	}
	for _, w := range batch {
		for _, t := range found {
			if n, ok := any(t).(named); ok && n.GetName() == w.name {
				w.found = append(w.found, t)
			}
		}
		if w.err = err; err == nil && !complete && len(w.found) == 0 {
			w.err = fmt.Errorf("find %s: %w", w.name, errUnreachable)
		}
		close(w.done)
	}
}

// anyOf is a filter for names.
func anyOf(names []string) string {
	var b strings.Builder
	for i, name := range names {
		if i > 0 {
			b.WriteString(" OR ")
		}
		fmt.Fprintf(&b, "(name = %q)", name)
	}
	return b.String()
}

func (a *account) findInstances(ctx context.Context, names []string) ([]*instance, bool, error) {
	return a.allInstances(ctx, anyOf(names))
}

func (a *account) findDisks(ctx context.Context, names []string) ([]*disk, bool, error) {
	return a.allDisks(ctx, anyOf(names))
}

// allInstances lists the machines of all zones that pass a filter. complete says
// that every zone has answered.
func (a *account) allInstances(ctx context.Context, filter string) (all []*instance, complete bool, err error) {
	complete = true
	query := url.Values{"filter": {filter}}
	for {
		var page computepb.InstanceAggregatedList
		if err := a.page(ctx, "aggregated/instances", query, &page); err != nil {
			return all, false, err
		}
		complete = complete && len(page.GetUnreachables()) == 0 && !unreachable(page.GetWarning())
		for _, scope := range page.GetItems() {
			complete = complete && !unreachable(scope.GetWarning())
			all = append(all, scope.GetInstances()...)
		}
		if page.GetNextPageToken() == "" {
			return all, complete, nil
		}
		query.Set("pageToken", page.GetNextPageToken())
	}
}

// allDisks lists the disks of all zones that pass a filter.
func (a *account) allDisks(ctx context.Context, filter string) (all []*disk, complete bool, err error) {
	complete = true
	query := url.Values{"filter": {filter}}
	for {
		var page computepb.DiskAggregatedList
		if err := a.page(ctx, "aggregated/disks", query, &page); err != nil {
			return all, false, err
		}
		complete = complete && len(page.GetUnreachables()) == 0 && !unreachable(page.GetWarning())
		for _, scope := range page.GetItems() {
			complete = complete && !unreachable(scope.GetWarning())
			all = append(all, scope.GetDisks()...)
		}
		if page.GetNextPageToken() == "" {
			return all, complete, nil
		}
		query.Set("pageToken", page.GetNextPageToken())
	}
}

// unreachable says whether a warning is about entries that are missing. That
// there are none on a page is the ordinary one.
func unreachable(w *computepb.Warning) bool {
	switch w.GetCode() {
	case "", computepb.Warning_NO_RESULTS_ON_PAGE.String(), computepb.Warning_DEPRECATED_RESOURCE_USED.String():
		return false
	}
	return true
}

// machineByName is the one machine of a name; ErrNotFound if there is none.
func (a *account) machineByName(ctx context.Context, name string) (*instance, error) {
	found, err := a.instances.byName(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, fmt.Errorf("%w: machine %s in any zone of project %s", drivers.ErrNotFound, name, a.project)
	case len(found) > 1:
		return nil, fmt.Errorf("%w: %d machines are called %s, in %s and %s; delete those that are not the runner's", drivers.ErrInvalid, len(found), name, last(found[0].GetZone()), last(found[1].GetZone()))
	}
	return found[0], nil
}

// last is the last part of an address.
func last(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

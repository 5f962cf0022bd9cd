//go:build !no_amazon

package amazon

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// watcher waits for machines to get somewhere. However many wait, one call
// reads them all, and listings that are made anyway spare that call. It is safe
// for concurrent use; its goroutine lives while somebody waits.
type watcher struct {
	describe func(ctx context.Context, ids []string) ([]types.Instance, error)
	poll     time.Duration // pause between two readings
	lag      time.Duration // for how long what exists may not be listed

	mu      sync.Mutex
	waiting map[*waiter]struct{}
	stop    context.CancelFunc // of the goroutine; nil: there is none
}

// waiter is one who waits for one machine.
type waiter struct {
	id    string
	every time.Duration
	// there says of a machine whether it is where it is waited for.
	there func(*types.Instance) bool
	due   time.Time
	// absent is since when the machine is in no reading, zero: it is in one.
	absent time.Time
	seen   *types.Instance // in the last reading
	done   chan error      // has room for the one answer
}

// wait returns the machine as soon as there says so; nil if it was in no
// reading for so long that it does not exist.
func (w *watcher) wait(ctx context.Context, id string, every time.Duration, there func(*types.Instance) bool) (*types.Instance, error) {
	me := &waiter{id: id, every: every, there: there, due: time.Now().Add(every), done: make(chan error, 1)}
	w.mu.Lock()
	if w.waiting == nil {
		w.waiting = map[*waiter]struct{}{}
	}
	w.waiting[me] = struct{}{}
	if w.stop == nil {
		// It reads for all who wait, so it does not end with the first of them.
		var loop context.Context
		loop, w.stop = context.WithCancel(context.WithoutCancel(ctx))
		go w.loop(loop)
	}
	w.mu.Unlock()
	var err error
	select {
	case err = <-me.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting, me)
	if len(w.waiting) == 0 && w.stop != nil {
		w.stop()
		w.stop = nil
	}
	return me.seen, err
}

func (w *watcher) loop(ctx context.Context) {
	// Those who come later may be in more of a hurry.
	const tick = 4
	for {
		w.mu.Lock()
		pause := w.poll
		now := time.Now()
		for one := range w.waiting {
			pause = min(pause, one.due.Sub(now), one.every)
		}
		w.mu.Unlock()
		if sleep(ctx, max(pause, w.poll/(tick*tick))) != nil {
			return
		}
		w.read(ctx)
	}
}

// read reads all machines that are waited for, if it is time for one of them.
func (w *watcher) read(ctx context.Context) {
	now := time.Now()
	due := false
	var ids []string
	w.mu.Lock()
	for one := range w.waiting {
		due = due || !one.due.After(now)
		ids = append(ids, one.id)
	}
	w.mu.Unlock()
	if !due {
		return
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	got, err := w.describe(ctx, ids)
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	byID := index(got)
	for one := range w.waiting {
		if _, asked := slices.BinarySearch(ids, one.id); asked {
			w.judge(one, byID[one.id], err, now)
		}
	}
}

// feed tells those who wait of machines that were read for another reason.
func (w *watcher) feed(got []types.Instance) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		return
	}
	byID := index(got)
	for one := range w.waiting {
		if inst := byID[one.id]; inst != nil {
			w.judge(one, inst, nil, time.Now())
		}
	}
}

// judge answers one who waits, if there is an answer; w.mu is held.
func (w *watcher) judge(one *waiter, inst *types.Instance, err error, now time.Time) {
	one.due = now.Add(one.every)
	answered := err != nil
	switch {
	case err != nil:
	case inst != nil:
		one.seen, one.absent = inst, time.Time{}
		answered = one.there(inst)
	case one.absent.IsZero():
		one.absent = now
		one.due = now.Add(w.lag)
	case now.Sub(one.absent) >= w.lag:
		one.seen, answered = nil, true
	}
	if answered {
		delete(w.waiting, one) // done has room for one answer
		one.done <- err
	}
}

func index(all []types.Instance) map[string]*types.Instance {
	m := make(map[string]*types.Instance, len(all))
	for i := range all {
		m[aws.ToString(all[i].InstanceId)] = &all[i]
	}
	return m
}

// What EC2 takes and gives at once.
const (
	mostValues  = 200  // of one filter
	mostResults = 1000 // of one page
)

// describeIDs reads machines. One that does not exist is left out: as a filter
// an unknown id is no error.
func (d *Driver) describeIDs(ctx context.Context, ids []string) ([]types.Instance, error) {
	return d.describeBy(ctx, "instance-id", ids)
}

// describeNames reads all machines that have one of those names.
func (d *Driver) describeNames(ctx context.Context, names []string) ([]types.Instance, error) {
	return d.describeBy(ctx, "tag:"+tagName, names)
}

func (d *Driver) describeBy(ctx context.Context, name string, values []string) (all []types.Instance, err error) {
	for chunk := range slices.Chunk(values, mostValues) {
		got, err := d.describe(ctx, by(name, chunk...))
		if err != nil {
			return nil, err
		}
		all = append(all, got...)
	}
	return all, nil
}

// describe reads all pages of machines that fit.
func (d *Driver) describe(ctx context.Context, filters ...filter) (all []types.Instance, err error) {
	for pages := ec2.NewDescribeInstancesPaginator(d.ec2, &ec2.DescribeInstancesInput{Filters: filters, MaxResults: aws.Int32(mostResults)}); pages.HasMorePages(); {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, d.explain(err, "DescribeInstances")
		}
		for _, r := range out.Reservations {
			all = append(all, r.Instances...)
		}
	}
	return all, nil
}

// stateOf is a machine's state, "" for none.
func stateOf(i *types.Instance) types.InstanceStateName {
	if i == nil || i.State == nil {
		return ""
	}
	return i.State.Name
}

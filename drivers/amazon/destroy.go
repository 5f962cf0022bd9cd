//go:build !no_amazon

package amazon

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// machineRule is a machine's id. Others are not asked for: one malformed id
// fails a call for all.
var machineRule = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)

// mostEnded is how many machines one call ends.
const mostEnded = 100

// ending is one ref on its way out.
type ending struct {
	ref drivers.Ref
	ids []string // what is to end; several only if a name was given twice
	err error
}

// Destroy ends machines, all in one call where none of them hinders the others,
// and waits until EC2 says that they have ended.
func (d *Driver) Destroy(ctx context.Context, refs []drivers.Ref, o drivers.DestroyOptions) []error {
	all := make([]ending, len(refs))
	var unknown []*ending
	for i, ref := range refs {
		all[i].ref = ref
		if machineRule.MatchString(ref.ID) {
			all[i].ids = []string{ref.ID}
		} else {
			unknown = append(unknown, &all[i])
		}
	}
	d.findAll(ctx, unknown)
	var disks map[string][]string
	if o.Disks == drivers.Delete {
		disks = d.disksOf(ctx, all)
	}
	ended := d.endAll(ctx, all)
	var wg sync.WaitGroup
	for i := range all {
		e := &all[i]
		if e.err != nil {
			continue
		}
		wg.Go(func() { e.err = d.confirm(ctx, e, ended, disks) })
	}
	wg.Wait()
	errs := make([]error, len(all))
	for i := range all {
		errs[i] = all[i].err
	}
	return errs
}

// findAll finds machines by their names. One that is in no list may have been
// made a moment ago, so it is looked for once more after a while.
func (d *Driver) findAll(ctx context.Context, all []*ending) {
	for try := range 2 {
		left := slices.DeleteFunc(slices.Clone(all), func(e *ending) bool { return len(e.ids) > 0 || e.err != nil })
		if len(left) == 0 {
			return
		}
		var err error
		if try > 0 {
			err = sleep(ctx, d.timing.lag)
		}
		var names []string
		for _, e := range left {
			names = append(names, e.ref.Name)
		}
		slices.Sort(names)
		var got []types.Instance
		if err == nil {
			got, err = d.describeNames(ctx, slices.Compact(names))
		}
		for _, e := range left {
			e.err = err
			for i := range got {
				if plain(got[i].Tags)[tagName] == e.ref.Name {
					e.ids = append(e.ids, aws.ToString(got[i].InstanceId))
				}
			}
		}
	}
}

// endedNow is what EC2 answered of a machine that it was told to end.
type endedNow struct {
	// before says that it was ending, or had ended, already.
	before bool
	over   bool // it has ended
	// unknown says that no call knows it.
	unknown bool
	err     error
}

// endAll tells EC2 to end all machines, and answers by id.
func (d *Driver) endAll(ctx context.Context, all []ending) map[string]endedNow {
	var ids []string
	for i := range all {
		if all[i].err == nil {
			ids = append(ids, all[i].ids...)
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	out := make(map[string]endedNow, len(ids))
	for chunk := range slices.Chunk(ids, mostEnded) {
		err := d.end(ctx, chunk, out)
		if err == nil {
			continue
		}
		if len(chunk) == 1 || ctx.Err() != nil {
			for _, id := range chunk {
				out[id] = failed(err, d)
			}
			continue
		}
		// One of them fails the call for all.
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, id := range chunk {
			wg.Go(func() {
				one := map[string]endedNow{}
				if err := d.end(ctx, []string{id}, one); err != nil {
					one[id] = failed(err, d)
				}
				mu.Lock()
				defer mu.Unlock()
				out[id] = one[id]
			})
		}
		wg.Wait()
	}
	return out
}

func failed(err error, d *Driver) endedNow {
	if strings.HasPrefix(codeOf(err), "InvalidInstanceID.") {
		return endedNow{unknown: true}
	}
	return endedNow{err: d.explain(err, "TerminateInstances")}
}

// end makes one call.
func (d *Driver) end(ctx context.Context, ids []string, answers map[string]endedNow) error {
	if err := d.ends.wait(ctx); err != nil {
		return err
	}
	out, err := d.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids})
	if err != nil {
		return err
	}
	for _, id := range ids {
		answers[id] = endedNow{}
	}
	for _, c := range out.TerminatingInstances {
		now := types.Instance{State: c.CurrentState}
		was := types.Instance{State: c.PreviousState}
		answers[aws.ToString(c.InstanceId)] = endedNow{before: over(&was), over: stateOf(&now) == types.InstanceStateNameTerminated}
	}
	return nil
}

// confirm waits until what one ref means has ended, and takes away what is left
// of it.
func (d *Driver) confirm(ctx context.Context, e *ending, ended map[string]endedNow, disks map[string][]string) error {
	var errs []error
	for _, id := range e.ids {
		if err := d.confirmOne(ctx, id, ended[id]); err != nil {
			errs = append(errs, err)
			continue
		}
		if volumes := disks[id]; len(volumes) > 0 {
			errs = append(errs, d.deleteVolumes(ctx, volumes))
		}
	}
	return errors.Join(errs...)
}

func (d *Driver) confirmOne(ctx context.Context, id string, now endedNow) error {
	if now.err != nil {
		return now.err
	}
	var last *types.Instance
	if !now.over {
		every := d.timing.poll
		if now.unknown {
			every = d.timing.lag
		}
		var err error
		appeared := false
		last, err = d.watch.wait(ctx, id, every, func(i *types.Instance) bool {
			appeared = now.unknown && !over(i)
			return appeared || stateOf(i) == types.InstanceStateNameTerminated
		})
		switch {
		case err != nil:
			return err
		case appeared: // it had only just been made
			again := d.endAll(ctx, []ending{{ids: []string{id}}})[id]
			if again.unknown {
				return fmt.Errorf("instance %s is listed and cannot be ended yet", id)
			}
			return d.confirmOne(ctx, id, again)
		}
	}
	if last != nil && aws.ToString(last.SpotInstanceRequestId) != "" {
		// A one-time request is over with its machine; one that is not would launch another.
		_, err := d.ec2.CancelSpotInstanceRequests(ctx, &ec2.CancelSpotInstanceRequestsInput{SpotInstanceRequestIds: []string{*last.SpotInstanceRequestId}})
		if err != nil && !strings.HasPrefix(codeOf(err), "InvalidSpotInstanceRequestID") {
			return d.explain(err, "CancelSpotInstanceRequests")
		}
	}
	if now.before {
		// It is listed for an hour yet, as one that ended by itself.
		_, err := d.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: []types.Tag{{Key: aws.String(tagEnded), Value: aws.String("true")}}})
		if err != nil {
			d.log.Debug("machine that ended by itself stays listed for a while", "id", id, "err", err)
		}
	}
	return nil
}

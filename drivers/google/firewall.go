//go:build !no_google

package google

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"cloud.google.com/go/compute/apiv1/computepb"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// defaultTag is the network tag of machines whose spec names none.
const defaultTag = "allow-docker"

// noRule is said where the runner would make a rule and is not told for whom.
const noRule = "no rule of the firewall is made: set RUNNER_AGENT_INGRESS to the addresses this runner calls from, or see to it that they reach the port"

// firewall makes the rule by which a runner reaches its agents, where the pool
// leaves its network to the runner. It is safe for concurrent use.
type firewall struct {
	ranges []netip.Prefix

	mu   sync.Mutex
	made bool
	next time.Time // not tried before
}

// ruleAgain is how long after a failure it is tried again.
const ruleAgain = 10 * time.Minute

// wanted says whether a spec leaves its network to the runner.
func (f *firewall) wanted(s *Spec) bool {
	return len(s.Networks) == 0 && slices.Equal(s.Tags, []string{defaultTag})
}

// ensure makes the rule once. That it could not be made keeps no machine from
// being made, since another rule may do: it is said in the log.
func (f *firewall) ensure(ctx context.Context, d *Driver) {
	if len(f.ranges) == 0 || !f.wanted(d.spec) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.made || time.Now().Before(f.next) {
		return
	}
	network := d.path(d.spec.Network, "global/networks/")
	if err := d.makeRule(ctx, network, f.ranges); err != nil {
		f.next = time.Now().Add(ruleAgain)
		d.log.WarnContext(ctx, "the firewall's rule for the agents could not be made: make one for the port by hand, or grant compute.firewalls.create",
			"network", network, "tag", defaultTag, "port", agentPort, "err", err)
		return
	}
	f.made = true
}

// ruleName is the name of a network's rule for some ranges: with other ranges it
// is another rule.
func ruleName(network string, ranges []string) string {
	parts := append([]string{network}, ranges...)
	return "runner-agents-" + (*requestID(parts...))[:8]
}

// makeRule opens the agents' port, and no other, to those ranges.
func (d *Driver) makeRule(ctx context.Context, network string, from []netip.Prefix) error {
	var ranges []string
	for _, r := range from {
		ranges = append(ranges, r.String())
	}
	slices.Sort(ranges)
	rule := &computepb.Firewall{
		Name: proto.String(ruleName(network, ranges)), Network: proto.String(network), Direction: proto.String("INGRESS"),
		Description: proto.String("The runner's calls to the agents of its machines."),
		Allowed:     []*computepb.Allowed{{IPProtocol: proto.String("tcp"), Ports: []string{strconv.Itoa(agentPort)}}},
		// Ranges alone: with tags of sources beside them either would do.
		SourceRanges: ranges, TargetTags: []string{defaultTag},
	}
	err := d.a.call(ctx, gets, callPatience, func(ctx context.Context) error {
		c, err := d.a.clients(ctx)
		if err != nil {
			return err
		}
		_, err = c.firewalls.Get(ctx, &computepb.GetFirewallRequest{Project: d.a.project, Firewall: rule.GetName()})
		return err
	})
	if err == nil || !errors.Is(err, drivers.ErrNotFound) {
		return err
	}
	id := d.changeID("firewall", drivers.Ref{Name: rule.GetName()})
	err = d.a.call(ctx, mutations, callPatience, func(ctx context.Context) error {
		c, err := d.a.clients(ctx)
		if err != nil {
			return err
		}
		_, err = c.firewalls.Insert(ctx, &computepb.InsertFirewallRequest{
			Project: d.a.project, FirewallResource: rule, RequestId: id,
		})
		return err
	})
	if errors.Is(err, errExists) {
		return nil
	}
	return err
}

//go:build !no_google

package google

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	compute "cloud.google.com/go/compute/apiv1"
	"cloud.google.com/go/compute/apiv1/computepb"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// kindGitspace is the kind of machines that live long.
const kindGitspace = "gitspace"

// agentPort is where a machine's agent listens.
const agentPort = 9079

// Driver makes the machines of one pool. Besides what every driver does it puts
// machines to sleep, keeps disks and reads consoles.
type Driver struct {
	spec *Spec
	a    *account
	log  drivers.Logger
	made made
	fw   firewall
}

var (
	_ drivers.Driver        = (*Driver)(nil)
	_ drivers.Hibernator    = (*Driver)(nil)
	_ drivers.DiskKeeper    = (*Driver)(nil)
	_ drivers.ConsoleReader = (*Driver)(nil)
)

// opener makes drivers that share what they know of an account.
func opener(s Setup) func(drivers.Options) (drivers.Driver, error) {
	all := &accounts{setup: s}
	return func(o drivers.Options) (drivers.Driver, error) {
		spec, ok := o.Config.(*Spec)
		if !ok {
			return nil, fmt.Errorf("google: spec is a %T", o.Config)
		}
		project, err := projectOf(spec)
		if err != nil {
			return nil, err
		}
		if o.Log == nil {
			o.Log = slog.New(slog.DiscardHandler)
		}
		d := &Driver{spec: spec, a: all.of(project, spec.Account.JSONPath), log: o.Log}
		d.fw.ranges, err = drivers.ParseIngress(s.Ingress)
		return d, err
	}
}

// Scope names the project.
func (d *Driver) Scope() string { return "google:" + d.a.project }

// Ping reads the pool's first zone: credentials, project, API and zone are right
// then.
func (d *Driver) Ping(ctx context.Context) error {
	zone := ""
	for _, zones := range append([][]string{d.spec.Zone}, networkZones(d.spec)...) {
		if len(zones) > 0 {
			zone = zones[0]
			break
		}
	}
	err := d.a.call(ctx, gets, callPatience, func(ctx context.Context) error {
		c, err := d.a.clients(ctx)
		if err != nil {
			return err
		}
		_, err = c.zones.Get(ctx, &computepb.GetZoneRequest{Project: d.a.project, Zone: zone})
		return err
	})
	switch {
	case errors.Is(err, drivers.ErrNotFound) || errors.Is(err, drivers.ErrInvalid):
		return fmt.Errorf("%w: zone %s of project %s: check zone and account.project_id: %w", drivers.ErrInvalid, zone, d.a.project, err)
	case err != nil:
		return fmt.Errorf("project %s: %w", d.a.project, err)
	}
	if d.fw.wanted(d.spec) && len(d.fw.ranges) == 0 {
		d.log.WarnContext(ctx, noRule, "network", d.spec.Network, "tag", defaultTag, "port", agentPort)
	}
	return nil
}

func networkZones(s *Spec) (all [][]string) {
	for _, n := range s.Networks {
		all = append(all, n.Zones)
	}
	return all
}

// made remembers for a while which machines this process has asked for, and
// where: what was just accepted may not be seen yet. It is safe for concurrent
// use.
type made struct {
	mu sync.Mutex
	at map[string]asked
}

type asked struct {
	zone    string // "" until the cloud has accepted it
	when    time.Time
	shown   bool // it was there: a cloud that does not show it says that it is gone
	deleted bool // the cloud has accepted that it goes
}

// How long, of how many machines; and how long one may be unseen.
const (
	askedFor  = time.Hour
	mostAsked = 4096
	unseenFor = time.Minute
)

func (m *made) note(name, zone string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at == nil {
		m.at = map[string]asked{}
	}
	if len(m.at) >= mostAsked {
		for other, a := range m.at {
			if now.Sub(a.when) >= askedFor {
				delete(m.at, other)
			}
		}
		for other := range m.at {
			if len(m.at) < mostAsked {
				break
			}
			delete(m.at, other)
		}
	}
	m.at[name] = asked{zone: zone, when: now}
}

func (m *made) of(name string) (asked, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.at[name]
	return a, ok
}

// mark notes something about one that is remembered.
func (m *made) mark(name string, what func(a *asked)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.at[name]; ok {
		what(&a)
		m.at[name] = a
	}
}

// unnote takes back a note, unless another was made since.
func (m *made) unnote(name string, when time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at[name].when.Equal(when) {
		delete(m.at, name)
	}
}

func (m *made) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.at, name)
}

// refOf names a machine as it is listed.
func refOf(i *instance) drivers.Ref {
	return drivers.Ref{Name: i.GetName(), ID: strconv.FormatUint(i.GetId(), 10), Zone: last(i.GetZone())}
}

// instanceOf is a machine in our words.
func (d *Driver) instanceOf(i *instance) drivers.Instance {
	out := drivers.Instance{Ref: refOf(i), Tags: tagsOf(i), Status: statusOf(i.GetStatus())}
	if out.Status == drivers.StatusRunning {
		if out.Address = d.addressOf(i); out.Address != "" {
			out.Port = agentPort
		}
	}
	if out.Status == drivers.StatusDead {
		out.Reason = strings.TrimSpace(i.GetStatus() + " " + i.GetStatusMessage())
	}
	return out
}

// addressOf is where a machine's agent is reached: inside where it has no
// address outside.
func (d *Driver) addressOf(i *instance) string {
	for _, nic := range i.GetNetworkInterfaces() {
		inside := nic.GetNetworkIP()
		outside := ""
		for _, access := range nic.GetAccessConfigs() {
			outside = access.GetNatIP()
		}
		address := outside
		if len(nic.GetAccessConfigs()) == 0 {
			address = inside
		}
		if net.ParseIP(address) != nil {
			return address
		}
	}
	return ""
}

// statusOf is a state of the cloud in our words. One that is being repaired
// comes back by itself.
func statusOf(status string) drivers.Status {
	switch status {
	case "PROVISIONING", "STAGING", "REPAIRING", "PENDING":
		return drivers.StatusPending
	case "RUNNING":
		return drivers.StatusRunning
	case "SUSPENDED":
		return drivers.StatusSuspended
	case "STOPPING", "PENDING_STOP", "DEPROVISIONING", "SUSPENDING":
		return drivers.StatusStopping
	case "TERMINATED", "STOPPED":
		return drivers.StatusDead
	default:
		return drivers.StatusUnknown
	}
}

// get reads one machine. Where its zone is not known it is found by its name.
func (d *Driver) get(ctx context.Context, ref drivers.Ref) (*instance, error) {
	if ref.Zone == "" {
		return d.a.machineByName(ctx, ref.Name)
	}
	var i *instance
	err := d.a.call(ctx, gets, callPatience, func(ctx context.Context) error {
		c, err := d.a.clients(ctx)
		if err != nil {
			return err
		}
		i, err = c.instances.Get(ctx, &computepb.GetInstanceRequest{Project: d.a.project, Zone: ref.Zone, Instance: ref.Name})
		return err
	})
	return i, err
}

// List reads the instances and disks of all zones of the project that are
// labelled as ours.
func (d *Driver) List(ctx context.Context, q drivers.Query) (drivers.Listing, error) {
	l := drivers.Listing{At: time.Now()}
	filter := filterOurs
	if q.Controller != "" {
		filter = fmt.Sprintf("labels.%s = %q", labelController, exactly(q.Controller))
	}
	instances, all, err := d.a.allInstances(ctx, filter)
	for _, i := range instances {
		if found := d.instanceOf(i); q.Controller == "" || found.Tags.Controller == q.Controller {
			l.Instances = append(l.Instances, found)
		}
	}
	if err != nil {
		return l, fmt.Errorf("list machines: %w", err)
	}
	if q.NoDisks {
		l.Complete = all
		return l, nil
	}
	disks, allDisks, err := d.a.allDisks(ctx, filter)
	for _, disk := range disks {
		// A machine's own disk goes with it, unless it was left behind.
		if disk.GetLabels()[labelDisk] == diskBoot && (len(disk.GetUsers()) > 0 || disk.GetStatus() != "READY") {
			continue
		}
		if found := diskOf(disk); q.Controller == "" || found.Tags.Controller == q.Controller {
			l.Disks = append(l.Disks, found)
		}
	}
	if err != nil {
		return l, fmt.Errorf("list disks: %w", err)
	}
	l.Complete = all && allDisks
	return l, nil
}

// diskOf is a disk in our words.
func diskOf(disk *disk) drivers.Disk {
	out := drivers.Disk{Name: disk.GetName(), Zone: last(disk.GetZone()), Tags: tagsOfDisk(disk), SizeGiB: int(disk.GetSizeGb())}
	if users := disk.GetUsers(); len(users) > 0 {
		out.AttachedTo = last(users[0])
	}
	return out
}

// changeID is the requestId of a change: the same for all tries of it, another
// for the next.
func (d *Driver) changeID(what string, ref drivers.Ref) *string {
	return requestID(d.a.project, what, ref.Zone, ref.Name, strconv.FormatInt(time.Now().UnixNano(), 10))
}

// change carries out a change and waits for its end.
func (d *Driver) change(ctx context.Context, what string, ref drivers.Ref, call func(ctx context.Context, c *clients, id *string) (*compute.Operation, error)) error {
	id := d.changeID(what, ref)
	_, err := d.a.change(ctx, ref.Zone, func(ctx context.Context, c *clients) (*compute.Operation, error) { return call(ctx, c, id) })
	return err
}

//go:build !no_amazon

package amazon

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// agentPort is where a machine's agent listens.
const agentPort = 9079

// Driver makes machines of one pool on EC2, in one account and region. Beside
// [drivers.Driver] it can hibernate, keep disks and read consoles. It keeps
// nothing that a restart would miss: what it remembers only spares calls.
type Driver struct {
	cfg    Spec
	pool   string
	scope  string
	region string
	// ingress are the networks a group that the driver makes lets in.
	ingress []netip.Prefix
	log     drivers.Logger
	timing  timing
	opened  time.Time

	ec2 *ec2.Client
	ssm *ssm.Client

	launches *pacer // RunInstances and StartInstances, which have one rate each
	starts   *pacer
	ends     *pacer // TerminateInstances

	images memo[image]
	types  memo[instanceType]
	groups memo[string]
	stock  stockouts
	watch  watcher

	mu sync.Mutex
	// tried are the names whose creation was begun lately, and when.
	tried map[string]time.Time
}

var (
	_ drivers.Driver        = (*Driver)(nil)
	_ drivers.Hibernator    = (*Driver)(nil)
	_ drivers.DiskKeeper    = (*Driver)(nil)
	_ drivers.ConsoleReader = (*Driver)(nil)
)

// timing is how long the driver waits for what; tests in real time shorten it.
type timing struct {
	// lag is for how long EC2's copies may disagree: what was made is not
	// listed yet, and what is not listed may yet exist.
	lag time.Duration
	// poll is the pause between two readings of machines that are waited for,
	// quick that between readings of volumes and groups.
	poll, quick time.Duration
}

var ordinary = timing{lag: 5 * time.Second, poll: 8 * time.Second, quick: time.Second}

// setup is what tests put in the place of the world.
type setup struct {
	// http is the client of every call; nil: the SDK's own.
	http   *http.Client
	timing timing
	getenv func(string) string
}

// RegisterOver is the registration for clients that reach EC2 and Systems Manager
// through h, and take nothing from the environment: for simulations.
func RegisterOver(h *http.Client) drivers.Registration {
	r := Registration
	r.New = func(o drivers.Options) (drivers.Driver, error) {
		return newDriver(o, setup{http: h, timing: ordinary, getenv: func(string) string { return "" }})
	}
	return r
}

var build = func(o drivers.Options) (drivers.Driver, error) {
	return newDriver(o, setup{timing: ordinary, getenv: os.Getenv})
}

func newDriver(o drivers.Options, s setup) (*Driver, error) {
	cfg, ok := o.Config.(*Spec)
	if !ok {
		return nil, fmt.Errorf("%w: the configuration of pool %s is a %T, not an *amazon.Spec", drivers.ErrInvalid, o.Pool, o.Config)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ingress, err := drivers.ParseIngress(strings.Split(s.getenv(drivers.IngressVariable), ","))
	if err != nil {
		return nil, err
	}
	conf, err := loadAccount(cfg.Account, s)
	if err != nil {
		return nil, err
	}
	d := &Driver{
		cfg: *cfg, pool: o.Pool, region: conf.Region, scope: scopeOf(conf.Region, keyOf(cfg.Account, s.getenv)), ingress: ingress,
		log: o.Log, timing: s.timing, opened: time.Now(),
		ec2: ec2.NewFromConfig(conf), ssm: ssm.NewFromConfig(conf),
		launches: newPacer(launchRate), starts: newPacer(launchRate), ends: newPacer(endRate),
		images: newMemo[image](), types: newMemo[instanceType](), groups: newMemo[string](),
		tried: map[string]time.Time{},
	}
	d.watch = watcher{describe: d.describeIDs, poll: s.timing.poll, lag: s.timing.lag}
	return d, nil
}

// Scope is region and account, as far as the account is known without asking
// for it: pools that use the same credentials share their listings.
func (d *Driver) Scope() string { return d.scope }

// Ping reads a page of machines: what every sweep must be allowed to.
func (d *Driver) Ping(ctx context.Context) error {
	_, err := d.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{
		Filters: []filter{byTagKey(tagController)}, MaxResults: aws.Int32(5),
	})
	return d.explain(err, "DescribeInstances")
}

// sleep waits for a time or for the end of ctx, whose error it returns.
func sleep(ctx context.Context, t time.Duration) error {
	if t <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/amazon"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
	"github.com/vm-runner/drone-runner-aws/drivers/google"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// TestSimulationOnClouds runs the engine with the drivers of clouds on the fakes
// of these clouds, which misbehave, while the runner is killed before or after
// any of its calls. No machine in use is ever ended and none given to two; when
// all is over and the pool is drained, the cloud's books show nothing that lives.
func TestSimulationOnClouds(t *testing.T) {
	withoutOwnAWS(t)
	// One takes as long as twenty of the others, and a short run has two.
	seeds := max(2, *simSeeds/20)
	first := uint64(1)
	if *simSeed != 0 {
		first, seeds = *simSeed, 1
	}
	for name, make := range map[string]func(uint64) *realCloud{"google": googleCloud, "amazon": amazonCloud} {
		for i := range uint64(seeds) {
			t.Run(fmt.Sprintf("%s/%d", name, first+i), func(t *testing.T) {
				t.Parallel()
				for _, wrong := range onCloud(t, first+i, 200, make(first+i)) {
					t.Error(wrong)
				}
			})
		}
	}
}

// onCloud runs a seed and returns what was wrong.
func onCloud(t *testing.T, seed uint64, tries int, c *realCloud) []string {
	dir := t.TempDir()
	var wrongs []string
	testbubble.Run(t, func(t *testing.T) {
		s := newCloudSim(t, seed, dir, c)
		s.tries = tries
		s.run()
		wrongs = s.wrongs
	})
	return wrongs
}

// TestSimulationOnCloudsBites has drivers that lie, and expects the simulation to
// notice it.
func TestSimulationOnCloudsBites(t *testing.T) {
	for _, c := range []struct {
		name, want string
		lie        func(*google.Driver) drivers.Driver
	}{
		{"a destroy that is none", "left behind: instance", func(d *google.Driver) drivers.Driver { return idle{d} }},
		{"a listing called complete that is not", "was ended while it was in use", func(d *google.Driver) drivers.Driver { return shortSighted{d} }},
		{"a machine that is made twice", "left behind: instance", func(d *google.Driver) drivers.Driver { return eager{d} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(5) {
				cloud := googleCloud(seed + 1)
				open := cloud.open
				cloud.open = func(t *testing.T, h *http.Client) drivers.Driver {
					d, ok := open(t, h).(*google.Driver)
					if !ok {
						panic("the driver of google is another type")
					}
					return c.lie(d)
				}
				for _, wrong := range onCloud(t, seed+1, 5, cloud) {
					if strings.Contains(wrong, c.want) {
						return
					}
				}
			}
			t.Errorf("five seeds did not notice it: nothing was %q", c.want)
		})
	}
}

// idle destroys nothing and says that it has.
type idle struct{ *google.Driver }

func (idle) Destroy(_ context.Context, refs []drivers.Ref, _ drivers.DestroyOptions) []error {
	return make([]error, len(refs))
}

// shortSighted loses sight of every third machine after a while.
type shortSighted struct{ *google.Driver }

func (d shortSighted) List(ctx context.Context, q drivers.Query) (drivers.Listing, error) {
	l, err := d.Driver.List(ctx, q)
	l.Instances = slices.DeleteFunc(l.Instances, func(i drivers.Instance) bool {
		return i.Name[len(i.Name)-1]%3 == 0 && time.Since(i.Tags.Created) > 3*time.Minute
	})
	return l, err
}

// eager makes a second machine under a name nobody knows, without our tags.
type eager struct{ *google.Driver }

func (d eager) Create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	ref, err := d.Driver.Create(ctx, spec)
	if err == nil {
		spec.Name += "-2"
		spec.Tags.Controller = "nobody"
		spec.Disks = nil
		_, _ = d.Driver.Create(ctx, spec) // what becomes of it is for the books to say
	}
	return ref, err
}

// withoutOwnAWS keeps this host's own configuration of AWS out.
func withoutOwnAWS(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_PROFILE": "", "AWS_CA_BUNDLE": "",
	} {
		old, had := os.LookupEnv(name)
		if err := os.Setenv(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if had {
				_ = os.Setenv(name, old) // it was there before
				return
			}
			_ = os.Unsetenv(name)
		})
	}
}

// realCloud is a fake cloud and the driver for it.
type realCloud struct {
	handler http.Handler
	open    func(t *testing.T, h *http.Client) drivers.Driver
	faults  *fakecloud.Faults
	// methods are those that can go wrong.
	methods []string
	// living is what costs money now, made everything there ever was.
	living, made func() []fakecloud.Thing
	// calls counts those that were made, by method.
	calls func() map[string]int
	// answers says whether a machine runs at an address.
	answers func(address string) bool
	// scarce makes a zone have no room until then.
	scarce func(until time.Time)
}

const simGoogleSpec = `{account: {project_id: test-project}, image: projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64,
  machine_type: e2-standard-2, zone: [us-central1-a, us-central1-b], private_ip: true, networks: [{network: default}]}`

func googleCloud(seed uint64) *realCloud { return googleFake(gce.Options{Seed: seed, PageSize: 50}) }

func googleFake(o gce.Options) *realCloud { return googleOn(gce.New(o)) }

func googleOn(c *gce.Cloud) *realCloud {
	return &realCloud{
		handler: c, faults: &c.Faults, living: c.Living, made: c.Books.Ever, calls: c.Books.Calls,
		methods: []string{
			"compute.instances.insert", "compute.instances.delete", "compute.instances.aggregatedList", "compute.instances.get", "compute.instances.suspend",
			"compute.instances.resume", "compute.disks.insert", "compute.disks.delete", "compute.disks.aggregatedList", "compute.zoneOperations.wait", "compute.zoneOperations.list",
		},
		open: func(t *testing.T, h *http.Client) drivers.Driver {
			reg := google.Register(google.Setup{HTTP: h, Endpoint: gce.Endpoint})
			spec, _ := drivertest.ReadSpec[google.Spec](t, reg, simGoogleSpec, &drivers.Platform{OS: "linux", Arch: "amd64"})
			return opened(t, reg, spec)
		},
		answers: func(address string) bool {
			ip, err := netip.ParseAddr(address)
			m, ok := c.At(ip)
			return err == nil && ok && m.Status == "RUNNING"
		},
		scarce: func(until time.Time) { c.StopOut("us-central1-a", "", until) },
	}
}

const simAmazonSpec = `{account: {region: us-east-1, access_key_id: AKID, access_key_secret: secret}, ami: ami-0a1b2c3d4e5f60001, size: t3.large, network: {private_ip: true}}`

func amazonCloud(seed uint64) *realCloud { return amazonFake(ec2.Options{Seed: seed, Page: 50}) }

func amazonFake(o ec2.Options) *realCloud {
	_, c := amazonOn(o)
	return c
}

func amazonOn(o ec2.Options) (*ec2.Cloud, *realCloud) {
	var mu sync.Mutex
	on := map[string]bool{}
	note := func(m ec2.Machine, is bool) {
		mu.Lock()
		defer mu.Unlock()
		on[m.PrivateIP] = is
	}
	told := o.Boots
	o.Boots = func(m ec2.Machine) {
		note(m, true)
		if told != nil {
			told(m)
		}
	}
	o.Halts = func(m ec2.Machine) { note(m, false) }
	c := ec2.New(o)
	return c, &realCloud{
		handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Host, "ssm.") {
				c.SSM().ServeHTTP(w, r)
				return
			}
			c.ServeHTTP(w, r)
		}),
		faults: &c.Faults,
		living: func() []fakecloud.Thing { c.Settle(); return c.Books.Living() }, made: c.Books.Ever, calls: c.Books.Calls,
		methods: []string{
			"RunInstances", "TerminateInstances", "DescribeInstances", "StopInstances", "StartInstances", "DescribeVolumes", "CreateVolume", "AttachVolume", "DeleteVolume", "CreateTags",
		},
		open: func(t *testing.T, h *http.Client) drivers.Driver {
			reg := amazon.RegisterOver(h)
			spec, _ := drivertest.ReadSpec[amazon.Spec](t, reg, simAmazonSpec, &drivers.Platform{OS: "linux", Arch: "amd64"})
			return opened(t, reg, spec)
		},
		answers: func(address string) bool {
			c.Settle()
			mu.Lock()
			defer mu.Unlock()
			return on[address]
		},
		scarce: func(time.Time) { c.FailLaunches(2, "Server.InsufficientInstanceCapacity") },
	}
}

func opened(t *testing.T, reg drivers.Registration, spec any) drivers.Driver {
	d, err := reg.New(drivers.Options{Pool: "p", Config: spec, Platform: drivers.Platform{OS: "linux", Arch: "amd64"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Error(err)
		panic(err)
	}
	return d
}

// cloudSim is one seed.
type cloudSim struct {
	t    *testing.T
	d    *dice
	dir  string
	c    *realCloud
	load time.Duration
	// tries is how often a caller asks, and ends the wait for an empty cloud too.
	tries int

	mu    sync.Mutex
	now   *lifetime
	quiet bool
	held  map[string]string // lease → machine, from the answer of its setup to its destroy

	told   sync.Mutex
	wrongs []string
}

// wrong records a breach of what must hold.
func (s *cloudSim) wrong(format string, args ...any) {
	s.told.Lock()
	defer s.told.Unlock()
	s.wrongs = append(s.wrongs, fmt.Sprintf(format, args...))
}

// lifetime is one incarnation of the runner: from its start to its kill.
type lifetime struct {
	m     *pool.Manager
	store pool.Store
	stop  context.CancelFunc
	done  chan struct{}

	mu    sync.Mutex
	dead  bool
	left  int // calls of the cloud until it is killed
	after bool
}

func newCloudSim(t *testing.T, seed uint64, dir string, c *realCloud) *cloudSim {
	return &cloudSim{t: t, d: newDice(seed), dir: dir, c: c, load: 40 * time.Minute, held: map[string]string{}}
}

// logger has the engine's log printed if somebody asks for it.
func (s *cloudSim) logger() *slog.Logger {
	if !*simVerbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(s.t.Output(), nil))
}

// RoundTrip lets the runner's calls through while it lives.
func (l *lifetime) RoundTrip(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	l.mu.Lock()
	dead := l.dead
	l.left--
	now := l.left == 0
	l.mu.Unlock()
	if dead {
		return nil, errCrashed
	}
	if now && !l.after {
		l.kill()
		return nil, errCrashed
	}
	resp, err := next.RoundTrip(r)
	if now {
		l.kill()
		return nil, errCrashed
	}
	return resp, err
}

// kill ends the runner at this moment: what it has written is there, and nothing
// comes after.
func (l *lifetime) kill() {
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return
	}
	l.dead = true
	l.mu.Unlock()
	l.stop()
	_ = l.store.Close() // the kernel does that
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// begin starts a runner.
func (s *cloudSim) begin(ctx context.Context, n int) *lifetime {
	st, db, err := storeSQLite(ctx, s.dir)
	if err != nil {
		s.t.Error(err)
		panic(err)
	}
	_ = db.Close() // nobody looks past the store here
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &lifetime{store: st, stop: stop, done: make(chan struct{})}
	s.mu.Lock()
	quiet := s.quiet
	s.mu.Unlock()
	if !quiet {
		l.left, l.after = 5+s.d.below(150, "kill", n), s.d.chance(.5, "kill-after", n)
	}
	next := fakecloud.Transport{Handler: s.c.handler}
	client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) { return l.RoundTrip(r, next) })}
	agent := agentclient.NewMock(agentclient.MockConfig{Hook: func(_ context.Context, _ string, t pool.Target, _ string) error {
		if !s.c.answers(t.Address) {
			return errUnreachable
		}
		return nil
	}})
	warm := 2
	if quiet {
		warm = 0
	}
	m, err := pool.New(running, pool.ManagerConfig{
		Store: st, Agent: agent, Solo: true, Log: s.logger(), Incarnation: fmt.Sprintf("runner-%d", n),
		Pools: []pool.PoolConfig{{Name: "p", Driver: "cloud", Min: warm, Max: 8, Wait: 20 * time.Minute, SpecJSON: json.RawMessage(`{}`), Platform: drivers.Platform{OS: "linux", Arch: "amd64"}}},
		Open: func(pool.PoolConfig) (pool.Opened, error) {
			return pool.Opened{Client: drivers.NewClient(s.c.open(s.t, client), drivers.ClientOptions{Pool: "p", Type: "cloud"}), Zones: true}, nil
		},
	})
	if err != nil {
		stop()
		_ = st.Close()
		close(l.done)
		if !errors.Is(err, errCrashed) {
			s.wrong("start: %v", err)
		}
		return l
	}
	l.m = m
	go func() {
		defer close(l.done)
		_ = m.Run(running) // its store may be closed under it
		l.kill()
	}()
	return l
}

// supervise starts the runner again whenever it has been killed.
func (s *cloudSim) supervise(ctx context.Context) {
	for n := 1; ctx.Err() == nil; n++ {
		l := s.begin(ctx, n)
		s.mu.Lock()
		s.now = l
		s.mu.Unlock()
		select {
		case <-l.done:
		case <-ctx.Done():
			l.kill()
			<-l.done
		}
		_ = nap(ctx, time.Second+s.d.span(10*time.Second, "restart", n)) // an ended ctx ends the loop
	}
}

func (s *cloudSim) runner() *pool.Manager {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil || s.now.m == nil {
		return nil
	}
	return s.now.m
}

// insist calls until it is done, as a caller does who is told of a failure.
func (s *cloudSim) insist(ctx context.Context, what string, call func(ctx context.Context, m *pool.Manager) error) bool {
	var last error
	for try := range s.tries {
		if m := s.runner(); m != nil {
			one, cancel := context.WithTimeout(ctx, 30*time.Minute)
			last = call(one, m)
			cancel()
			if last == nil {
				return true
			}
		}
		if nap(ctx, min(time.Duration(try+1)*time.Second, time.Minute)) != nil {
			break
		}
	}
	s.wrong("%s: given up: %v", what, last)
	return false
}

// take is a setup; the machine is the lease's until its destroy is sent.
func (s *cloudSim) take(ctx context.Context, r pool.SetupRequest) bool {
	return s.insist(ctx, "setup "+r.ID, func(ctx context.Context, m *pool.Manager) error {
		got, err := m.Setup(ctx, r)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for lease, name := range s.held {
			if name == got.Instance.Name && lease != r.ID {
				s.wrong("%s has the machine of %s", r.ID, lease)
			}
		}
		s.held[r.ID] = got.Instance.Name
		return nil
	})
}

func (s *cloudSim) give(ctx context.Context, id string, disks drivers.DiskPolicy) {
	s.mu.Lock()
	delete(s.held, id)
	s.mu.Unlock()
	s.insist(ctx, "destroy "+id, func(ctx context.Context, m *pool.Manager) error {
		return m.Destroy(ctx, pool.DestroyRequest{Lease: id, Disks: disks})
	})
}

// build is one stage.
func (s *cloudSim) build(ctx context.Context, n int) {
	id := fmt.Sprintf("build-%d", n)
	_ = nap(ctx, s.d.span(s.load, "arrives", id)) // an ended ctx ends what follows
	if s.take(ctx, pool.SetupRequest{ID: id, Kind: pool.Build, Pools: []string{"p"}, Body: bodyOf(id)}) {
		_ = nap(ctx, s.d.span(5*time.Minute, "works", id)) // likewise
	}
	s.give(ctx, id, drivers.Keep)
}

// gitspace is one development machine that sleeps once.
func (s *cloudSim) gitspace(ctx context.Context, n int) {
	id := fmt.Sprintf("gitspace-%d", n)
	_ = nap(ctx, s.d.span(s.load/2, "arrives", id)) // an ended ctx ends what follows
	r := pool.SetupRequest{ID: id, Kind: pool.Gitspace, Pools: []string{"p"}, Body: bodyOf(id), Want: pool.Want{
		Ports: []int{8080}, Storage: id + "-disk", StorageGiB: 10,
	}}
	if s.take(ctx, r) {
		_ = nap(ctx, s.d.span(5*time.Minute, "works", id)) // likewise
		s.insist(ctx, "suspend "+id, func(ctx context.Context, m *pool.Manager) error {
			return m.Suspend(ctx, pool.SuspendRequest{Lease: id, Body: bodyOf(id)})
		})
		_ = nap(ctx, s.d.span(10*time.Minute, "sleeps", id)) // likewise
		s.take(ctx, r)
	}
	s.give(ctx, id, drivers.Delete)
}

// trouble has the cloud misbehave now and then.
func (s *cloudSim) trouble(ctx context.Context) {
	effects := []fakecloud.Effect{fakecloud.Refuse, fakecloud.Lose, fakecloud.Drop, fakecloud.HangAfter, fakecloud.Slow}
	for n := 0; nap(ctx, 10*time.Second+s.d.span(time.Minute, "trouble", n)) == nil; n++ {
		if s.d.chance(.15, "scarce", n) {
			s.c.scarce(time.Now().Add(s.d.span(10*time.Minute, "scarce-for", n)))
			continue
		}
		s.c.faults.Add(fakecloud.Fault{
			Method: s.c.methods[s.d.below(len(s.c.methods), "method", n)], Times: 1 + s.d.below(3, "times", n),
			Effect: effects[s.d.below(len(effects), "effect", n)], For: s.d.span(20*time.Second, "slow", n),
		})
	}
}

// watch looks whether what is in use is there.
func (s *cloudSim) watch(ctx context.Context) {
	for nap(ctx, 20*time.Second) == nil {
		s.mu.Lock()
		held := make(map[string]string, len(s.held))
		for lease, name := range s.held {
			held[lease] = name
		}
		s.mu.Unlock()
		there := map[string]bool{}
		for _, thing := range s.c.living() {
			if thing.Kind == "instance" {
				there[nameOf(thing)] = true
			}
		}
		s.mu.Lock()
		for lease, name := range held {
			if !there[name] && s.held[lease] == name {
				s.wrong("the machine %s of %s was ended while it was in use", name, lease)
				delete(s.held, lease)
			}
		}
		s.mu.Unlock()
	}
}

// nameOf is a machine's name, which EC2 has as a tag.
func nameOf(t fakecloud.Thing) string {
	if name := t.Tags["Name"]; name != "" {
		return name
	}
	return t.Name
}

func (s *cloudSim) run() {
	ctx, stop := context.WithCancel(s.t.Context())
	var loops, load sync.WaitGroup
	loops.Go(func() { s.supervise(ctx) })
	loops.Go(func() { s.watch(ctx) })
	troubled, calm := context.WithCancel(ctx)
	loops.Go(func() { s.trouble(troubled) })
	for n := range 24 {
		load.Go(func() { s.build(ctx, n) })
	}
	for n := range 4 {
		load.Go(func() { s.gitspace(ctx, n) })
	}
	load.Wait()
	calm()
	s.c.faults.Clear()
	s.mu.Lock()
	s.quiet = true
	s.now.kill() // the next one keeps nothing warm, and is not killed
	s.mu.Unlock()
	left := s.c.living()
	for end := time.Now().Add(time.Duration(s.tries) * 4 * time.Minute); time.Now().Before(end); {
		if left = machinesAndDisks(s.c.living()); len(left) == 0 {
			break
		}
		if nap(ctx, time.Minute) != nil {
			break
		}
	}
	for _, thing := range left {
		s.wrong("left behind: %s %s %s made %s %v", thing.Kind, thing.Name, thing.Zone, thing.Made, thing.Tags)
	}
	stop()
	loops.Wait()
}

func machinesAndDisks(things []fakecloud.Thing) []fakecloud.Thing {
	var out []fakecloud.Thing
	for _, t := range things {
		switch t.Kind {
		case "firewall", "security-group", "security group":
		default:
			out = append(out, t)
		}
	}
	return out
}

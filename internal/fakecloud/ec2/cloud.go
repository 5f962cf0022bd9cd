package ec2

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2/model"
)

// maxForm bounds a request's body.
const maxForm = 1 << 20

// Cloud is one account in one region. It is safe for concurrent use.
type Cloud struct {
	// Faults are the ways in which it misbehaves, Fault.Err an [Error]. A
	// fault's Call has the operation, the first id or Name tag, the zone if the
	// request says one, and the instance type.
	Faults fakecloud.Faults
	// Books have the kinds instance, volume, network-interface,
	// spot-instances-request, security-group and capacity-reservation, and the
	// calls by operation; SSM's begin with "ssm:". What has ended since the last
	// call they know after Settle.
	Books fakecloud.Books

	o    Options
	dice fakecloud.Dice

	asked     atomic.Int64 // calls, for their ids
	bucketsMu sync.Mutex
	buckets   map[string]*fakecloud.Bucket

	mu    sync.Mutex
	now   time.Time // of what is being carried out
	made  int       // things ever made, for ids and order
	due   queue
	hooks []func()

	instances    shelf[*instance]
	volumes      shelf[*volume]
	interfaces   shelf[*networkInterface]
	groups       shelf[*group]
	spots        shelf[*spotRequest]
	reservations shelf[*reservation]
	vpcs         []*vpc
	subnets      []*subnet
	tokens       map[string]*tokenUse
	room         map[room]int
	trouble      trouble
}

// tokenUse is what a client token was used for.
type tokenUse struct {
	sum  string
	made []commoner
}

// New makes a cloud.
func New(o Options) *Cloud {
	o = o.withDefaults()
	c := &Cloud{
		o: o, dice: fakecloud.Dice(o.Seed), now: o.Now(), buckets: map[string]*fakecloud.Bucket{},
		tokens: map[string]*tokenUse{}, room: map[room]int{},
	}
	c.makeNetworks()
	return c
}

// answer is what an operation answers, by the model's names.
type answer = model.Answer

// operation is how a call is carried out, and which parameters that is for.
type operation struct {
	run      func(*Cloud, params) (answer, error)
	modelled []string
}

// ServeHTTP answers one call of the query protocol.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := c.requestID()
	op, a, err := c.call(r)
	text := ""
	if err == nil {
		text, err = model.Encode(op.action, a, id)
	}
	if err != nil {
		refusal(err).write(w, id)
		return
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.Header().Set("X-Amzn-Requestid", id)
	_, _ = io.WriteString(w, text)
}

// refusal is an error in EC2's shape.
func refusal(err error) *Error {
	if e, ok := err.(*Error); ok && e != nil { //nolint:errorlint // made here, never wrapped
		return e
	}
	e := ErrInternal()
	if err != nil {
		e.Message += ": " + err.Error()
	}
	return e
}

func (c *Cloud) call(r *http.Request) (*request, answer, error) {
	if r.Method != http.MethodPost || r.URL.Path != "/" && r.URL.Path != "" || r.URL.RawQuery != "" {
		return nil, nil, refuse("InvalidRequest", "%s %s: this fake takes only POST / with a form", r.Method, r.URL)
	}
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind != "application/x-www-form-urlencoded" {
		return nil, nil, refuse("InvalidRequest", "Content-Type %q is no form", kind)
	}
	form, err := io.ReadAll(io.LimitReader(r.Body, maxForm+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read body: %w", err)
	}
	if len(form) > maxForm {
		return nil, nil, refuse("RequestEntityTooLarge", "The request is longer than %d bytes", maxForm)
	}
	now := c.o.Now()
	req, err := parse(string(form))
	if err != nil {
		c.Books.Called("refused")
		return nil, nil, err
	}
	c.Books.Called(req.action)
	key, refused := c.authenticate(r, "ec2", now)
	if refused != nil {
		return req, nil, refused
	}
	if !c.bucket("call", req.action, defaultRates, c.o.Rates).Take(1, now) {
		return req, nil, ErrThrottled()
	}
	m := model.Get()
	if err := check(m, req.op.Input, req.params, ""); err != nil {
		return req, nil, err
	}
	if !key.may(req.action) || len(req.params.subs("TagSpecifications")) > 0 && !key.may("CreateTags") {
		return req, nil, ErrUnauthorized(req.action)
	}
	op, ok := operations[req.action]
	if !ok {
		return req, nil, unmodelled("%s", req.action)
	}
	if path := req.params.unknownTo(op.modelled); path != "" {
		return req, nil, unmodelled("%s of %s", path, req.action)
	}
	var a answer
	carriedOut := false
	err = c.Faults.Around(r.Context(), describeCall(req, now), func() (err error) {
		carriedOut = true
		c.lock()
		defer c.unlock()
		if req.params.flag("DryRun") {
			return &Error{http.StatusPreconditionFailed, "DryRunOperation", "Request would have succeeded, but DryRun flag is set."}
		}
		a, err = op.run(c, req.params)
		return err
	})
	if err == nil && !carriedOut { // a fault that does not say more
		err = ErrInternal()
	}
	return req, a, err
}

// describeCall is a call as faults see it.
func describeCall(req *request, now time.Time) fakecloud.Call {
	p := req.params
	call := fakecloud.Call{Method: req.action, Type: p.str("InstanceType"), At: now}
	call.Zone = p.str("Placement.AvailabilityZone")
	if z := p.str("AvailabilityZone"); z != "" {
		call.Zone = z
	}
	for _, name := range []string{"InstanceIds", "InstanceId", "VolumeId", "VolumeIds", "Resources", "GroupId", "GroupName"} {
		if call.Name = p.str(name); call.Name == "" {
			if ids := p.strs(name); len(ids) > 0 {
				call.Name = ids[0]
			}
		}
		if call.Name != "" {
			return call
		}
	}
	for _, spec := range p.subs("TagSpecifications") {
		for _, tag := range spec.subs("Tags") {
			if tag.str("Key") == "Name" {
				call.Name = tag.str("Value")
			}
		}
	}
	return call
}

// lock begins to look at the cloud as it is now; unlock tells the hooks what
// came to light.
func (c *Cloud) lock() {
	c.mu.Lock()
	c.settle(c.o.Now())
}

func (c *Cloud) unlock() {
	hooks := c.hooks
	c.hooks = nil
	c.mu.Unlock()
	for _, hook := range hooks {
		hook()
	}
}

// Settle carries out what is due, as every call does: for a harness that waits
// for boots while nobody calls.
func (c *Cloud) Settle() {
	c.lock()
	c.unlock()
}

// bucket is the one of a kind that an operation takes from.
func (c *Cloud) bucket(kind, action string, defaults, said map[string]Rate) *fakecloud.Bucket {
	c.bucketsMu.Lock()
	defer c.bucketsMu.Unlock()
	b := c.buckets[kind+action]
	if b == nil {
		rate, ok := said[action]
		if !ok {
			rate, ok = defaults[action]
		}
		if !ok && strings.HasPrefix(action, "Describe") {
			rate, ok = defaults["Describe"]
		}
		if !ok {
			rate = defaults[""]
		}
		if c.o.Unlimited {
			rate = Rate{}
		}
		b = &fakecloud.Bucket{Size: rate.Size, PerSecond: rate.PerSecond}
		c.buckets[kind+action] = b
	}
	return b
}

// takeResources takes n machines from the operation's resource bucket.
func (c *Cloud) takeResources(action string, n int) error {
	b := c.bucket("resource", action, defaultResources, c.o.Resources)
	if !b.Take(float64(n), c.now) {
		return ErrThrottled()
	}
	return nil
}

// id makes an id, which is unique for ever and the same for equal seeds.
func (c *Cloud) id(prefix string) string {
	c.made++
	sum := sha256.Sum256(fmt.Append(nil, c.o.Seed, prefix, c.made))
	return fmt.Sprintf("%s-%x%05x", prefix, sum[:6], c.made&0xfffff)
}

func (c *Cloud) requestID() string {
	n := c.asked.Add(1)
	sum := sha256.Sum256(fmt.Append(nil, "request", c.o.Seed, n))
	return fmt.Sprintf("%x-%x-4%.3x-8%.3x-%012x", sum[:4], sum[4:6], sum[6:8], sum[8:10], n)
}

// remembered is what the token made, or nil; other parameters than then are
// refused.
func (c *Cloud) remembered(action string, p params) ([]commoner, error) {
	token := p.str("ClientToken")
	if len(token) > 64 {
		return nil, invalidValue("ClientToken", token, "It is longer than 64 characters.")
	}
	for _, r := range token {
		if r < ' ' || r > '~' {
			return nil, invalidValue("ClientToken", token, "It is not ASCII.")
		}
	}
	use := c.tokens[action+token]
	if token == "" || use == nil {
		return nil, nil
	}
	if use.sum != p.sum("ClientToken", "DryRun") {
		return nil, refuse("IdempotentParameterMismatch", "The client token %s was used before with other parameters", token)
	}
	return use.made, nil
}

// remember keeps what a token made for a day.
func (c *Cloud) remember(action string, p params, made ...commoner) {
	token := p.str("ClientToken")
	if token == "" {
		return
	}
	c.tokens[action+token] = &tokenUse{p.sum("ClientToken", "DryRun"), made}
	c.after(tokenLife, func() { delete(c.tokens, action+token) })
}

// between draws how long something takes.
func (c *Cloud) between(r Range, parts ...any) time.Duration {
	if r.Most <= 0 {
		return 0
	}
	return c.dice.Between(r.Least, r.Most, parts...)
}

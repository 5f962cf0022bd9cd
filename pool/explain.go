package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Subject is what a Story is about.
type Subject string

// The subjects of stories.
const (
	SubjectLease    Subject = "lease"
	SubjectInstance Subject = "instance"
	SubjectPool     Subject = "pool"
)

// Story explains one lease, instance or pool: how it stands, what keeps it
// from going on, and how it came to that.
type Story struct {
	Subject Subject
	// ID is the subject's, Name an instance's name in its cloud.
	ID   string
	Name string
	// Generation is a lease's.
	Generation int64
	State      string
	// Summary is the present in one line.
	Summary string
	// Why is what it waits for or fails by now, empty if nothing.
	Why []Why
	// Lines are what happened, oldest first.
	Lines []StoryLine
}

// Why is one reason with a stable code.
type Why struct {
	// Code is one of the Why constants, the Reason of a Gate, or a reason code
	// of the row.
	Code string
	// Pool is whose reason it is, "" if it is not a pool's.
	Pool    string
	Message string
	// Position is the place in the pool's queue, 1 being the next; 0 if there
	// is none.
	Position int
	// Until is when it ends by itself, zero if nobody knows.
	Until time.Time
}

// The reasons explained beside those of gates and rows.
const (
	WhyUnknownPool = "unknown_pool"
	WhyRetired     = "retired"
	WhyStopped     = "stopped"
	WhyLimit       = "limit"
	WhyPerMinute   = "per_minute"
	WhyPosition    = "waiting_position"
	WhyNoFit       = "no_variant_fits"
	WhyDrift       = "drift"
	WhyDeadline    = "deadline"
	WhyHeld        = "held_by_operator"
	WhyMaking      = "machine_in_the_making"
	WhyNobody      = "nobody_waits"
	WhyDestroying  = "destroy_not_confirmed"
)

// StoryLine is one thing that happened.
type StoryLine struct {
	At      time.Time
	Code    string
	Message string
	// Instance is the machine's name, if it is another's story too.
	Instance string
}

// storyEvents bounds the events read for one story, storyMachines the machines
// of one lease.
const (
	storyEvents   = 500
	storyMachines = 50
	// storyQueue bounds how far a place in a queue is counted.
	storyQueue = 10_000
)

// Explain implements Service. An empty subject is found by trying a lease, an
// instance by id, then a pool.
func (m *Manager) Explain(ctx context.Context, subject Subject, id string) (Story, error) {
	tell := map[Subject]func(context.Context, string) (Story, error){
		SubjectLease: m.explainLease, SubjectInstance: m.explainInstance, SubjectPool: m.explainPool,
	}
	if subject != "" {
		f := tell[subject]
		if f == nil {
			return Story{}, fmt.Errorf("%w: %q is no subject; there are lease, instance and pool", ErrInvalid, subject)
		}
		return f(ctx, id)
	}
	for _, s := range []Subject{SubjectLease, SubjectInstance, SubjectPool} {
		story, err := tell[s](ctx, id)
		if !errors.Is(err, ErrNotFound) {
			return story, err
		}
	}
	return Story{}, fmt.Errorf("%w: no lease, instance or pool is called %q", ErrNotFound, id)
}

func (m *Manager) explainLease(ctx context.Context, id string) (Story, error) {
	l, err := m.store.Lease(ctx, id)
	if err != nil {
		return Story{}, err
	}
	now := m.stamp()
	s := Story{Subject: SubjectLease, ID: l.ID, Generation: l.Generation, State: string(l.State)}
	machines, err := m.store.Instances(ctx, InstanceQuery{Lease: id, Limit: storyMachines})
	if err != nil {
		return s, err
	}
	machines = slices.DeleteFunc(machines, func(i Instance) bool { return i.LeaseGeneration != l.Generation })
	events, err := m.store.Events(ctx, EventQuery{Lease: id, Limit: storyEvents})
	if err != nil {
		return s, err
	}
	events = slices.DeleteFunc(events, func(e Event) bool { return e.Generation != 0 && e.Generation != l.Generation })
	s.Lines = append(leaseLines(l), eventLines(events, "")...)
	var present *Instance
	for _, inst := range machines {
		s.Lines = append(s.Lines, instanceLines(inst)...)
		own, err := m.store.Events(ctx, EventQuery{Instance: inst.ID, Limit: storyEvents})
		if err != nil {
			return s, err
		}
		s.Lines = append(s.Lines, eventLines(slices.DeleteFunc(own, func(e Event) bool { return e.Lease != "" }), inst.Name)...)
		if inst.ID == l.InstanceID {
			present = &inst
		}
	}
	order(s.Lines)
	if l.State == LeaseWaiting {
		if s.Why, err = m.whyWaiting(ctx, l, now); err != nil {
			return s, err
		}
	}
	s.Summary = leaseSummary(l, present, s.Why, now)
	switch {
	case l.State == LeaseStarting && present != nil:
		s.Why = append(s.Why, Why{Code: WhyMaking, Pool: l.Pool, Message: "its machine " + present.Name + " is " + string(present.State) + " for " + span(present.Since, now)})
	case l.State.Final() || l.State == LeaseSuspended:
		for _, c := range l.Causes {
			s.Why = append(s.Why, Why{Code: cmp.Or(c.Kind, c.Phase), Pool: c.Pool, Message: c.String()})
		}
	}
	return s, nil
}

// whyWaiting says of each pool the lease may have why it has nothing there.
func (m *Manager) whyWaiting(ctx context.Context, l Lease, now time.Time) ([]Why, error) {
	var out []Why
	if l.Waiter == "" {
		out = append(out, Why{
			Code: WhyNobody, Until: l.Due,
			Message: "its caller has gone; nothing is given to it until the same id is set up again",
		})
	}
	for _, c := range l.Choices {
		snap, err := m.store.Snapshot(ctx, c.Pool, 1, now)
		if errors.Is(err, ErrNotFound) {
			out = append(out, Why{Code: WhyUnknownPool, Pool: c.Pool, Message: "there is no such pool here"})
			continue
		}
		if err != nil {
			return nil, err
		}
		position, err := m.store.Position(ctx, l.Key(), c.Pool, storyQueue)
		if err != nil {
			return nil, err
		}
		out = append(out, whyNot(snap, c, position, now)...)
	}
	return out, nil
}

// whyNot is why a pool gives a lease nothing now: the one reason that a
// machine of its own is not begun, and the one that what is free does not fit.
func whyNot(snap Snapshot, c Choice, position int, now time.Time) []Why {
	why := Why{Pool: snap.Pool, Position: position}
	var limit *LimitError
	for _, f := range snap.Flavours {
		if f.Tenant == cmp.Or(c.Tenant, "default") && f.Variant == cmp.Or(c.Variant, "default") && f.Max >= 0 && f.Counted >= f.Max {
			limit = &LimitError{Pool: snap.Pool, Tenant: f.Tenant, Variant: f.Variant, Counted: f.Counted, Max: f.Max}
		}
	}
	if snap.Counted >= snap.Max {
		limit = &LimitError{Pool: snap.Pool, Counted: snap.Counted, Max: snap.Max}
	}
	switch {
	case snap.Retired:
		why.Code, why.Message = WhyRetired, "the pool has left the pool file and makes no new machines"
	case snap.Override.Stopped:
		why.Code, why.Message = WhyStopped, "an operator has stopped the pool"+by(snap.Override)
	case snap.Gate.Closed(now):
		why.Code, why.Until = snap.Gate.Reason, snap.Gate.Until
		why.Message = (&ClosedError{Pool: snap.Pool, Gate: snap.Gate}).Error()
	case limit != nil:
		limit.Ahead = max(0, position-1)
		why.Code, why.Message = WhyLimit, limit.Error()
	case position > 1:
		why.Code, why.Message = WhyPosition, fmt.Sprintf("%s before it: it is number %d in the queue", requests(position-1), position)
	default:
		why.Code, why.Message = WhyMaking, "there is a place: a machine is begun at the planner's next pass"
	}
	out := []Why{why}
	if fit := whyNoFit(snap, c); fit.Code != "" {
		out = append(out, fit)
	}
	return out
}

// whyNoFit is why the free machines of a pool are not given to a lease.
func whyNoFit(snap Snapshot, c Choice) Why {
	others, same, held := 0, 0, 0
	var shapes []string
	for _, g := range snap.Groups {
		switch {
		case g.State != Warm && g.State != Hibernated:
		case g.Held && g.Shape == c.Shape:
			held += g.Count
		case g.Held:
		case g.Shape == c.Shape:
			same += g.Count
		default:
			others += g.Count
			if text := shapeText(g.Shape); !slices.Contains(shapes, text) && len(shapes) < 5 {
				shapes = append(shapes, text)
			}
		}
	}
	switch {
	case same > 0:
		return Why{Code: WhyDeadline, Pool: snap.Pool, Message: fmt.Sprintf(
			"%s of its kind free, but in another zone, or with too little of the own deadline left", machines(same))}
	case held > 0:
		return Why{Code: WhyHeld, Pool: snap.Pool, Message: fmt.Sprintf(
			"%s of its kind free, but held by an operator or since the store was restored", machines(held))}
	case others > 0:
		return Why{Code: WhyNoFit, Pool: snap.Pool, Message: fmt.Sprintf(
			"%s free, but none fits: wanted is %s, there is %s", machines(others), shapeText(c.Shape), strings.Join(shapes, "; "))}
	default:
		return Why{}
	}
}

// shapeText is a shape for people; see ShapeOf.
func shapeText(shape string) string {
	names := []string{"tenant", "variant", "image", "machine type", "disk GiB", "nested", "gpu"}
	var out []string
	for i, v := range strings.Split(shape, "|") {
		if i < len(names) && v != "" && v != "0" && v != "false" && (i > 1 || v != "default") {
			out = append(out, names[i]+" "+v)
		}
	}
	if len(out) == 0 {
		return "the pool's own kind"
	}
	return strings.Join(out, ", ")
}

func (m *Manager) explainInstance(ctx context.Context, id string) (Story, error) {
	inst, err := m.instanceCalled(ctx, id)
	if err != nil {
		return Story{}, err
	}
	now := m.stamp()
	s := Story{Subject: SubjectInstance, ID: inst.ID, Name: inst.Name, State: string(inst.State)}
	events, err := m.store.Events(ctx, EventQuery{Instance: inst.ID, Limit: storyEvents})
	if err != nil {
		return s, err
	}
	s.Lines = append(instanceLines(inst), eventLines(events, "")...)
	lease, err := m.leaseOf(ctx, inst)
	if err != nil {
		return s, err
	}
	if lease != nil {
		for _, line := range leaseLines(*lease) {
			line.Message = "lease " + lease.ID + ": " + line.Message
			s.Lines = append(s.Lines, line)
		}
	}
	order(s.Lines)
	s.Summary = instanceSummary(inst, now)
	if inst.Held {
		s.Why = append(s.Why, Why{Code: WhyHeld, Pool: inst.Pool, Message: "an operator holds it: it is neither destroyed nor given away until it is let go"})
	}
	if inst.Attempts > 0 || inst.Reason != "" {
		code := cmp.Or(inst.Reason, "retried")
		if inst.State == Destroying && inst.Attempts > 0 {
			code = WhyDestroying
		}
		msg := because(inst.Reason, inst.Detail)
		if inst.Attempts > 0 {
			msg = fmt.Sprintf("tried %d times, last: %s", inst.Attempts, cmp.Or(msg, "no cause given"))
		}
		why := Why{Code: code, Pool: inst.Pool, Message: msg}
		if !inst.State.Final() && inst.Due.Before(now.Add(farFuture/2)) {
			why.Until = inst.Due
		}
		s.Why = append(s.Why, why)
	}
	return s, nil
}

// instanceCalled finds a machine by our id or by its name, which ends in it.
func (m *Manager) instanceCalled(ctx context.Context, id string) (Instance, error) {
	inst, err := m.store.Instance(ctx, id)
	if i := strings.LastIndexByte(id, '-'); errors.Is(err, ErrNotFound) && i >= 0 {
		byName, nerr := m.store.Instance(ctx, id[i+1:])
		if nerr == nil && byName.Name == id {
			return byName, nil
		}
	}
	return inst, err
}

func (m *Manager) explainPool(ctx context.Context, name string) (Story, error) {
	statuses, err := m.PoolStatus(ctx)
	if err != nil {
		return Story{}, err
	}
	i := slices.IndexFunc(statuses, func(p PoolStatus) bool { return p.Name == name })
	if i < 0 {
		return Story{}, fmt.Errorf("%w: pool %s", ErrNotFound, name)
	}
	p, now := statuses[i], m.stamp()
	snap, err := m.store.Snapshot(ctx, name, planWaiters, now)
	if err != nil {
		return Story{}, err
	}
	s := Story{Subject: SubjectPool, ID: name, State: poolState(p, now)}
	events, err := m.store.Events(ctx, EventQuery{Pool: name, Limit: storyEvents})
	if err != nil {
		return s, err
	}
	s.Lines = eventLines(events, "")
	order(s.Lines)
	s.Why = whyPool(p, snap, now)
	s.Summary = poolSummary(p, snap)
	return s, nil
}

func poolState(p PoolStatus, now time.Time) string {
	switch {
	case p.Retired:
		return WhyRetired
	case p.Override.Stopped:
		return WhyStopped
	case p.Gate.Closed(now):
		return p.Gate.Reason
	default:
		return "open"
	}
}

// whyPool is what keeps a pool from being as it is wanted.
func whyPool(p PoolStatus, snap Snapshot, now time.Time) []Why {
	var out []Why
	add := func(code, format string, args ...any) {
		out = append(out, Why{Code: code, Pool: p.Name, Message: fmt.Sprintf(format, args...)})
	}
	if p.Retired {
		add(WhyRetired, "the pool has left the pool file: it reaps, resumes and destroys, and makes no new machines")
	}
	switch {
	case p.Override.Stopped:
		add(WhyStopped, "an operator has stopped the pool%s", by(p.Override))
	case p.Override.Min != nil:
		add("scaled", "an operator wants %s warm%s", machines(*p.Override.Min), by(p.Override))
	}
	if p.Gate.Closed(now) {
		out = append(out, Why{
			Code: p.Gate.Reason, Pool: p.Name, Until: p.Gate.Until,
			Message: (&ClosedError{Pool: p.Name, Gate: p.Gate}).Error(),
		})
	}
	if snap.Counted >= snap.Max && snap.Max > 0 {
		add(WhyLimit, "%s", &LimitError{Pool: p.Name, Counted: snap.Counted, Max: snap.Max})
	}
	for _, f := range snap.Flavours {
		if f.Max >= 0 && f.Counted >= f.Max {
			add(WhyLimit, "%s", &LimitError{Pool: p.Name, Tenant: f.Tenant, Variant: f.Variant, Counted: f.Counted, Max: f.Max})
		}
	}
	held := 0
	for _, g := range snap.Groups {
		if g.Held {
			held += g.Count
		}
	}
	if held > 0 {
		add(WhyHeld, "%s held by an operator or since the store was restored: they take places and are given to nobody until they are let go or destroyed", machines(held))
	}
	if n := len(snap.Waiting); n > 0 {
		more := ""
		if snap.WaitingMore {
			more = "at least "
		}
		add(WhyPosition, "%s%s, the first for %s", more, requests(n), span(snap.Waiting[0].Arrived, now))
	}
	if n := len(snap.Drifted); n > 0 {
		add(WhyDrift, "%s of an older recipe (at least) to be replaced, a few at a time", machines(n))
	}
	if p.Problem != "" {
		add("problem", "%s", p.Problem)
	}
	return out
}

func poolSummary(p PoolStatus, snap Snapshot) string {
	free := 0
	for _, g := range snap.Groups {
		if !g.Held && (g.State == Warm || g.State == Hibernated) {
			free += g.Count
		}
	}
	return fmt.Sprintf("pool %s (%s): %d free of %d wanted, %d of at most %d machines, %s", p.Name, p.Driver, free, p.Min,
		snap.Counted, snap.Max, requests(p.Waiting))
}

// leaseLines are the moments in a lease's row.
func leaseLines(l Lease) []StoryLine {
	names := make([]string, len(l.Choices))
	for i, c := range l.Choices {
		names[i] = c.Pool
	}
	lines := []StoryLine{{At: l.Arrived, Code: "arrived", Message: fmt.Sprintf("a %s asks for %s", l.Kind, strings.Join(names, ", then "))}}
	if len(names) == 0 {
		lines[0].Message = fmt.Sprintf("a %s asks", l.Kind)
	}
	add := func(at time.Time, code, format string, args ...any) {
		if !at.IsZero() {
			lines = append(lines, StoryLine{At: at, Code: code, Message: fmt.Sprintf(format, args...)})
		}
	}
	add(l.Claimed, "claimed", "given a machine of pool %s after %s", l.Pool, span(l.Arrived, l.Claimed))
	add(l.Active, "active", "answered after %s", span(l.Arrived, l.Active))
	if l.LastCall.After(l.Active) && !l.Active.IsZero() {
		add(l.LastCall, "last_call", "the last call for it")
	}
	add(l.Ended, string(l.State), "%s", cmp.Or(because(l.Reason, l.Detail), "no reason given"))
	return lines
}

// instanceLines are the moments in a machine's row.
func instanceLines(i Instance) []StoryLine {
	what := fmt.Sprintf("intent written for a machine of pool %s", i.Pool)
	if i.Cold {
		what += ", for the request itself"
	}
	if i.Tenant != "default" || i.Variant != "default" {
		what += fmt.Sprintf(" (tenant %s, variant %s)", i.Tenant, i.Variant)
	}
	lines := []StoryLine{{At: i.Created, Code: "intended", Message: what, Instance: i.Name}}
	if !i.Warmed.IsZero() {
		lines = append(lines, StoryLine{
			At: i.Warmed, Code: "proven", Instance: i.Name,
			Message: fmt.Sprintf("its agent %s answered over mutual TLS after %s", i.AgentVersion, span(i.Created, i.Warmed)),
		})
	}
	if i.Since.After(i.Created) {
		lines = append(lines, StoryLine{
			At: i.Since, Code: string(i.State), Instance: i.Name,
			Message: strings.TrimSuffix(fmt.Sprintf("it is %s since then: %s", i.State, because(i.Reason, i.Detail)), ": "),
		})
	}
	return lines
}

func eventLines(events []Event, instance string) []StoryLine {
	out := make([]StoryLine, len(events))
	for i, e := range events {
		out[i] = StoryLine{At: e.At, Code: e.Reason, Message: e.Message, Instance: cmp.Or(instance, e.Instance)}
	}
	return out
}

func order(lines []StoryLine) {
	slices.SortStableFunc(lines, func(a, b StoryLine) int { return a.At.Compare(b.At) })
}

func leaseSummary(l Lease, inst *Instance, why []Why, now time.Time) string {
	head := fmt.Sprintf("%s %s (generation %d) is %s", l.Kind, l.ID, l.Generation, l.State)
	switch l.State {
	case LeaseWaiting:
		head += " for " + span(l.Arrived, now)
		if !l.WaitUntil.IsZero() {
			head += ", at most until " + l.WaitUntil.UTC().Format(time.RFC3339)
		}
		for _, w := range why {
			if w.Position > 0 {
				return head + fmt.Sprintf(", number %d in the queue of pool %s", w.Position, w.Pool)
			}
		}
		return head
	case LeaseEnded, LeaseLost:
		return head + " since " + l.Ended.UTC().Format(time.RFC3339) + ": " + cmp.Or(because(l.Reason, l.Detail), "no reason given")
	default:
		if inst != nil {
			head += fmt.Sprintf(" on %s of pool %s, which is %s", inst.Name, inst.Pool, inst.State)
		}
		return head
	}
}

func instanceSummary(i Instance, now time.Time) string {
	head := fmt.Sprintf("machine %s of pool %s is %s for %s", i.Name, i.Pool, i.State, span(i.Since, now))
	if i.LeaseID != "" {
		head += ", lease " + i.LeaseID
	}
	if i.Held {
		head += ", held"
	}
	return head
}

// because is a reason code with its detail.
func because(reason, detail string) string {
	if reason == "" || detail == "" {
		return reason + detail
	}
	return reason + ": " + detail
}

// by says who ordered something, and why.
func by(o Override) string {
	var out string
	if o.By != "" {
		out += ", by " + o.By
	}
	if !o.Since.IsZero() {
		out += ", since " + o.Since.UTC().Format(time.RFC3339)
	}
	if o.Why != "" {
		out += ": " + o.Why
	}
	return out
}

func span(from, to time.Time) string {
	d := max(0, to.Sub(from))
	if d >= time.Minute {
		return d.Round(time.Second).String()
	}
	return d.Round(time.Millisecond).String()
}

func requests(n int) string {
	if n == 1 {
		return "1 request waits"
	}
	return fmt.Sprintf("%d requests wait", n)
}

func machines(n int) string {
	if n == 1 {
		return "1 machine"
	}
	return fmt.Sprintf("%d machines", n)
}

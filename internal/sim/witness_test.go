package sim

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// witness reads the rows past the engine and past its store after every write,
// and checks what must hold at every moment. What it saw last is its memory of
// the state before.
type witness struct {
	s *sim
	*ledger
	// serial: writes are made one at a time, so that each difference is what
	// one operation did. Without it operations meet in the database, and only
	// states are checked.
	serial bool

	stepMu sync.RWMutex
	mu     sync.Mutex // guards db's statements and what follows
	db     *sql.DB
	stmts  [4]*sql.Stmt
	leases map[pool.LeaseKey]claim
	pools  map[string]pot
	// taken is the lease a machine was first fully given to, by instance id.
	taken map[string]pool.LeaseKey
	steps int
	spending
}

// row is an instance as the database has it.
type row struct {
	id, name, pool, shape, lease, zone, reason string
	flavour                                    flavour
	state                                      pool.InstanceState
	kind                                       pool.Kind
	generation                                 int64
	cold, bound, held                          bool
	since, due, deadline, created              int64
}

func (r row) key() pool.LeaseKey { return pool.LeaseKey{ID: r.lease, Generation: r.generation} }

// claim is a lease as the database has it.
type claim struct {
	seq                                      int64
	key                                      pool.LeaseKey
	kind                                     pool.Kind
	state                                    pool.LeaseState
	waiter, instance, reason                 string
	due, arrived, active, needUntil, started int64
	noClaim                                  bool
	// waits are the shapes it waits for, by pool.
	waits map[string]wish
}

type wish struct {
	shape, zone string
	flavour     flavour
}

// flavour is a tenant's variant of a pool.
type flavour struct{ tenant, variant string }

// pot is a pool as the database has it.
type pot struct {
	name         string
	max, counted int
	retired      bool
	override     pool.Override
	gate         pool.Gate
	// flavours are those with a limit of their own.
	flavours map[flavour]tally
}

type tally struct{ max, counted int }

const (
	selectRows = `SELECT id, name, pool, shape, lease_id, zone, reason, state, kind, lease_generation,
		cold, bound, held, since, due, deadline, tenant, variant, created FROM instances WHERE state <> 'gone'`
	selectClaims = `SELECT l.seq, l.id, l.generation, l.kind, l.state, l.waiter, l.instance_id, l.reason, l.due, l.arrived,
		l.activated, l.need_until, l.claimed, l.no_claim, coalesce(c.pool, ''), coalesce(c.shape, ''), coalesce(c.zone, ''), coalesce(c.tenant, ''), coalesce(c.variant, '')
		FROM leases l LEFT JOIN lease_choices c ON c.seq = l.seq WHERE l.state NOT IN ('ended', 'lost')`
	selectPots    = `SELECT name, max, counted, retired, override, gate FROM pools`
	selectTallies = `SELECT pool, tenant, variant, max, counted FROM flavours`
)

func newWitness(s *sim, l *ledger) *witness {
	return &witness{
		s: s, ledger: l, leases: map[pool.LeaseKey]claim{}, pools: map[string]pot{}, taken: map[string]pool.LeaseKey{},
		spending: spending{begun: map[minute]int{}, lives: map[string]life{}},
	}
}

// open reads a database from here on.
func (w *witness) open(ctx context.Context, db *sql.DB) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.db = db
	for k, text := range []string{selectRows, selectClaims, selectPots, selectTallies} {
		stmt, err := db.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		w.stmts[k] = stmt
	}
	return nil
}

func (w *witness) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, stmt := range w.stmts {
		if stmt != nil {
			if err := stmt.Close(); err != nil {
				return err
			}
			w.stmts[k] = nil
		}
	}
	return w.db.Close()
}

// step makes one write and looks at what it did.
func (w *witness) step(p *process, op string, call func() error) error {
	if w.serial {
		w.stepMu.Lock()
		defer w.stepMu.Unlock()
	}
	err := call()
	w.look(p, op)
	return err
}

// see makes one read, of a state that was looked at.
func (w *witness) see(call func()) {
	if w.serial {
		w.stepMu.RLock()
		defer w.stepMu.RUnlock()
	}
	call()
}

type state struct {
	rows   map[string]row
	leases map[pool.LeaseKey]claim
	pools  map[string]pot
}

func (w *witness) read(ctx context.Context) (state, error) {
	st := state{map[string]row{}, map[pool.LeaseKey]claim{}, map[string]pot{}}
	stmts := w.stmts
	if !w.serial {
		// Others write meanwhile: all of it is to be of one moment.
		tx, err := w.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
		if err != nil {
			return st, err
		}
		defer func() { _ = tx.Rollback() }() // nothing was written
		for k, stmt := range w.stmts {
			stmts[k] = tx.StmtContext(ctx, stmt)
		}
	}
	err := scan(ctx, stmts[0], func(rows *sql.Rows) error {
		var r row
		if err := rows.Scan(&r.id, &r.name, &r.pool, &r.shape, &r.lease, &r.zone, &r.reason, &r.state, &r.kind,
			&r.generation, &r.cold, &r.bound, &r.held, &r.since, &r.due, &r.deadline, &r.flavour.tenant, &r.flavour.variant, &r.created); err != nil {
			return err
		}
		st.rows[r.id] = r
		return nil
	})
	if err != nil {
		return st, err
	}
	err = scan(ctx, stmts[1], func(rows *sql.Rows) error {
		var c claim
		var name string
		var want wish
		if err := rows.Scan(&c.seq, &c.key.ID, &c.key.Generation, &c.kind, &c.state, &c.waiter, &c.instance, &c.reason, &c.due,
			&c.arrived, &c.active, &c.needUntil, &c.started, &c.noClaim, &name, &want.shape, &want.zone,
			&want.flavour.tenant, &want.flavour.variant); err != nil {
			return err
		}
		if have, ok := st.leases[c.key]; ok {
			c = have
		}
		if name != "" {
			if c.waits == nil {
				c.waits = map[string]wish{}
			}
			c.waits[name] = want
		}
		st.leases[c.key] = c
		return nil
	})
	if err != nil {
		return st, err
	}
	err = scan(ctx, stmts[2], func(rows *sql.Rows) error {
		var p pot
		var override, gate string
		if err := rows.Scan(&p.name, &p.max, &p.counted, &p.retired, &override, &gate); err != nil {
			return err
		}
		err := errors.Join(decode(override, &p.override), decode(gate, &p.gate))
		st.pools[p.name] = p
		return err
	})
	if err != nil || !w.s.plan.flavours {
		return st, err
	}
	err = scan(ctx, stmts[3], func(rows *sql.Rows) error {
		var name string
		var f flavour
		var t tally
		err := rows.Scan(&name, &f.tenant, &f.variant, &t.max, &t.counted)
		p := st.pools[name]
		if p.flavours == nil {
			p.flavours = map[flavour]tally{}
		}
		p.flavours[f] = t
		st.pools[name] = p
		return err
	})
	return st, err
}

// decode reads a column of JSON, empty for nothing.
func decode(text string, into any) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), into)
}

func scan(ctx context.Context, stmt *sql.Stmt, each func(*sql.Rows) error) error {
	rows, err := stmt.QueryContext(ctx)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// look compares the rows with those of the last look.
func (w *witness) look(p *process, op string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.db == nil {
		return
	}
	now, err := w.read(context.Background())
	if err != nil {
		w.wrong(ruleError, "", "the rows cannot be read: %v", err)
		return
	}
	w.steps++
	before := state{w.rows, w.leases, w.pools}
	w.ledger.mu.Lock()
	w.rows = now.rows
	w.byName = make(map[string]string, len(now.rows))
	for id, r := range now.rows {
		w.byName[r.name], w.past[r.name] = id, true
	}
	w.ledger.mu.Unlock()
	w.leases, w.pools = now.leases, now.pools
	c := &check{w: w, p: p, op: op, old: before, now: now}
	c.run()
}

// check is one comparison.
type check struct {
	w        *witness
	p        *process
	op       string
	old, now state
}

func (c *check) run() {
	c.machines()
	c.requests()
	c.ownership()
	c.counts()
	c.answers()
	c.holds()
	if c.w.serial {
		c.order()
		c.refills()
		c.closed()
		c.guards()
	}
}

// machines checks each row that changed.
func (c *check) machines() {
	for _, id := range slices.Sorted(maps.Keys(c.now.rows)) {
		r := c.now.rows[id]
		was, known := c.old.rows[id]
		if known && was == r {
			continue
		}
		if !known || was.state != r.state || was.lease != r.lease || was.bound != r.bound || was.held != r.held {
			c.w.tell(c.p.name, r.lease, r.name, "%s: %s %s→%s lease %q bound %v held %v reason %q", c.op, r.name, was.state, r.state, r.lease, r.bound, r.held, r.reason)
		}
		switch {
		case !known && r.state != pool.Creating && c.w.serial:
			c.w.wrong(ruleTransition, r.name, "%s begins its life as %s", r.name, r.state)
		case known && was.state != r.state && !c.w.reachable(was.state, r.state):
			c.w.wrong(ruleTransition, r.name, "%s goes from %s to %s", r.name, was.state, r.state)
		}
		c.due(r)
		if known {
			c.hold(was, r)
		}
		if r.bound && r.state == pool.Leased {
			first, ok := c.w.taken[id]
			if ok && first != r.key() {
				c.w.wrong(ruleUsed, r.name, "%s, which was %s's, is given to %s", r.name, first.ID, r.lease)
			}
			c.w.taken[id] = r.key()
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.old.rows)) {
		if _, still := c.now.rows[id]; still {
			continue
		}
		c.gone(c.old.rows[id])
	}
}

// gone checks a row that is not live any more: the cloud must have said so.
func (c *check) gone(r row) {
	c.w.tell(c.p.name, r.lease, r.name, "%s: %s %s→gone", c.op, r.name, r.state)
	switch {
	case r.state != pool.Destroying && c.w.serial:
		c.w.wrong(ruleTransition, r.name, "%s goes from %s to gone", r.name, r.state)
	case r.held && !c.w.slipping(r.name):
		c.w.wrong(ruleHeld, r.name, "the row of %s is gone although an operator holds it", r.name)
	}
	confirmed, exists, late := c.w.s.world.ended(r.name)
	switch {
	case !confirmed:
		c.w.wrong(ruleConfirmed, r.name, "the row of %s is gone and the cloud has not confirmed it", r.name)
	case exists && !late:
		c.w.wrong(ruleConfirmed, r.name, "the row of %s is gone and the machine is there", r.name)
	}
}

// reachable says whether one operation, or without serial writes several, may
// take an instance from one state to another: a machine that becomes warm, or
// has got to disk, may be handed on in the same breath.
func (w *witness) reachable(from, to pool.InstanceState) bool {
	if from.May(to) || from.May(pool.Warm) && pool.Warm.May(to) || from.May(pool.Hibernated) && to == pool.Resuming {
		return true
	}
	if w.serial {
		return false
	}
	seen := map[pool.InstanceState]bool{from: true}
	for queue := []pool.InstanceState{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range pool.InstanceStates() {
			if queue[0].May(next) && !seen[next] {
				seen[next] = true
				queue = append(queue, next)
			}
		}
	}
	return seen[to]
}

// requests checks each lease that changed.
func (c *check) requests() {
	for key, l := range c.now.leases {
		was, known := c.old.leases[key]
		if known && was.state == l.state && was.instance == l.instance && was.due == l.due && was.waiter == l.waiter {
			continue
		}
		if !known || was.state != l.state || was.instance != l.instance || was.waiter != l.waiter {
			c.w.tell(c.p.name, key.ID, c.now.rows[l.instance].name, "%s: lease %s#%d %s→%s on %q waiter %q reason %q", c.op, key.ID, key.Generation, was.state, l.state, c.now.rows[l.instance].name, l.waiter, l.reason)
		}
		if known && was.state != l.state && !was.state.May(l.state) && c.w.serial {
			c.w.wrong(ruleTransition, key.ID, "lease %s goes from %s to %s", key.ID, was.state, l.state)
		}
		c.leaseDue(l)
	}
	for key, l := range c.old.leases {
		if _, still := c.now.leases[key]; still {
			continue
		}
		c.over(key, l)
	}
}

// over checks a lease that is final now.
func (c *check) over(key pool.LeaseKey, was claim) {
	final, err := c.w.s.store().LeaseAt(context.Background(), key)
	if err != nil {
		c.w.wrong(ruleDurable, key.ID, "the row of lease %s is gone: %v", key.ID, err)
		return
	}
	name := c.old.rows[was.instance].name
	c.w.tell(c.p.name, key.ID, name, "%s: lease %s#%d %s→%s reason %q %s", c.op, key.ID, key.Generation, was.state, final.State, final.Reason, final.Detail)
	if !final.State.Final() || c.w.serial && !was.state.May(final.State) {
		c.w.wrong(ruleTransition, key.ID, "lease %s goes from %s to %s", key.ID, was.state, final.State)
	}
	if final.Reason == "" {
		c.w.wrong(ruleReason, key.ID, "lease %s is %s without a reason", key.ID, final.State)
	}
	if final.State == pool.LeaseLost && name != "" && !c.w.dead(name) {
		c.w.wrong(ruleFalseDeath, name, "%s is lost (%s), but %s lives", key.ID, final.Detail, name)
	}
}

// ownership checks that leases and machines agree on who has whom.
func (c *check) ownership() {
	owner := map[string]pool.LeaseKey{}
	for key, l := range c.now.leases {
		if l.instance == "" || l.state == pool.LeaseWaiting {
			continue
		}
		if other, twice := owner[l.instance]; twice {
			c.w.wrong(ruleOneLease, c.now.rows[l.instance].name, "%s has the leases %s and %s", c.now.rows[l.instance].name, other.ID, key.ID)
		}
		owner[l.instance] = key
	}
	mine := map[pool.LeaseKey]string{}
	for id, r := range c.now.rows {
		if !r.bound {
			continue
		}
		if owner[id] != r.key() {
			c.w.wrong(ruleOneLease, r.name, "%s is bound to %s#%d, whose machine it is not", r.name, r.lease, r.generation)
		}
		if other, twice := mine[r.key()]; twice {
			c.w.wrong(ruleOneLease, r.name, "lease %s has the machines %s and %s", r.lease, other, r.name)
		}
		mine[r.key()] = r.name
	}
}

// counts checks limits where machines were added, and the counter.
func (c *check) counts() {
	live, before := map[string]int{}, map[string]int{}
	for _, r := range c.now.rows {
		live[r.pool]++
	}
	for _, r := range c.old.rows {
		before[r.pool]++
	}
	for name, p := range c.now.pools {
		limit := p.max
		if sim := c.w.s.poolNamed(name); sim != nil {
			limit = sim.max
		}
		if live[name] > before[name] && live[name] > limit {
			c.w.wrong(ruleLimit, "", "pool %s has %d machines with a limit of %d", name, live[name], limit)
		}
		if p.counted != live[name] {
			c.w.wrong(ruleCounter, "", "the counter of pool %s says %d, there are %d", name, p.counted, live[name])
		}
		c.tallies(p)
	}
}

// answers checks that who was told of a machine still has it.
func (c *check) answers() {
	c.w.ledger.mu.Lock()
	held := slices.Collect(maps.Keys(c.w.ledger.answers))
	c.w.ledger.mu.Unlock()
	for _, name := range held {
		a, still := c.w.holds(name)
		if !still || a.unknown {
			continue
		}
		ok := false
		for key, l := range c.now.leases {
			if key.ID == a.lease && c.now.rows[l.instance].name == name {
				ok = true
			}
		}
		if !ok && !c.w.dead(name) {
			c.w.wrong(ruleDurable, name, "%s was told of %s and does not have it any more", a.lease, name)
		}
	}
}

// order checks that whoever was given a machine or a place was next.
func (c *check) order() {
	for key, l := range c.now.leases {
		was, known := c.old.leases[key]
		if l.state != pool.LeaseStarting || known && was.state != pool.LeaseWaiting {
			continue
		}
		r, ok := c.now.rows[l.instance]
		if !ok {
			continue
		}
		places := 0
		if r.cold {
			places = c.ahead(r.pool, l.seq)
		}
		for other, e := range c.now.leases {
			want, waits := e.waits[r.pool]
			if e.state != pool.LeaseWaiting || e.seq >= l.seq || e.waiter == "" || !waits {
				continue
			}
			if before, was := c.old.leases[other]; !was || before.state != pool.LeaseWaiting || before.waiter == "" {
				continue // came back to the queue in this very step
			}
			if r.cold {
				// Places left over by those who wait longer may go to others.
				if c.now.pools[r.pool].max-c.now.pools[r.pool].counted < places {
					c.w.wrong(ruleOrder, key.ID, "%s is given a place of pool %s although %s waits longer", key.ID, r.pool, other.ID)
				}
				continue
			}
			if !e.noClaim && want.shape == r.shape && (want.zone == "" || want.zone == r.zone) && (r.deadline == 0 || r.deadline >= e.needUntil) {
				c.w.wrong(ruleOrder, key.ID, "%s is given %s although %s waits longer", key.ID, r.name, other.ID)
			}
		}
	}
}

// ahead is how many leases wait for a place of a pool before one in the queue
// and could take one: no more of a flavour than its own limit has room for.
func (c *check) ahead(name string, seq int64) int {
	waiting := map[flavour]int{}
	for _, e := range c.now.leases {
		if want, waits := e.waits[name]; waits && e.state == pool.LeaseWaiting && e.seq < seq && e.waiter != "" {
			waiting[want.flavour]++
		}
	}
	n := 0
	for f, k := range waiting {
		if t, limited := c.now.pools[name].flavours[f]; limited && t.max >= 0 {
			k = min(k, max(0, t.max-t.counted))
		}
		n += k
	}
	return n
}

// snapshot is what was seen last, for the audit and the tick.
func (w *witness) snapshot() state {
	w.mu.Lock()
	defer w.mu.Unlock()
	return state{w.rows, w.leases, w.pools}
}

func (r row) String() string {
	return fmt.Sprintf("%s (%s since %s, due %s, lease %q, reason %q)", r.name, r.state, msTime(r.since), msTime(r.due), r.lease, r.reason)
}

func msTime(ms int64) string {
	if ms == 0 {
		return "never"
	}
	return time.UnixMilli(ms).UTC().Format("02T15:04:05")
}

// refresh looks although nobody has written.
func (w *witness) refresh() state {
	w.look(newProcess("sim", w.s.d, w.s.host), "refresh")
	return w.snapshot()
}

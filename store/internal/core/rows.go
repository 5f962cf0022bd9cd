package core

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// maxID bounds ids and names in bytes: far above what callers send, and below
// what an index of any database takes.
const maxID = 1024

// checkID refuses what could not be stored and found again byte for byte.
func checkID(what, id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: empty %s", pool.ErrInvalid, what)
	case len(id) > maxID:
		return fmt.Errorf("%w: %s has %d bytes, at most %d are allowed", pool.ErrInvalid, what, len(id), maxID)
	case !utf8.ValidString(id) || strings.IndexByte(id, 0) >= 0:
		return fmt.Errorf("%w: %s %q is not valid UTF-8 without NUL", pool.ErrInvalid, what, id)
	}
	return nil
}

// clean makes a text storable: a console tail with a stray byte must not keep
// a failure from being recorded.
func clean(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// instanceColumns are read in this order, see fields; an insert leaves out the
// identity, which has a table of its own.
const (
	instanceColumns = instanceInsertColumns + `,
	(SELECT sealed FROM identities WHERE instance_id = instances.id)`

	instanceInsertColumns = `id, name, pool, driver, scope, state, kind, variant, tenant, shape, recipe, os, arch, image,
	machine_type, zone, disk_gib, cloud_id, address, port, agent_version, storage_id, lease_id, lease_generation, cold,
	created, since, due, deadline, warmed, attempts, reason, detail, held, disks, bound`
)

// instance is a row of instances: the domain's and what only the store knows.
type instance struct {
	pool.Instance
	// bound is true while the lease in LeaseID holds the machine.
	bound bool
	// sealed is the identity as stored.
	sealed []byte
}

func (i *instance) fields() []any {
	return []any{
		&i.ID, &i.Name, &i.Pool, &i.Driver, &i.Scope, (*string)(&i.State), (*string)(&i.Kind), &i.Variant, &i.Tenant,
		&i.Shape, &i.Recipe, &i.OS, &i.Arch, &i.Image, &i.MachineType, &i.Zone, (*number)(&i.DiskGiB), &i.CloudID,
		&i.Address, (*number)(&i.Port), &i.AgentVersion, &i.StorageID, &i.LeaseID, &i.LeaseGeneration, (*truth)(&i.Cold),
		(*stamp)(&i.Created), (*stamp)(&i.Since), (*stamp)(&i.Due), (*stamp)(&i.Deadline), (*stamp)(&i.Warmed),
		(*number)(&i.Attempts), &i.Reason, &i.Detail, (*truth)(&i.Held), (*number)(&i.Disks), (*truth)(&i.bound), &i.sealed,
	}
}

// values are the insert's.
func (i *instance) values() []any {
	return []any{
		i.ID, i.Name, i.Pool, i.Driver, i.Scope, string(i.State), string(i.Kind), i.Variant, i.Tenant,
		i.Shape, i.Recipe, i.OS, i.Arch, i.Image, i.MachineType, i.Zone, int64(i.DiskGiB), i.CloudID,
		i.Address, int64(i.Port), i.AgentVersion, i.StorageID, i.LeaseID, i.LeaseGeneration, bit(i.Cold),
		ms(i.Created), ms(i.Since), ms(i.Due), ms(i.Deadline), ms(i.Warmed),
		int64(i.Attempts), i.Reason, i.Detail, bit(i.Held), int64(i.Disks), bit(i.bound),
	}
}

// open fills in what is sealed. It is done once per row that leaves the store.
func (t txn) open(i *instance) error {
	if len(i.sealed) == 0 {
		return nil
	}
	if t.seal == nil {
		return fmt.Errorf("%w: the identity of %s is sealed and there is no seal key", pool.ErrInvalid, i.ID)
	}
	plain, err := t.seal.Open(i.sealed, identityPlace(i.ID))
	if err != nil {
		return fmt.Errorf("identity of %s: %w", i.ID, err)
	}
	s, err := decodeSecrets(plain)
	if err != nil {
		return fmt.Errorf("identity of %s: %w", i.ID, err)
	}
	i.Identity, i.NextIdentity, i.InitScript = s.identity, s.next, s.script
	i.Proxy, i.ProxyCA = s.proxy, s.proxyCA
	return nil
}

func (t txn) sealIdentity(i *instance) error {
	if identityIsZero(i.Identity) && i.InitScript == "" && i.Proxy == "" {
		i.sealed = nil
		return nil
	}
	if t.seal == nil {
		return fmt.Errorf("%w: there is no seal key to store the identity of %s with", pool.ErrInvalid, i.ID)
	}
	i.sealed = t.seal.Seal(secrets{i.Identity, i.NextIdentity, i.InitScript, i.Proxy, i.ProxyCA}.encode(), identityPlace(i.ID))
	return nil
}

// identityPlace binds a sealed identity to its row.
func identityPlace(id string) string { return "instances\x00" + id }

func identityIsZero(id drivers.Identity) bool {
	return id.Machine == "" && id.Hostname == "" && id.ServerName == "" &&
		len(id.CAKey)+len(id.CACert)+len(id.Key)+len(id.Cert) == 0
}

// secrets are what is sealed of a machine. The next identity differs from the
// present one in CA certificate, key and leaf only.
type secrets struct {
	identity, next drivers.Identity
	script         string
	// The proxy is no secret, and kept here because nothing looks for it.
	proxy   string
	proxyCA bool
}

// The fields of secrets in their order; those from scriptField on are left out
// if they and what follows them are empty.
const (
	scriptField = 7
	nextField   = 8
	proxyField  = 11
	caField     = 12
	allFields   = 13
)

// encode writes the fields in order, each after its length.
func (s secrets) encode() []byte {
	id, next := s.identity, s.next
	fields := [][]byte{
		[]byte(id.Machine), []byte(id.Hostname), []byte(id.ServerName), id.CAKey, id.CACert, id.Key, id.Cert,
		[]byte(s.script), next.CACert, next.Key, next.Cert,
		[]byte(s.proxy), []byte("yes"),
	}
	switch {
	case s.proxyCA:
	case s.proxy != "":
		fields = fields[:caField]
	case len(next.Cert) > 0:
		fields = fields[:proxyField]
	case s.script != "":
		fields = fields[:nextField]
	default:
		fields = fields[:scriptField]
	}
	size := 0
	for _, f := range fields {
		size += len(f) + binary.MaxVarintLen32
	}
	out := make([]byte, 0, size)
	for _, f := range fields {
		out = binary.AppendUvarint(out, uint64(len(f)))
		out = append(out, f...)
	}
	return out
}

// decodeSecrets is the reverse. Fields that a later version adds are ignored.
func decodeSecrets(b []byte) (secrets, error) {
	var fields [allFields][]byte
	for k := range fields {
		if len(b) == 0 && (k == scriptField || k == nextField || k == proxyField || k == caField) {
			break // none
		}
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return secrets{}, fmt.Errorf("field %d is cut short", k)
		}
		if n > 0 {
			fields[k] = b[w : w+int(n) : w+int(n)]
		}
		b = b[w+int(n):]
	}
	s := secrets{
		identity: drivers.Identity{
			Machine: string(fields[0]), Hostname: string(fields[1]), ServerName: string(fields[2]),
			CAKey: fields[3], CACert: fields[4], Key: fields[5], Cert: fields[6],
		},
		script: string(fields[scriptField]), proxy: string(fields[proxyField]), proxyCA: len(fields[caField]) > 0,
	}
	if len(fields[nextField+2]) > 0 {
		s.next = s.identity
		s.next.CACert, s.next.Key, s.next.Cert = fields[nextField], fields[nextField+1], fields[nextField+2]
	}
	return s, nil
}

// leaseColumns are read in this order; an insert leaves out seq.
const (
	leaseColumns = `seq, ` + leaseInsertColumns

	leaseInsertColumns = `id, generation, kind, state, waiter, want, choices, pool, instance_id, arrived, claimed,
	activated, ended, last_call, wait_until, due, digest, causes, reason, detail, no_claim, need_until, start_ms, exported`
)

// lease is a row of leases.
type lease struct {
	pool.Lease
	noClaim bool
	// needUntil is the least deadline of a machine that fits, in milliseconds.
	needUntil int64
	// startMS is how long starting may take before the worker looks at it.
	startMS  int64
	exported bool
	// The JSON texts as stored; Want, Choices and Causes are made from them
	// when the row leaves the store (see decode) or is worked on.
	want, choices, causes string
}

func (l *lease) fields() []any {
	return []any{
		&l.Seq, &l.ID, &l.Generation, (*string)(&l.Kind), (*string)(&l.State), &l.Waiter, &l.want, &l.choices, &l.Pool,
		&l.InstanceID, (*stamp)(&l.Arrived), (*stamp)(&l.Claimed), (*stamp)(&l.Active), (*stamp)(&l.Ended),
		(*stamp)(&l.LastCall), (*stamp)(&l.WaitUntil), (*stamp)(&l.Due), &l.Digest, &l.causes, &l.Reason, &l.Detail,
		(*truth)(&l.noClaim), &l.needUntil, &l.startMS, (*truth)(&l.exported),
	}
}

// values are the insert's.
func (l *lease) values() []any {
	return []any{
		l.ID, l.Generation, string(l.Kind), string(l.State), l.Waiter, l.want, l.choices, l.Pool,
		l.InstanceID, ms(l.Arrived), ms(l.Claimed), ms(l.Active), ms(l.Ended),
		ms(l.LastCall), ms(l.WaitUntil), ms(l.Due), l.Digest, l.causes, l.Reason, l.Detail,
		bit(l.noClaim), l.needUntil, l.startMS, bit(l.exported),
	}
}

// encode makes the stored texts of a new lease.
func (l *lease) encode() error {
	var err error
	if l.want, err = encodeJSON(l.Want, wantIsZero(l.Want)); err != nil {
		return err
	}
	if l.choices, err = encodeJSON(l.Choices, len(l.Choices) == 0); err != nil {
		return err
	}
	l.causes, err = encodeJSON(l.Causes, len(l.Causes) == 0)
	return err
}

// decode is the reverse.
func (l *lease) decode() error {
	if err := decodeJSON(l.want, &l.Want); err != nil {
		return fmt.Errorf("want of lease %q: %w", l.ID, err)
	}
	if err := decodeJSON(l.choices, &l.Choices); err != nil {
		return fmt.Errorf("choices of lease %q: %w", l.ID, err)
	}
	if err := decodeJSON(l.causes, &l.Causes); err != nil {
		return fmt.Errorf("causes of lease %q: %w", l.ID, err)
	}
	return nil
}

func wantIsZero(w pool.Want) bool {
	return w.Account == "" && w.ResourceClass == "" && w.Image == "" && w.ImageVersion == "" && w.MachineType == "" &&
		w.Zone == "" && w.DiskGiB == 0 && !w.Nested && !w.GPU && w.Life == 0 && w.Ports == nil && w.Storage == "" && w.Labels == nil
}

// encodeJSON writes the empty text for what is empty, the ordinary case.
func encodeJSON(v any, empty bool) (string, error) {
	if empty {
		return "", nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", fmt.Errorf("%w: %w", pool.ErrInvalid, err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

func decodeJSON(text string, into any) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), into)
}

// poolColumns are read in this order, see fields; poolStateColumns, see state,
// are what operations on one pool look at, without the texts of its making.
const (
	poolStateColumns = `name, max, spec_hash, retired, counted, holder, generation, held_until, recipes, per_minute, minute,
	begun, flavours, gate, override`

	poolColumns = poolStateColumns + `, driver, scope, min, last_spec, platform, updated`
)

type poolRow struct {
	pool.PoolRow
	// begun is how many machines were begun in the minute, by its number since
	// 1970; flavours how many rows of that table are the pool's.
	minute          int64
	begun, flavours int
	// The JSON texts as stored.
	spec, platform, recipe, gate, override string
}

// recipes are those of all flavours. A pool written by an older program has
// only its own.
func (p *poolRow) recipes() []string {
	if len(p.Recipes) > 0 {
		return p.Recipes
	}
	return []string{p.SpecHash}
}

func (p *poolRow) state() []any {
	return []any{
		&p.Name, (*number)(&p.Max), &p.SpecHash, (*truth)(&p.Retired), (*number)(&p.Counted), &p.Hold.Replica,
		&p.Hold.Generation, (*stamp)(&p.Hold.Until), &p.recipe, (*number)(&p.PerMinute), &p.minute, (*number)(&p.begun),
		(*number)(&p.flavours), &p.gate, &p.override,
	}
}

// decodeState makes what the state columns hold as JSON.
func (p *poolRow) decodeState() error {
	if err := decodeJSON(p.recipe, &p.Recipes); err != nil {
		return fmt.Errorf("recipes of pool %s: %w", p.Name, err)
	}
	if err := decodeJSON(p.gate, &p.Gate); err != nil {
		return fmt.Errorf("gate of pool %s: %w", p.Name, err)
	}
	if err := decodeJSON(p.override, &p.Override); err != nil {
		return fmt.Errorf("override of pool %s: %w", p.Name, err)
	}
	return nil
}

func (p *poolRow) fields() []any {
	return append(p.state(), &p.Driver, &p.Scope, (*number)(&p.Min), &p.spec, &p.platform, (*stamp)(&p.Updated))
}

func (p *poolRow) decode() error {
	if p.Hold.Replica == "" {
		p.Hold = pool.Hold{}
	} else {
		p.Hold.Pool = p.Name
	}
	if err := decodeJSON(p.platform, &p.Platform); err != nil {
		return fmt.Errorf("platform of pool %s: %w", p.Name, err)
	}
	return p.decodeState()
}

// sealedSpec begins a spec that is sealed; what follows is base64. One that is
// not is JSON as an older program wrote it.
const sealedSpec = "sealed:"

// sealSpec fills in what is stored of the spec, which may hold credentials.
func (t txn) sealSpec(p *poolRow) error {
	if len(p.LastSpec) == 0 {
		p.spec = ""
		return nil
	}
	if t.seal == nil {
		return fmt.Errorf("%w: there is no seal key to store the spec of pool %s with", pool.ErrInvalid, p.Name)
	}
	p.spec = sealedSpec + base64.StdEncoding.EncodeToString(t.seal.Seal(p.LastSpec, specPlace(p.Name)))
	return nil
}

// openSpec fills in the spec from what is stored of it.
func (t txn) openSpec(p *poolRow) error {
	text, sealed := strings.CutPrefix(p.spec, sealedSpec)
	if !sealed {
		p.LastSpec = nil
		if p.spec != "" {
			p.LastSpec = json.RawMessage(p.spec)
		}
		return nil
	}
	if t.seal == nil {
		return fmt.Errorf("%w: the spec of pool %s is sealed and there is no seal key", pool.ErrInvalid, p.Name)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		p.LastSpec, err = t.seal.Open(raw, specPlace(p.Name))
	}
	if err != nil {
		return fmt.Errorf("spec of pool %s: %w", p.Name, err)
	}
	return nil
}

// specPlace binds a sealed spec to its row.
func specPlace(pool string) string { return "spec of pool " + pool }

// The readers of single rows. lock keeps the row as it is until the end of the
// transaction, where others write at the same time.

func (t txn) instance(ctx context.Context, id string, lock bool) (*instance, error) {
	s := SelectInstance
	if lock {
		s = LockInstance
	}
	var i instance
	found, err := t.one(ctx, s, i.fields(), id)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("instance %s: %w", id, pool.ErrNotFound)
	}
	return &i, nil
}

// lease reads one generation of a lease, or for generation 0 the latest.
func (t txn) lease(ctx context.Context, k pool.LeaseKey, lock bool) (*lease, error) {
	var l lease
	var found bool
	var err error
	switch {
	case k.Generation == 0 && lock:
		found, err = t.one(ctx, LockLatestLease, l.fields(), k.ID)
	case k.Generation == 0:
		found, err = t.one(ctx, SelectLatestLease, l.fields(), k.ID)
	case lock:
		found, err = t.one(ctx, LockLease, l.fields(), k.ID, k.Generation)
	default:
		found, err = t.one(ctx, SelectLease, l.fields(), k.ID, k.Generation)
	}
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("lease %q generation %d: %w", k.ID, k.Generation, pool.ErrNotFound)
	}
	return &l, nil
}

// pool reads what operations look at, with SelectPool or one of the statements
// that lock; the rest of the row is zero.
func (t txn) pool(ctx context.Context, name string, s Stmt) (*poolRow, error) {
	var p poolRow
	found, err := t.one(ctx, s, p.state(), name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("pool %s: %w", name, pool.ErrNotFound)
	}
	return &p, p.decodeState()
}

// instances reads and opens all rows of a query.
func (t txn) instances(rows *sql.Rows, err error) ([]pool.Instance, error) {
	var out []pool.Instance
	err = each(rows, err, func(r *sql.Rows) error {
		var i instance
		if err := r.Scan(i.fields()...); err != nil {
			return err
		}
		if err := t.open(&i); err != nil {
			return err
		}
		out = append(out, i.Instance)
		return nil
	})
	return out, err
}

// leases reads and decodes all rows of a query.
func leases(rows *sql.Rows, err error) ([]pool.Lease, error) {
	var out []pool.Lease
	err = each(rows, err, func(r *sql.Rows) error {
		var l lease
		if err := r.Scan(l.fields()...); err != nil {
			return err
		}
		if err := l.decode(); err != nil {
			return err
		}
		out = append(out, l.Lease)
		return nil
	})
	return out, err
}

// events writes an operation's events; those without a time get the
// operation's.
func (t txn) events(ctx context.Context, now int64, events []pool.Event) error {
	for _, e := range events {
		when := ms(e.At)
		if when == 0 {
			when = now
		}
		if _, err := t.Exec(ctx, InsertEvent, when, clean(e.Pool), clean(e.Instance), clean(e.Lease), e.Generation,
			clean(e.Reason), clean(e.Message)); err != nil {
			return fmt.Errorf("event %s: %w", e.Reason, err)
		}
	}
	return nil
}

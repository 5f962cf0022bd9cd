package core

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// flavoured is a tenant's or variant's name as flavours are counted by.
func flavoured(name string) string { return cmp.Or(name, "default") }

// flavour is one tenant's variant of a pool.
type flavour struct{ tenant, variant string }

// checkFlavours refuses a configuration that names a flavour twice.
func checkFlavours(p pool.PoolRow) error {
	seen := map[flavour]bool{}
	for _, f := range p.Flavours {
		key := flavour{flavoured(f.Tenant), flavoured(f.Variant)}
		if seen[key] {
			return fmt.Errorf("%w: variant %s of tenant %s of pool %s is given twice", pool.ErrInvalid, key.variant, key.tenant, p.Name)
		}
		seen[key] = true
		for what, name := range map[string]string{"tenant": key.tenant, "variant": key.variant} {
			if err := checkID(what, name); err != nil {
				return fmt.Errorf("pool %s: %w", p.Name, err)
			}
		}
	}
	return nil
}

// setFlavours writes the flavours of a pool that is locked, counted anew: a
// machine may be older than its flavour's limit.
func (t txn) setFlavours(ctx context.Context, p pool.PoolRow) error {
	if _, err := t.Exec(ctx, DropFlavours, p.Name); err != nil || len(p.Flavours) == 0 {
		return err
	}
	truth, _, err := t.machines(ctx, p.Name)
	if err != nil {
		return err
	}
	for _, f := range p.Flavours {
		key := flavour{flavoured(f.Tenant), flavoured(f.Variant)}
		if _, err := t.Exec(ctx, InsertFlavour, p.Name, key.tenant, key.variant, int64(max(-1, f.Max)), int64(truth[key])); err != nil {
			return err
		}
	}
	return nil
}

// machines counts the rows of a pool that cost money, by flavour and in all.
func (t txn) machines(ctx context.Context, name string) (by map[flavour]int, all int, err error) {
	by = map[flavour]int{}
	rows, err := t.Query(ctx, CountInstances, name)
	err = each(rows, err, func(r *sql.Rows) error {
		var f flavour
		var n int
		if err := r.Scan(&f.tenant, &f.variant, (*number)(&n)); err != nil {
			return err
		}
		by[flavour{flavoured(f.tenant), flavoured(f.variant)}] += n
		all += n
		return nil
	})
	return by, all, err
}

// flavours reads those of one pool, by tenant and variant.
func (t txn) flavours(ctx context.Context, name string) ([]pool.FlavourRow, error) {
	var out []pool.FlavourRow
	rows, err := t.Query(ctx, SelectFlavours, name)
	err = each(rows, err, func(r *sql.Rows) error {
		var f pool.FlavourRow
		if err := r.Scan(&f.Tenant, &f.Variant, (*number)(&f.Max), (*number)(&f.Counted)); err != nil {
			return err
		}
		out = append(out, f)
		return nil
	})
	return out, err
}

// uncount takes a machine that is gone off the counters.
func (t txn) uncount(ctx context.Context, i *instance) error {
	var flavours int
	found, err := t.one(ctx, Uncount, []any{(*number)(&flavours)}, i.Pool)
	if err == nil && !found {
		err = pool.ErrNotFound
	}
	if err != nil || flavours == 0 {
		return err
	}
	_, err = t.Exec(ctx, CountFlavour, int64(-1), i.Pool, flavoured(i.Tenant), flavoured(i.Variant))
	return err
}

// recount compares the counters of one pool with its rows and repairs them.
func (t txn) recount(ctx context.Context, name string) ([]pool.Drift, error) {
	// Locked first: whoever changes the number of rows holds the pool.
	p, err := t.pool(ctx, name, LockPool)
	if err != nil {
		return nil, err
	}
	by, all, err := t.machines(ctx, name)
	if err != nil {
		return nil, err
	}
	var out []pool.Drift
	if all != p.Counted {
		out = append(out, pool.Drift{Pool: name, Counted: p.Counted, Truth: all})
		if err := must(t.Exec(ctx, SetCounted, int64(all), name)); err != nil {
			return nil, err
		}
	}
	if p.flavours == 0 {
		return out, nil
	}
	flavours, err := t.flavours(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, f := range flavours {
		truth := by[flavour{f.Tenant, f.Variant}]
		if truth == f.Counted {
			continue
		}
		out = append(out, pool.Drift{Pool: name, Tenant: f.Tenant, Variant: f.Variant, Counted: f.Counted, Truth: truth})
		if err := must(t.Exec(ctx, SetFlavourCounted, int64(truth), name, f.Tenant, f.Variant)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

package core

import (
	"bytes"
	"context"
	"fmt"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// Renewing implements pool.Store.
func (s *Store) Renewing(ctx context.Context, r pool.Renewal) (pool.Instance, error) {
	if len(r.Next.Cert) == 0 {
		return pool.Instance{}, fmt.Errorf("renew the certificate of instance %s: %w: there is no next one", r.ID, pool.ErrInvalid)
	}
	return s.renewal(ctx, "renew the certificate of", r, func(i *instance) (bool, error) {
		if len(i.NextIdentity.Cert) > 0 || !bytes.Equal(i.Identity.Cert, r.From) {
			return false, nil
		}
		i.NextIdentity = i.with(r.Next)
		return true, nil
	})
}

// Renewed implements pool.Store.
func (s *Store) Renewed(ctx context.Context, r pool.Renewal) (pool.Instance, error) {
	return s.renewal(ctx, "note the new certificate of", r, func(i *instance) (bool, error) {
		if bytes.Equal(i.Identity.Cert, r.Next.Cert) {
			return false, nil
		}
		if !bytes.Equal(i.NextIdentity.Cert, r.Next.Cert) {
			return false, fmt.Errorf("it is not the one it was to be given: %w", pool.ErrConflict)
		}
		i.Identity, i.NextIdentity = i.NextIdentity, drivers.Identity{}
		return true, nil
	})
}

// with is the identity with other certificates.
func (i *instance) with(next drivers.Identity) drivers.Identity {
	out := i.Identity
	out.CACert, out.Key, out.Cert = next.CACert, next.Key, next.Cert
	return out
}

// renewal changes what is sealed of a machine, if change says that it did.
func (s *Store) renewal(ctx context.Context, what string, r pool.Renewal, change func(*instance) (bool, error)) (pool.Instance, error) {
	return s.onInstance(ctx, what, r.ID, alone, func(ctx context.Context, t txn, i *instance) error {
		if err := t.open(i); err != nil {
			return err
		}
		if len(i.Identity.Cert) == 0 {
			return fmt.Errorf("it is %s and has none: %w", i.State, pool.ErrConflict)
		}
		if changed, err := change(i); err != nil || !changed {
			return err
		}
		if err := t.sealIdentity(i); err != nil {
			return err
		}
		if err := must(t.Exec(ctx, UpdateIdentity, i.sealed, i.ID)); err != nil {
			return err
		}
		return t.events(ctx, ms(r.Now), r.Events)
	})
}

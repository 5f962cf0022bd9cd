package core

import (
	"context"
	"errors"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// ArriveAtOnce is the ordinary arrival in one statement, where others write at
// the same time (only Postgres understands it): a new lease that is given a free machine. It returns no row if the id has a lease
// that is not final, or is buried, or if no machine fits; the operation of
// several statements sees which. Two first setups of one id at the same time
// meet at the unique key of leases. Machines that others are taking are passed
// over, and it locks nothing but the machine it takes: claims of one pool do
// not wait for each other.
//
// The first ten parameters are those of Claim, the generation counted from the
// latest there is; then the lease's waiter, want, choices, end of waiting,
// digest and time to start.
var ArriveAtOnce = `WITH taken AS (` +
	claim(`CAST($4 AS BIGINT) + (SELECT coalesce(max(generation), 0) FROM leases WHERE leases.id = CAST($3 AS TEXT))`,
		` FOR UPDATE SKIP LOCKED`,
		` AND NOT EXISTS (SELECT 1 FROM leases WHERE leases.id = CAST($3 AS TEXT) AND leases.state NOT IN ('ended', 'lost'))`) + `),
	begun AS (INSERT INTO leases (` + leaseInsertColumns + `)
	SELECT lease_id, lease_generation, kind, 'starting', CAST($11 AS TEXT), CAST($12 AS TEXT), CAST($13 AS TEXT), pool,
	id, since, since, 0, 0, since, CAST($14 AS BIGINT), due, CAST($15 AS TEXT), '', '', '',
	0, CAST($9 AS BIGINT), CAST($16 AS BIGINT), 0 FROM taken RETURNING seq)
	SELECT begun.seq, taken.* FROM taken, begun`

// arriveAtOnce tries each choice in one trip, where a trip is what costs. done
// is false if it is for arrive to answer. Nothing is fenced there: requests
// are not.
func (s *Store) arriveAtOnce(ctx context.Context, a pool.Arrival) (g pool.Grant, done bool, err error) {
	b, ok := s.b.(Tripper)
	if !ok || s.hold != (pool.Hold{}) || a.NoClaim || a.Waiter == "" {
		return pool.Grant{}, false, nil
	}
	l, err := begun(a, 1)
	if err != nil {
		return pool.Grant{}, false, err
	}
	now, due := cut(a.Now), cut(a.LeaseDue)
	for _, c := range l.Choices {
		buried := ""
		var calls []Call
		if l.Kind != pool.Gitspace {
			// As in lockID, and the claim that follows sees what was committed
			// before the lock was had.
			buried = l.ID
			calls = append(calls, Call{Stmt: LockID, Args: []any{buried}})
		}
		calls = append(calls, Call{Text: ArriveAtOnce, Args: []any{
			ms(now), ms(due), l.ID, l.Generation, string(l.Kind), c.Pool, c.Shape, c.Zone, l.needUntil, buried,
			l.Waiter, l.want, l.choices, ms(l.WaitUntil), l.Digest, l.startMS,
		}})
		var i instance
		found, err := b.Trip(ctx, append([]any{&l.Seq}, i.fields()...), calls...)
		switch {
		case errors.Is(err, ErrRaced):
			return pool.Grant{}, false, nil
		case err != nil:
			return pool.Grant{}, false, err
		case found:
			l.start(&i, now, due)
			l.Generation = i.LeaseGeneration
			return grant(l, &i, true), true, txn{seal: s.seal}.open(&i)
		}
	}
	return pool.Grant{}, false, nil
}

package pool

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

const (
	// StatusUnknown is what an agent answers that does not know a call of ours.
	StatusUnknown = 404
	// reasonRenewed and reasonNotRenewed are the codes of a machine's events.
	reasonRenewed    = "certificate_renewed"
	reasonNotRenewed = "certificate_not_renewed"

	// buildRenewal is when a build's certificate is renewed, before its end: it
	// outlives the machine's deadline by 23 hours, so that only a machine that has
	// outlived that too needs another.
	buildRenewal = 20 * time.Hour
	// lateRenewal is when somebody is told of a machine that could not be reached
	// for it; one whose agent cannot is told of at once.
	lateRenewal = 30 * 24 * time.Hour
)

// RenewIdentity makes the certificates that follow those of id: a leaf with a
// new key and the same names, and the CA's certificate anew with the key it
// has, so that old and new ones are good beside each other. They are valid until
// now + validity, and from when the old ones were: the clock of a machine that
// slept may be far behind, and this host's may have been ahead for a moment. An
// id without its CA's key is an error.
func RenewIdentity(id drivers.Identity, now time.Time, validity time.Duration) (drivers.Identity, error) {
	next, err := renewIdentity(id, now, validity)
	if err != nil {
		return drivers.Identity{}, fmt.Errorf("renew identity of %s: %w", id.Machine, err)
	}
	return next, nil
}

func renewIdentity(id drivers.Identity, now time.Time, validity time.Duration) (drivers.Identity, error) {
	if len(id.CAKey) == 0 {
		return drivers.Identity{}, errors.New("the key of its CA is not known")
	}
	authority, err := tls.X509KeyPair(id.CACert, id.CAKey)
	if err != nil {
		return drivers.Identity{}, fmt.Errorf("its CA: %w", err)
	}
	signer, ok := authority.PrivateKey.(crypto.Signer)
	if !ok {
		return drivers.Identity{}, fmt.Errorf("its CA has a key that signs nothing (%T)", authority.PrivateKey)
	}
	old, err := leafOf(id)
	if err != nil {
		return drivers.Identity{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return drivers.Identity{}, err
	}
	anew := func(c *x509.Certificate) *x509.Certificate {
		c.SerialNumber, c.SignatureAlgorithm = serial(), x509.UnknownSignatureAlgorithm
		c.NotAfter = now.Add(validity)
		return c
	}
	ca := anew(authority.Leaf)
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, signer.Public(), signer)
	if err != nil {
		return drivers.Identity{}, err
	}
	leaf := anew(old)
	leaf.SubjectKeyId = nil // it was the old key's, if it had one
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, signer)
	if err != nil {
		return drivers.Identity{}, err
	}
	next := id
	next.CACert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	next.Cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	next.Key, err = keyPEM(key)
	return next, err
}

// leafOf reads a machine's certificate.
func leafOf(id drivers.Identity) (*x509.Certificate, error) {
	block, _ := pem.Decode(id.Cert)
	if block == nil {
		return nil, errors.New("its certificate is not in PEM form")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	return leaf, nil
}

// renewal is when a machine's certificate wants to be renewed, and when it ends.
type renewal struct{ due, end time.Time }

// renewalOf: when a third of its life is left, or of what one is made for today if
// that is less, for a build twenty hours at most; and up to a quarter of that
// later, so that machines made together are not renewed together. ok is false for
// a machine whose certificate cannot be read.
func renewalOf(inst Instance, validity time.Duration) (r renewal, ok bool) {
	leaf, err := leafOf(inst.Identity)
	if err != nil {
		return renewal{}, false
	}
	left := min(leaf.NotAfter.Sub(leaf.NotBefore), validity) / 3
	if inst.Kind == Build {
		left = min(left, buildRenewal)
	}
	h := fnv.New32a()
	h.Write([]byte(inst.ID)) // a hash never fails
	later := time.Duration(float64(left) / 4 * float64(h.Sum32()) / math.MaxUint32)
	return renewal{due: leaf.NotAfter.Add(later - left), end: leaf.NotAfter}, true
}

func (r renewal) ended(now time.Time) bool { return now.After(r.end) }

// next is how long until it is looked at again: when it is due, and then the
// oftener the nearer its end is; every hour at least, every minute at most.
func (r renewal) next(now time.Time) time.Duration {
	switch {
	case now.Before(r.due):
		return min(leasedRecheck, r.due.Sub(now))
	case r.ended(now):
		return leasedRecheck
	default:
		return min(leasedRecheck, max(time.Minute, r.end.Sub(now)/4))
	}
}

// late says whether it is time to tell somebody that it has not worked.
func (r renewal) late(now time.Time) bool {
	return now.After(r.end.Add(-min(lateRenewal, r.end.Sub(r.due)/2)))
}

// wantsRenewal says whether a machine's certificate is to be renewed now: it is
// due, or an earlier try was not seen through.
func (m *Manager) wantsRenewal(inst Instance, now time.Time) bool {
	r, ok := m.renewalOf(inst)
	return ok && (!now.Before(r.due) || len(inst.NextIdentity.Cert) > 0)
}

// renewCertificate gives a running machine its next certificates and returns its
// row with them. They are in the store before the machine has them, so that
// whatever dies in between, one of the two the store has is the machine's: the
// old one is good until it ends, and after that the other one is tried too.
func (m *Manager) renewCertificate(ctx context.Context, inst Instance) (Instance, error) {
	now := m.stamp()
	if len(inst.NextIdentity.Cert) == 0 {
		next, err := RenewIdentity(inst.Identity, now, m.validity(inst.Kind, inst.Pool))
		if err != nil {
			return inst, err
		}
		row, err := m.store.Renewing(ctx, Renewal{ID: inst.ID, From: inst.Identity.Cert, Next: next, Now: now})
		if err != nil {
			return inst, err
		}
		if inst = row; len(inst.NextIdentity.Cert) == 0 {
			return inst, nil // somebody else has renewed it meanwhile
		}
	}
	next := inst.NextIdentity
	err := m.agent.Renew(ctx, inst.Target(), next)
	if r, ok := m.renewalOf(inst); err != nil && ok && r.ended(now) && ctx.Err() == nil {
		t := inst.Target()
		t.Identity = next
		if again := m.agent.Renew(ctx, t, next); again == nil {
			err = nil
		} else {
			err = errors.Join(err, again)
		}
	}
	if err != nil {
		m.counters.renewed(renewalOutcome(err))
		return inst, err
	}
	message := "the certificate of machine " + inst.Name + " is renewed"
	if leaf, err := leafOf(next); err == nil {
		message += " until " + leaf.NotAfter.UTC().Format(time.DateOnly)
	}
	row, err := m.store.Renewed(ctx, Renewal{ID: inst.ID, Next: next, Now: now, Events: []Event{{
		At: now, Pool: inst.Pool, Instance: inst.ID, Lease: inst.LeaseID, Generation: inst.LeaseGeneration,
		Reason: reasonRenewed, Message: message,
	}}})
	if err != nil {
		return inst, err
	}
	m.counters.renewed("renewed")
	return row, nil
}

// renewalOutcome is how a renewal that failed is counted.
func renewalOutcome(err error) string {
	if cannotRenew(err) {
		return "unsupported"
	}
	return "failed"
}

// cannotRenew says whether an agent knows nothing of renewals.
func cannotRenew(err error) bool {
	refusal, ok := errors.AsType[*AgentError](err)
	return ok && refusal.Status == StatusUnknown
}

func (m *Manager) renewalOf(inst Instance) (renewal, bool) {
	return renewalOf(inst, m.validity(inst.Kind, inst.Pool))
}

// validity is how long certificates made now are good for.
func (m *Manager) validity(kind Kind, pool string) time.Duration {
	if kind != Build {
		return m.t.Certificate
	}
	free := m.t.FreeAge
	if rt := m.pools[pool]; rt != nil {
		free = m.freeAge(rt)
	}
	return free + m.busyAgeOf(pool) + 24*time.Hour
}

// keepCertificate renews the certificate of a machine in use when it is time,
// and fills in what is to be written of that: once, before it is too late, that
// it did not work.
func (m *Manager) keepCertificate(ctx context.Context, inst Instance, p *Postponement) {
	now := p.Now
	r, ok := m.renewalOf(inst)
	if !ok {
		return
	}
	p.Due = now.Add(r.next(now))
	if !m.wantsRenewal(inst, now) {
		return
	}
	call, cancel := context.WithTimeout(ctx, m.t.Setup)
	defer cancel()
	fresh, err := m.renewCertificate(call, inst)
	if err == nil {
		if r, ok := m.renewalOf(fresh); ok {
			p.Due = now.Add(r.next(now))
		}
		if p.Reason == reasonNotRenewed {
			p.Reason, p.Detail = "", ""
		}
		return
	}
	if ctx.Err() != nil {
		return
	}
	m.log.Debug("certificate not renewed", "instance", inst.Name, "until", r.end, "err", err)
	if p.Reason == reasonNotRenewed || !cannotRenew(err) && !r.late(now) {
		return
	}
	p.Reason, p.Detail = reasonNotRenewed, notRenewed(fresh, r, err)
	m.log.Warn("certificate not renewed", "instance", inst.Name, "pool", inst.Pool, "lease", inst.LeaseID, "until", r.end, "err", err)
	p.Events = append(p.Events, Event{
		At: now, Pool: inst.Pool, Instance: inst.ID, Lease: inst.LeaseID, Generation: inst.LeaseGeneration,
		Reason: reasonNotRenewed, Message: p.Detail,
	})
}

// notRenewed says what is wrong and what to do.
func notRenewed(inst Instance, r renewal, err error) string {
	why := err.Error()
	if cannotRenew(err) {
		why = "its agent" + cmp.Or(" "+inst.AgentVersion, "") + " cannot take new ones"
	}
	return fmt.Sprintf("the certificates of machine %s end on %s and are not renewed: %s; from then on it cannot be reached. Reset the gitspace before (its disks are kept), or have the machine's agent replaced",
		inst.Name, r.end.UTC().Format(time.DateOnly), why)
}

// endedAdvice is what the owner of a machine can do whose certificate has ended.
const endedAdvice = "reset the gitspace: its disks are kept"

// reissue renews the certificate of a machine that has been woken, if it has
// ended: nothing else can be asked of it before. It is tried until ctx ends,
// since the machine may still be booting.
func (m *Manager) reissue(ctx context.Context, inst Instance, alive func() error) (Instance, error) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		if r, ok := m.renewalOf(inst); !ok || !r.ended(m.stamp()) {
			return inst, nil
		}
		// What was to come next may have ended too: then one more is made.
		next, err := m.renewCertificate(ctx, inst)
		if err == nil && !bytes.Equal(next.Identity.Cert, inst.Identity.Cert) {
			inst = next
			continue
		}
		inst = next
		if err == nil {
			err = errors.New("somebody else is renewing it")
		}
		if cannotRenew(err) {
			return inst, err
		}
		if dead := alive(); dead != nil {
			return inst, dead
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return inst, err
		case <-t.C:
		}
	}
}

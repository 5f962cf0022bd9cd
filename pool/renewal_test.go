package pool_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

const (
	day = 24 * time.Hour
	// A gitspace's certificate is good for 1080 days.
	dueDay, endedDay, longEndedDay = 900, 1200, 2100
)

// certified is an engine whose agents look at certificates as real ones do, by
// a clock that tests move between two runs.
type certified struct {
	*engine
	off atomic.Int64
	// wrong, if set, decides what becomes of a renewal that may be made.
	wrong func(ctx context.Context, t pool.Target) error

	mu   sync.Mutex
	made map[string][]byte // the leafs machines were made with
	log  []string          // the calls of agents
}

// goWrong decides what becomes of renewals from now on; nil: they are made.
func (c *certified) goWrong(wrong func(ctx context.Context, t pool.Target) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = wrong
}

func (c *certified) clock() time.Time { return time.Now().Add(time.Duration(c.off.Load())) }

// day moves the clock to so many days after the test's beginning, as a new run
// finds it.
func (c *certified) day(n int) {
	c.t.Helper()
	c.halt()
	c.off.Store(int64(time.Duration(n) * day))
	c.start()
}

func inCertified(t *testing.T, f func(t *testing.T, c *certified)) {
	t.Helper()
	inSpaces(t, func(t *testing.T, e *engine) {
		c := &certified{engine: e, made: map[string][]byte{}}
		e.now = c.clock
		e.hook = c.look
		f(t, c)
	})
}

// look is what TLS does on both sides before a call.
func (c *certified) look(ctx context.Context, op string, t pool.Target, _ string) error {
	c.mu.Lock()
	if c.made[t.Instance] == nil {
		c.made[t.Instance] = t.Identity.Cert
	}
	own, wrong := c.made[t.Instance], c.wrong
	c.log = append(c.log, op)
	c.mu.Unlock()
	if last := c.mock.Certificate(t.Instance); last != nil {
		own = last
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(t.Identity.CACert)
	for _, cert := range [][]byte{t.Identity.Cert, own} {
		_, err := parse(c.t, cert).Verify(x509.VerifyOptions{Roots: roots, CurrentTime: c.clock(), DNSName: t.Identity.ServerName})
		if err != nil && (op != "renew_certificate" || !bytes.Equal(t.Identity.Cert, own)) {
			return err
		}
	}
	if op == "renew_certificate" && wrong != nil {
		return wrong(ctx, t)
	}
	return nil
}

func parse(t testing.TB, cert []byte) *x509.Certificate {
	block, _ := pem.Decode(cert)
	if block == nil {
		t.Error("no certificate")
		panic("no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Error(err)
		panic(err)
	}
	return leaf
}

func (c *certified) told(inst pool.Instance, reason string) []string {
	c.t.Helper()
	events, err := c.store.Events(c.t.Context(), pool.EventQuery{Instance: inst.ID})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, e := range events {
		if e.Reason == reason {
			out = append(out, e.Message)
		}
	}
	return out
}

func (c *certified) calls(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, o := range c.log {
		if o == op {
			n++
		}
	}
	return n
}

// wantRenewed fails the test unless the machine and its row have one new
// certificate that is good for long.
func (c *certified) wantRenewed(was pool.Instance) pool.Instance {
	c.t.Helper()
	row := c.instance(was.ID)
	switch {
	case bytes.Equal(row.Identity.Cert, was.Identity.Cert):
		c.t.Fatal("the row has the old certificate")
	case len(row.NextIdentity.Cert) > 0:
		c.t.Error("the row has another one to come")
	case !bytes.Equal(row.Identity.Cert, c.mock.Certificate(row.ID)):
		c.t.Error("row and machine differ")
	}
	if left := parse(c.t, row.Identity.Cert).NotAfter.Sub(c.clock()); left < 700*day {
		c.t.Errorf("the new certificate is good for %s", left)
	}
	if _, err := c.mock.Health(c.t.Context(), row.Target()); err != nil {
		c.t.Errorf("the machine does not answer: %v", err)
	}
	return row
}

func TestAGitspacesCertificateIsRenewedBeforeItEnds(t *testing.T) {
	inCertified(t, func(t *testing.T, c *certified) {
		c.start()
		made := c.mustSetup(c.gitspace("g")).Instance
		pass(2 * time.Hour)
		if n := c.calls("renew_certificate"); n != 0 {
			t.Fatalf("%d renewals of a new certificate", n)
		}
		c.day(dueDay)
		pass(3 * time.Hour)
		row := c.wantRenewed(made)
		if n := c.calls("renew_certificate"); n != 1 {
			t.Errorf("%d renewals, want one", n)
		}
		if told := c.told(row, "certificate_renewed"); len(told) != 1 || !strings.Contains(told[0], "until 2005-") {
			t.Errorf("events %q, want one with the new end", told)
		}
		if n := c.m.Counters().Renewals["renewed"]; n != 1 {
			t.Errorf("counted %d", n)
		}
		if again := c.mustSetup(c.gitspace("g")).Instance; !bytes.Equal(again.Identity.Cert, row.Identity.Cert) {
			t.Error("the caller is not told the new certificate")
		}
	})
}

func TestASleepingGitspacesCertificateIsRenewedWhenItWakes(t *testing.T) {
	for name, test := range map[string]struct {
		day  int
		then []string
	}{
		"one that is due":         {dueDay, []string{"healthz", "renew_certificate", "setup"}},
		"one that ended asleep":   {endedDay, []string{"renew_certificate", "healthz", "setup"}},
		"one that ended long ago": {longEndedDay, []string{"renew_certificate", "healthz", "setup"}},
	} {
		t.Run(name, func(t *testing.T) {
			inCertified(t, func(t *testing.T, c *certified) {
				c.start()
				made := c.mustSetup(c.gitspace("g")).Instance
				if err := c.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g"}); err != nil {
					t.Fatal(err)
				}
				c.day(test.day)
				pass(3 * time.Hour)
				if n := c.calls("renew_certificate"); n != 0 {
					t.Fatalf("%d renewals while it slept", n)
				}
				c.mu.Lock()
				c.log = nil
				c.mu.Unlock()
				res := c.mustSetup(c.gitspace("g"))
				row := c.wantRenewed(made)
				if !bytes.Equal(res.Instance.Identity.Cert, row.Identity.Cert) {
					t.Error("the caller is not told the new certificate")
				}
				c.mu.Lock()
				defer c.mu.Unlock()
				// wantRenewed asks for health itself.
				if got := c.log[:len(c.log)-1]; !slices.Equal(got, test.then) {
					t.Errorf("calls %q, want %q", got, test.then)
				}
			})
		})
	}
}

// A runner that dies in the middle of a renewal leaves a machine that can be
// reached, and the next one sees it through.
func TestARenewalSurvivesTheRunnersDeath(t *testing.T) {
	for _, point := range []struct {
		name string
		took bool // by the machine
	}{
		{"before the machine has the new certificate", false},
		{"after the machine has it, before the store knows", true},
	} {
		for when, then := range map[string]int{"soon": dueDay, "when the old one has ended": endedDay, "when both have ended": longEndedDay} {
			t.Run(point.name+", and the next run comes "+when, func(t *testing.T) {
				inCertified(t, func(t *testing.T, c *certified) {
					c.start()
					made := c.mustSetup(c.gitspace("g")).Instance
					c.goWrong(func(context.Context, pool.Target) error {
						if point.took {
							c.mu.Lock()
							defer c.mu.Unlock()
							c.made[made.ID] = c.instance(made.ID).NextIdentity.Cert
						}
						return errors.New("the runner died")
					})
					c.day(dueDay)
					pass(time.Minute)
					c.halt()
					c.goWrong(nil)
					row := c.instance(made.ID)
					if !bytes.Equal(row.Identity.Cert, made.Identity.Cert) || len(row.NextIdentity.Cert) == 0 {
						t.Fatal("the store does not have both certificates")
					}
					if then == dueDay {
						if _, err := c.mock.Health(t.Context(), row.Target()); err != nil {
							t.Errorf("the machine cannot be reached in between: %v", err)
						}
					}
					c.off.Store(int64(time.Duration(then) * day))
					c.start()
					pass(3 * time.Hour)
					c.wantRenewed(made)
				})
			})
		}
	}
}

func TestAnAgentThatCannotRenewIsToldOfOnce(t *testing.T) {
	inCertified(t, func(t *testing.T, c *certified) {
		c.old = true
		c.start()
		made := c.mustSetup(c.gitspace("g")).Instance
		c.day(dueDay)
		pass(6 * time.Hour)
		told := c.told(made, "certificate_not_renewed")
		if len(told) != 1 || !strings.Contains(told[0], "end on 2002-12-16") || !strings.Contains(told[0], "cannot take new ones") || !strings.Contains(told[0], "Reset the gitspace before") {
			t.Errorf("events %q, want one that says when and what to do", told)
		}
		if row := c.instance(made.ID); row.State != pool.Leased || row.Reason != "certificate_not_renewed" {
			t.Errorf("the machine is %s, %q", row.State, row.Reason)
		}
		if c.m.Counters().Renewals["unsupported"] == 0 {
			t.Error("it is not counted")
		}
	})
}

func TestAMachineThatIsNotReachedForItsRenewalIsToldOfWhenItIsLate(t *testing.T) {
	inCertified(t, func(t *testing.T, c *certified) {
		c.start()
		made := c.mustSetup(c.gitspace("g")).Instance
		c.goWrong(func(context.Context, pool.Target) error { return errors.New("no route to it") })
		c.day(dueDay)
		pass(3 * time.Hour)
		if told := c.told(made, "certificate_not_renewed"); len(told) != 0 {
			t.Errorf("told half a year before its end: %q", told)
		}
		c.day(1060)
		pass(3 * time.Hour)
		if told := c.told(made, "certificate_not_renewed"); len(told) != 1 || !strings.Contains(told[0], "no route to it") {
			t.Errorf("events %q, want one with the cause", told)
		}
		c.goWrong(nil)
		pass(2 * time.Hour)
		if row := c.wantRenewed(made); row.Reason != "" {
			t.Errorf("renewed, and its reason is %q", row.Reason)
		}
	})
}

func TestRenewIdentity(t *testing.T) {
	t.Parallel()
	now := time.Now()
	id, err := pool.NewIdentity("i", "h", "runner.example", nil, now.Add(-1000*day), 1080*day)
	if err != nil {
		t.Fatal(err)
	}
	next, err := pool.RenewIdentity(id, now, 1080*day)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(next.Cert, next.Key); err != nil {
		t.Error(err)
	}
	if bytes.Equal(next.Key, id.Key) || !bytes.Equal(next.CAKey, id.CAKey) || next.ServerName != id.ServerName || next.Machine != id.Machine {
		t.Error("want a new key, and the rest as it was")
	}
	// Whichever of the two each side has, it takes the other's.
	for _, ca := range [][]byte{id.CACert, next.CACert} {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		for _, cert := range [][]byte{id.Cert, next.Cert} {
			for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
				if _, err := parse(t, cert).Verify(x509.VerifyOptions{
					Roots: roots, CurrentTime: now, DNSName: "runner.example", KeyUsages: []x509.ExtKeyUsage{usage},
				}); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if leaf := parse(t, next.Cert); leaf.NotAfter.Sub(now) < 1079*day || !leaf.NotBefore.Equal(parse(t, id.Cert).NotBefore) {
		t.Errorf("valid from %s to %s", leaf.NotBefore, leaf.NotAfter)
	}
	if _, err := pool.RenewIdentity(next, now, day); err != nil {
		t.Errorf("a second time: %v", err)
	}
	for name, broken := range map[string]func(*drivers.Identity){
		"the key of its CA is not known":    func(id *drivers.Identity) { id.CAKey = nil },
		"its CA: ":                          func(id *drivers.Identity) { id.CAKey = id.Key },
		"its certificate is not in PEM for": func(id *drivers.Identity) { id.Cert = []byte("x") },
	} {
		bad := id
		broken(&bad)
		if _, err := pool.RenewIdentity(bad, now, day); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want %q", err, name)
		}
	}
}

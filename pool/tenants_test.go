package pool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// twoAccounts is a pool whose tenant acme has machines in an account of its own.
func twoAccounts(acme bool) poolSpec {
	return poolSpec{name: "p", min: 1, max: 6, tune: func(c *pool.PoolConfig) {
		if acme {
			c.Tenants = []pool.TenantConfig{{
				ID: "acme", Accounts: []string{"acct-1"}, Min: 1, Max: -1,
				Spec: &noop.Config{Capacity: otherAccount}, SpecJSON: fmt.Appendf(nil, `{"capacity":%d}`, otherAccount),
			}}
		}
	}}
}

func (e *engine) acme(id string) pool.SetupRequest {
	r := e.request(id)
	r.Want.Account = "acct-1"
	return r
}

func TestTenantsMachinesLiveAndAreSweptInItsOwnAccount(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{twoAccounts(true)}
		e.start()
		pass(time.Minute)
		if ours, theirs := len(e.world.Machines()), len(e.other.Machines()); ours != 1 || theirs != 1 {
			t.Fatalf("%d machines in the pool's account and %d in the tenant's, want one each", ours, theirs)
		}
		res, err := e.m.Setup(t.Context(), e.acme("a"))
		if err != nil || !e.other.Has(res.Instance.ID) {
			t.Fatalf("its request was given %s, %v", res.Instance.Name, err)
		}
		pass(time.Minute)
		// Its warm machine dies there, and that is seen there.
		for _, mach := range e.other.Machines() {
			if mach.Name != res.Instance.Name {
				e.other.Vanish(mach.Name)
			}
		}
		pass(time.Minute)
		e.wantReason("machine_died")
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 2, pool.Leased: 1})
		e.destroy("a")
		pass(time.Minute)
		if ours, theirs := len(e.world.Machines()), len(e.other.Machines()); ours != 1 || theirs != 1 {
			t.Errorf("%d machines in the pool's account and %d in the tenant's at rest", ours, theirs)
		}
	})
}

func TestTenantThatLeavesTheFileKeepsItsWorkAndLosesItsFreeMachines(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{twoAccounts(true)}
		e.start()
		pass(time.Minute)
		if _, err := e.m.Setup(t.Context(), e.acme("a")); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		e.halt()
		e.pools = []poolSpec{twoAccounts(false)}
		e.start()
		pass(10 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 1, pool.Leased: 1})
		if n := len(e.other.Machines()); n != 1 {
			t.Fatalf("%d machines in the account of the tenant that left, want the one in use", n)
		}
		// A restart later the account is still known: from the store.
		e.restart()
		pass(10 * time.Minute)
		if n := len(e.other.Machines()); n != 1 {
			t.Fatalf("after a restart %d machines in the tenant's account", n)
		}
		e.destroy("a")
		pass(time.Minute)
		if left := e.other.Machines(); len(left) > 0 {
			t.Errorf("left in the tenant's account: %v", left)
		}
		// Its account is the default tenant's now.
		if res, err := e.m.Setup(t.Context(), e.acme("b")); err != nil || res.Instance.Tenant != "default" {
			t.Errorf("given %s of tenant %s, %v", res.Instance.Name, res.Instance.Tenant, err)
		}
	})
}

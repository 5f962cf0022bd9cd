//go:build e2e && linux

package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// TestE2EOrdersAtAnyReplica gives orders to both of two real runners on one
// real Postgres; one of them does not hold the pool.
func TestE2EOrdersAtAnyReplica(t *testing.T) {
	f := newFleet(t, strings.ReplaceAll(replicasPool, "boot_delay: 200ms}}", `boot_delay: 200ms}}
  - {name: slow, type: noop, pool: 0, limit: 4, spec: {process: true, create_delay: 1h}}`))
	f.admit(f.start("a"))
	f.admit(f.start("b"))
	// The first that starts has the ordinary name.
	at := map[string]terminal{
		"a": {t, filepath.Join(f.dir, adminSocket(1))},
		"b": {t, filepath.Join(f.dir, adminSocket(2))},
	}
	holders := map[string]bool{}
	for name, o := range at {
		t.Run(name, func(t *testing.T) {
			o.t = t
			o.warm("p", 3)
			holding := f.replica(name).took(o.pool("p").Generation)
			holders[name] = holding
			r := f.replica(name).realRunner

			used := setup(t, r, "held-"+name)
			asked[api.Instance](o, "instance", "hold", used)
			asked[api.Lease](o, "lease", "end", "held-"+name)
			until(t, patience, "the held machine to wait for its end", func() bool { return o.machine(used).Reason == "held_by_operator" })
			asked[api.Instance](o, "instance", "unhold", used)
			o.gone(used)

			used = setup(t, r, "used-"+name)
			o.refused("--force", "instance", "destroy", used)
			asked[api.Instance](o, "instance", "destroy", "--force", used)
			o.gone(used)
			if slices.Contains(realMachines(t, f.dir), used) {
				t.Error("the machine is left")
			}

			asked[[]api.Ordered](o, "pool", "scale", "--min", "1", "p")
			o.warm("p", 1)
			asked[[]api.Ordered](o, "pool", "start", "p")
			o.warm("p", 3)
			if done := asked[[]api.Ordered](o, "drain", "p"); done[0].Count != 3 {
				t.Errorf("drained: %+v", done)
			}
			o.warm("p", 3)
			asked[[]api.Ordered](o, "pool", "stop", "p")
			until(t, patience, "the stopped pool to be empty", func() bool { return o.pool("p").Counted == 0 })
			asked[[]api.Ordered](o, "pool", "start", "p")
			o.warm("p", 3)
			until(t, patience, "a look at the cloud", func() bool {
				scopes := asked[api.Orphans](o, "orphans").Scopes
				return len(scopes) > 0 && scopes[0].Listed != nil && scopes[0].Problem == ""
			})

			// A creation that hangs is the holder's.
			asked[[]api.Ordered](o, "pool", "scale", "--min", "1", "slow")
			var hung string
			until(t, patience, "a creation that hangs", func() bool {
				for _, i := range asked[[]api.Instance](o, "instance", "ls", "--in-pool", "slow") {
					if i.State == "creating" {
						hung = i.Name
					}
				}
				return hung != ""
			})
			asked[[]api.Ordered](o, "pool", "start", "slow")
			begun := time.Now()
			asked[api.Instance](o, "instance", "destroy", hung)
			o.gone(hung)
			if took := time.Since(begun); took > 15*time.Second {
				t.Errorf("the call that hung was broken off after %s", took)
			} else {
				t.Logf("holds the pool: %t; the call that hung was broken off after %s", holding, took)
			}
		})
	}
	if holders["a"] == holders["b"] {
		t.Errorf("who holds the pool: %v; want one of them", holders)
	}
}

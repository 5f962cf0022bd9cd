package pool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func TestHibernatedMachinesServeTheRequestsOfBothReplicasAndOutliveTheHolder(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.pools = []poolSpec{{name: "p", min: 4, max: 12, cfg: noop.Config{BootDelay: 3 * time.Second}, tune: func(c *pool.PoolConfig) {
			c.Hibernate, c.Running = true, 1
		}}}
		both := map[string]*replica{"a": f.start("a"), "b": f.start("b")}
		atRest := func() bool { return f.count(pool.Warm) == 1 && f.count(pool.Hibernated) == 3 }
		f.until(2*time.Minute, "pool at rest", atRest)
		made := f.world.Made()
		pass(time.Hour)
		if n := f.world.Made() - made; n > 0 || !atRest() {
			t.Fatalf("an idle hour of two replicas made %d machines", n)
		}
		given := map[string]string{}
		take := func(r *replica, id string) {
			t.Helper()
			res := r.setup(id)
			if other := given[res.Instance.ID]; other != "" {
				t.Errorf("%s was given to %s and %s", res.Instance.Name, other, id)
			}
			given[res.Instance.ID] = id
			if res.Instance.Cold {
				t.Errorf("%s got a machine of its own although some slept", id)
			}
		}
		take(both["a"], "s0")
		take(both["b"], "s1") // from disk, through the other replica
		take(both["a"], "s2")
		f.until(2*time.Minute, "pool at rest", atRest)
		// The holder dies while a machine wakes for a request of the other one.
		first := f.holder("p")
		other := both["b"]
		if first == "b" {
			other = both["a"]
		}
		take(other, "s3")
		answered := make(chan error, 1)
		go func() {
			_, err := other.m.Setup(t.Context(), build("s4"))
			answered <- err
		}()
		f.until(10*time.Second, "machine that wakes", func() bool { return f.count(pool.Resuming) > 0 })
		both[first].kill()
		if err := <-answered; err != nil {
			t.Errorf("the request whose machine was waking as the holder died: %v", err)
		}
		f.until(3*time.Minute, "pool at rest", atRest)
		for i := range 5 {
			other.destroy(fmt.Sprint("s", i))
		}
		f.until(3*time.Minute, "pool at rest", func() bool { return atRest() && len(f.world.Machines()) == 4 })
	})
}

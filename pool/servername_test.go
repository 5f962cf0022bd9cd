package pool_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// A runner that is called otherwise, be it after a restart or another replica,
// reaches each machine under the name its certificate was made for.
func TestEachMachineIsReachedUnderTheNameItWasMadeWith(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		var mu sync.Mutex
		called := map[string]map[string]bool{} // names by instance
		e.hook = func(_ context.Context, _ string, tg pool.Target, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			if called[tg.Instance] == nil {
				called[tg.Instance] = map[string]bool{}
			}
			called[tg.Instance][tg.Identity.ServerName] = true
			return nil
		}
		e.serverName = "runner-one"
		e.start()
		old := e.setup("a").Instance
		pass(time.Minute)
		e.serverName = "runner-two"
		e.restart()
		if again := e.setup("a").Instance; again.ID != old.ID {
			t.Fatalf("after the restart it has %s, had %s", again.Name, old.Name)
		}
		if _, err := e.m.Step(t.Context(), step("a", "s1")); err != nil {
			t.Fatal(err)
		}
		warm := e.setup("b").Instance // made before the restart
		pass(time.Minute)
		e.setup("c")
		fresh := e.setup("d").Instance
		mu.Lock()
		defer mu.Unlock()
		for _, want := range []struct {
			inst pool.Instance
			name string
		}{{old, "runner-one"}, {warm, "runner-one"}, {fresh, "runner-two"}} {
			if got := called[want.inst.ID]; len(got) != 1 || !got[want.name] {
				t.Errorf("%s was called under %v, want %s alone", want.inst.Name, got, want.name)
			}
		}
	})
}

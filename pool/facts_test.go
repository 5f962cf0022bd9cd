package pool_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMachinesCarryWhatPeopleFindThemBy(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.environment = "prod1"
		e.pools[0].min = 1
		e.start()
		spec, _ := e.world.Spec(e.machines()[0])
		if diff := cmp.Diff(map[string]string{"harness-runner-name": "runner", "harness_env": "prod1"}, spec.Facts); diff != "" {
			t.Errorf("of a machine made to be warm (-want +got):\n%s", diff)
		}
		r := e.gitspace("g")
		r.Want.Account, r.Want.ResourceClass, r.Want.Labels = "acct-1", "large", map[string]string{"team": "a", "harness_env": "theirs"}
		spec, _ = e.world.Spec(e.mustSetup(r).Instance.Name)
		want := map[string]string{
			"harness-runner-name": "runner", "harness_env": "prod1", "harness-account-id": "acct-1", "harness-resource-class": "large", "team": "a",
		}
		if diff := cmp.Diff(want, spec.Facts); diff != "" {
			t.Errorf("of a gitspace's (-want +got):\n%s", diff)
		}
	})
}

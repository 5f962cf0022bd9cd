package agent

import (
	"context"
	"os/exec"
	"runtime"
	"time"
)

// clockTime bounds the correction of the clock, which no setup waits for.
const clockTime = 2 * time.Second

// stepClock asks the system's time service to correct the clock at once: that
// of a machine that slept is late by as long as it slept, and certificates and
// caches go by it. A system without chrony corrects its own clock when it likes.
func (a *Agent) stepClock(ctx context.Context) {
	if !a.opts.StepClock || runtime.GOOS != "linux" {
		return
	}
	chronyc, err := findProgram("chronyc", a.opts.Env)
	if err != nil {
		return
	}
	a.steps.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clockTime)
		defer cancel()
		if out, err := exec.CommandContext(ctx, chronyc, "makestep").CombinedOutput(); err != nil {
			a.opts.Log.WarnContext(ctx, "the clock is not corrected now; it may be late after a sleep", "err", err, "chronyc", string(out))
		}
	})
}

package agent

import (
	"errors"
	"fmt"
	"time"
)

const (
	// destroyGrace is how long processes may take to end when their stage is
	// destroyed. A runner allows the whole call five seconds.
	destroyGrace = time.Second
	// stepPatience bounds the wait for steps whose processes have been ended, or
	// whose container is. Nothing but an overloaded host, or a daemon that has to
	// be asked, takes more than a moment.
	stepPatience = 15 * time.Second
	// softPatience is stepPatience where a container is stopped softly.
	softPatience = 70 * time.Second
)

// ending ends the processes of all steps of a stage together. To find them, all
// processes of the machine are looked at; a look for each of many steps would
// leave the machine no time for anything else.
type ending struct {
	done chan struct{} // closed when they are gone, or err says how many are not
	err  error
}

func newEnding() *ending { return &ending{done: make(chan struct{})} }

// end ends what the targets have started. It is called once.
func (e *ending) end(targets []target) {
	e.err = terminate(targets, killPolicy{terms: 1, interval: destroyGrace})
	close(e.done)
}

// endSteps ends the steps, for the reason given, and waits for them. Processes
// are ended together, also those that finished steps have left behind; a
// container is ended by its step, and so is a process that was just started.
func (a *Agent) endSteps(steps []*step, why error) error {
	e := newEnding()
	var targets []target
	for _, st := range steps {
		if t, ok := st.handOver(e); ok {
			targets = append(targets, t)
		}
		st.cancel(why)
	}
	e.end(targets)
	err := errors.Join(e.err, a.awaitSteps(steps, why))
	if err == nil {
		for _, st := range steps {
			a.state.forget(st.number)
		}
	}
	return err
}

func (a *Agent) awaitSteps(steps []*step, why error) error {
	patience := stepPatience
	for _, st := range steps {
		if st.stopsSoftly(why) {
			patience = softPatience
		}
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for _, st := range steps {
		select {
		case <-st.done:
		case <-timeout.C:
			return fmt.Errorf("step %s does not end", st.req.ID)
		}
	}
	return nil
}

// handOver leaves the end of the step's process to e, if there is one: its
// session, and what has left that.
func (s *step) handOver(e *ending) (target, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return target{}, false
	}
	s.ending = e
	return *s.proc, true
}

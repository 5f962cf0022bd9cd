package pool

import "time"

// footing is the row, as far as it matters, on which the work on an instance
// rests.
type footing struct {
	state InstanceState
	due   time.Time
}

// stands notes on which row the work on an instance rests now.
func (w *worker) stands(inst Instance) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.busy[inst.ID]; t != nil {
		t.on = footing{state: inst.State, due: inst.Due}
	}
}

// overrule breaks off the work on a due row if an operator has ordered
// something else of another replica, which cannot break it off itself: a call
// to the cloud that hangs here would keep the order waiting until its time-out.
// idle says that nobody works on the instance.
func (w *worker) overrule(row Instance) (idle bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.busy[row.ID]
	if t == nil {
		return true
	}
	if overruled(t.on, row) {
		t.again = true
		t.cancel(errOrdered)
	}
	return false
}

// overruled says whether a row that is worked on is an order to stop that: it
// is to be destroyed by an operator's word, or, while it is being destroyed,
// was made due anew. A caller's destroy waits for the call that is under way.
func overruled(on footing, row Instance) bool {
	switch {
	case on.state == "" || row.State != Destroying:
		return false // not begun, or nothing that is in a hurry
	case on.state != Destroying:
		return row.Reason == string(ReasonOperator)
	default:
		return !row.Due.Equal(on.due)
	}
}

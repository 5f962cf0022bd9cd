package pool

import (
	"fmt"
	"time"
)

// String says in one line what is ordered, by whom and why.
func (o Override) String() string {
	msg := "as configured"
	switch {
	case o.Stopped:
		msg = "stopped"
	case o.Min != nil:
		msg = fmt.Sprintf("%d machines kept warm", *o.Min)
	}
	if o.By != "" {
		msg += " by " + o.By
	} else if msg != "as configured" {
		msg += " by an operator"
	}
	if !o.Since.IsZero() {
		msg += " since " + o.Since.UTC().Format(time.RFC3339)
	}
	if o.Why != "" {
		msg += ": " + o.Why
	}
	return msg
}

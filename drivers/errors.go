package drivers

import (
	"errors"
	"log/slog"
	"time"
)

// Logger is the log drivers are given.
type Logger = *slog.Logger

// The kinds of failure a caller reacts to. Drivers wrap them beside the
// cloud's own error: fmt.Errorf("%w: %w", drivers.ErrCapacity, err).
var (
	// ErrCapacity: the cloud has no room for this machine here; another zone,
	// size or pool may have. See CapacityError for where.
	ErrCapacity = errors.New("no capacity")
	// ErrQuota: the account may not have more; no other zone helps.
	ErrQuota = errors.New("quota exceeded")
	// ErrAuth: credentials are missing, expired or not allowed to do this.
	ErrAuth = errors.New("not authorised")
	// ErrInvalid: the request can never succeed as it is.
	ErrInvalid = errors.New("invalid request")
	// ErrRateLimited: too many calls; see RateLimitError for when to return.
	ErrRateLimited = errors.New("rate limited")
	// ErrNotFound: the machine, image or disk does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnsupported: the driver cannot do this at all.
	ErrUnsupported = errors.New("not supported")
)

// CapacityError is an ErrCapacity with what the cloud said of where.
type CapacityError struct {
	// Zone is where there is no room, Hints other zones the cloud suggested.
	Zone  string
	Hints []string
	Err   error
}

// Error gives the cloud's own words.
func (e *CapacityError) Error() string {
	msg := "no capacity"
	if e.Zone != "" {
		msg += " in " + e.Zone
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

// Unwrap makes errors.Is(err, ErrCapacity) true and keeps the cause.
func (e *CapacityError) Unwrap() []error { return joined(ErrCapacity, e.Err) }

// RateLimitError is an ErrRateLimited with the time to wait.
type RateLimitError struct {
	// After is how long to wait, zero if the cloud did not say.
	After time.Duration
	Err   error
}

// Error gives the cloud's own words.
func (e *RateLimitError) Error() string {
	if e.Err == nil {
		return ErrRateLimited.Error()
	}
	return ErrRateLimited.Error() + ": " + e.Err.Error()
}

// Unwrap makes errors.Is(err, ErrRateLimited) true and keeps the cause.
func (e *RateLimitError) Unwrap() []error { return joined(ErrRateLimited, e.Err) }

func joined(kind, cause error) []error {
	if cause == nil {
		return []error{kind}
	}
	return []error{kind, cause}
}

// Kind names the kind of an error in one lower-case word for logs, metrics and
// reason codes: "capacity", "quota", "auth", "invalid", "rate_limited",
// "not_found", "unsupported", or "transient" for all else. Nil is "".
func Kind(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrCapacity):
		return "capacity"
	case errors.Is(err, ErrQuota):
		return "quota"
	case errors.Is(err, ErrAuth):
		return "auth"
	case errors.Is(err, ErrInvalid):
		return "invalid"
	case errors.Is(err, ErrRateLimited):
		return "rate_limited"
	case errors.Is(err, ErrNotFound):
		return "not_found"
	case errors.Is(err, ErrUnsupported):
		return "unsupported"
	default:
		return "transient"
	}
}

// LogValue keeps keys out of logs: an identity prints as its machine.
func (id Identity) LogValue() slog.Value {
	return slog.GroupValue(slog.String("machine", id.Machine), slog.String("server_name", id.ServerName))
}

// String keeps keys out of %v and %s.
func (id Identity) String() string { return "identity of " + id.Machine }

// GoString keeps keys out of %#v.
func (id Identity) GoString() string { return id.String() }

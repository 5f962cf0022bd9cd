package containers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// ErrUnreachable is the sentinel of a daemon that is not there.
var ErrUnreachable = errors.New("docker daemon unreachable")

// unreachableError has the text callers know, then what the system said.
type unreachableError struct {
	host  string
	cause error
}

func (e *unreachableError) Error() string {
	text := fmt.Sprintf("Cannot connect to the Docker daemon at %s. Is the docker daemon running?", e.host)
	if strings.Contains(e.cause.Error(), "permission denied") {
		return text + " Permission denied: the agent's user must be in the group docker, or root."
	}
	return text
}

func (e *unreachableError) Is(target error) bool { return target == ErrUnreachable }
func (e *unreachableError) Unwrap() error        { return e.cause }

// said gives an error of the daemon its meaning: the cause of a call that ran
// out of time, callers' text for a daemon that is not there, the remedy where
// there is one.
func (e *Engine) said(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, answered := errors.AsType[*apiError](err); ctx.Err() != nil && !answered {
		return context.Cause(ctx)
	}
	if _, ok := errors.AsType[*connError](err); ok {
		return &unreachableError{host: e.host, cause: err}
	}
	if remedy := remedyFor(err.Error()); remedy != "" {
		return &remedyError{cause: err, remedy: remedy}
	}
	return err
}

// about says what an error is about, but for a daemon that is not there:
// callers know that text as it is.
func about(what string, err error) error {
	if errors.Is(err, ErrUnreachable) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// remedyError is what the daemon said, and what to do.
type remedyError struct {
	cause  error
	remedy string
}

func (e *remedyError) Error() string { return e.cause.Error() + " (" + e.remedy + ")" }
func (e *remedyError) Unwrap() error { return e.cause }

// remedies are for what the daemon gives no code but its words. The first whose
// text is in the error counts.
var remedies = []struct{ text, remedy string }{
	{"no space left on device", "the disk of the daemon is full: see df -h, and free space with docker system prune"},
	{"invalid, it needs to be an absolute path", "the paths of this step are of another system than the daemon's: on Windows switch Docker to Windows containers, and set the platform of the stage to the daemon's"},
	{execFormat, archRemedy},
	{"no matching manifest for", archRemedy},
	{"does not match the specified platform", archRemedy},
	{"port is already allocated", portRemedy},
	{"address already in use", portRemedy},
	{"bind source path does not exist", "the folder of a volume is gone: it is made when the stage is set up, and must stay until its end"},
	{"x509: certificate signed by unknown authority", "the registry's certificate is not known to the daemon: put its authority's into /etc/docker/certs.d/<registry>/ca.crt"},
	{"toomanyrequests", "the registry limits pulls without an account: give the step's connector a user name and password, or use a mirror"},
}

const portRemedy = "another container or program has the port: see docker ps, and give each stage of a host ports of its own"

// execFormat is what the system says of a program of another architecture.
const execFormat = "exec format error"

const archRemedy = "the image is not for this machine's architecture: choose an image that is, or a machine of the image's"

func remedyFor(text string) string {
	for _, r := range remedies {
		if strings.Contains(text, r.text) {
			return r.remedy
		}
	}
	return ""
}

// isPoolExhausted says whether the daemon has no addresses left for a network.
func isPoolExhausted(err error) bool {
	text := err.Error()
	return strings.Contains(text, "non-overlapping IPv4 address pool") || strings.Contains(text, "predefined address pools have been fully subnetted") ||
		strings.Contains(text, "could not find free subnet") // Podman's
}

// isNameTaken says whether another container has the name. Podman has no status
// of its own for it.
func isNameTaken(err error) bool {
	return hasStatus(err, http.StatusConflict) || hasStatus(err, http.StatusInternalServerError) && strings.Contains(err.Error(), "name is already in use")
}

// isUnknownDriver says whether the daemon has no such network driver.
func isUnknownDriver(err error) bool {
	text := err.Error()
	return strings.Contains(text, "plugin ") && strings.Contains(text, "not found") || strings.Contains(text, "could not find plugin") ||
		strings.Contains(text, "unsupported driver")
}

// isGone says whether what was asked for is not there, or is being removed.
func isGone(err error) bool {
	return hasStatus(err, http.StatusNotFound) || err != nil && strings.Contains(err.Error(), "is already in progress")
}

// isStopped says whether a container could not be signalled because it does not
// run.
func isStopped(err error) bool {
	return hasStatus(err, http.StatusNotFound, http.StatusConflict) || err != nil && strings.Contains(err.Error(), "is not running")
}

// isFinal says whether trying again would give the same answer, or take as long.
func isFinal(err error) bool {
	var slow *slowError
	return errors.As(err, &slow) ||
		hasStatus(err, http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest, http.StatusConflict) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		strings.Contains(err.Error(), "denied") || strings.Contains(err.Error(), "unauthorized") || strings.Contains(err.Error(), "not found")
}

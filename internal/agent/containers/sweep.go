package containers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// adoption is the run of an agent that is no more.
type adoption struct {
	done  func()
	clean time.Time // since when nothing of it is left, zero if that is not so
}

// Adopt names the run of an agent that is no more. What it has left is removed
// by the next [Engine.Sweep], and before this engine makes anything; done is
// called when nothing of it is left, and nothing can come any more: what the
// daemon was asked for just before the agent was killed, it may make later.
func (e *Engine) Adopt(owner string, done func()) {
	e.adopting <- struct{}{}
	defer func() { <-e.adopting }()
	e.adopted[owner] = &adoption{done: done}
}

// Sweep removes what adopted owners have left, and says how many of them are not
// done with. It fails with what could not be removed, which the next call tries
// again.
func (e *Engine) Sweep(ctx context.Context) (pending int, err error) {
	_, pending, err = e.sweep(ctx)
	return pending, err
}

func (e *Engine) sweep(ctx context.Context) (sum Removed, pending int, err error) {
	select {
	case e.adopting <- struct{}{}:
	case <-ctx.Done():
		return sum, 0, context.Cause(ctx)
	}
	defer func() { <-e.adopting }()
	var errs []error
	for owner, of := range e.adopted {
		if !of.clean.IsZero() && time.Since(of.clean) < e.late {
			continue // looked at, and once more when it is late enough
		}
		n, err := e.RemoveLabelled(ctx, map[string]string{LabelOwner: owner})
		sum.add(n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if n.any() {
			e.conf.Log.InfoContext(ctx, "removed what a killed agent has left", "owner", owner,
				"containers", n.Containers, "networks", n.Networks, "volumes", n.Volumes)
		}
		if of.clean.IsZero() && e.late > 0 {
			of.clean = time.Now()
			continue
		}
		delete(e.adopted, owner)
		of.done()
	}
	return sum, len(e.adopted), errors.Join(errs...)
}

// Removed counts what was removed.
type Removed struct{ Containers, Networks, Volumes int }

func (r *Removed) add(o Removed) {
	r.Containers += o.Containers
	r.Networks += o.Networks
	r.Volumes += o.Volumes
}

func (r Removed) any() bool { return r != Removed{} }

// parallelRemovals is how many containers are removed at once.
const parallelRemovals = 8

// RemoveLabelled removes the containers, networks and volumes that have all the
// labels, of which there must be one at least. Containers that run are killed.
// The error joins what could not be removed; the rest is.
func (e *Engine) RemoveLabelled(ctx context.Context, labels map[string]string) (Removed, error) {
	var n Removed
	if len(labels) == 0 {
		return n, errors.New("no labels: everything would be removed")
	}
	var errs []error
	var err error
	if n.Containers, err = e.removeContainers(ctx, labels, labelFilter(labels)); err != nil {
		errs = append(errs, err)
	}
	if errors.Is(err, ErrUnreachable) {
		return n, err // once is enough
	}
	if n.Networks, err = e.removeNetworks(ctx, labels); err != nil {
		errs = append(errs, err)
	}
	if n.Volumes, err = e.removeVolumes(ctx, labels); err != nil {
		errs = append(errs, err)
	}
	return n, errors.Join(errs...)
}

// RemoveExited removes containers that have ended and have all the labels; with
// none, those this engine's agent has made.
func (e *Engine) RemoveExited(ctx context.Context, labels map[string]string) error {
	if len(labels) == 0 {
		labels = map[string]string{LabelOwner: e.conf.Owner}
	}
	_, err := e.removeContainers(ctx, labels, labelFilter(labels).add("status", "exited"))
	return err
}

// withLabels are those of a list that have all the labels. Podman lists volumes
// that have one of those it is asked for, so that its word is not enough.
func withLabels(list []listed, labels map[string]string) []listed {
	return slices.DeleteFunc(list, func(o listed) bool {
		for k, v := range labels {
			if have, ok := o.Labels[k]; !ok || have != v {
				return true
			}
		}
		return false
	})
}

func labelFilter(labels map[string]string) filters {
	f := make(filters)
	for k, v := range labels {
		f.add("label", k+"="+v)
	}
	return f
}

func (e *Engine) removeContainers(ctx context.Context, labels map[string]string, filter filters) (int, error) {
	list, err := ask(ctx, e, "list containers", askTime, func(ctx context.Context) ([]listed, error) {
		return e.api.listContainers(ctx, filter)
	})
	if err != nil {
		return 0, fmt.Errorf("list containers: %w", err)
	}
	list = withLabels(list, labels)
	errs := make([]error, len(list))
	slots := make(chan struct{}, parallelRemovals)
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = e.removeContainer(ctx, c.ID)
		})
	}
	wg.Wait()
	return removed(errs)
}

// removeContainer kills a container if it runs and removes it with its
// anonymous volumes.
func (e *Engine) removeContainer(ctx context.Context, id string) error {
	err := e.tell(ctx, "remove container", removeTime, func(ctx context.Context) error { return e.api.removeContainer(ctx, id) })
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove container %s: %w", short(id), err)
	}
	return nil
}

func (e *Engine) removeNetworks(ctx context.Context, labels map[string]string) (int, error) {
	list, err := ask(ctx, e, "list networks", askTime, func(ctx context.Context) ([]listed, error) {
		return e.api.listNetworks(ctx, labelFilter(labels))
	})
	if err != nil {
		return 0, fmt.Errorf("list networks: %w", err)
	}
	list = withLabels(list, labels)
	errs := make([]error, len(list))
	for i, n := range list {
		err := e.tell(ctx, "remove network", removeTime, func(ctx context.Context) error { return e.api.removeNetwork(ctx, n.ID) })
		if err != nil && !isGone(err) {
			errs[i] = fmt.Errorf("remove network %s: %w", n.Name, err)
		}
	}
	return removed(errs)
}

func (e *Engine) removeVolumes(ctx context.Context, labels map[string]string) (int, error) {
	list, err := ask(ctx, e, "list volumes", askTime, func(ctx context.Context) ([]listed, error) {
		return e.api.listVolumes(ctx, labelFilter(labels))
	})
	if err != nil {
		return 0, fmt.Errorf("list volumes: %w", err)
	}
	list = withLabels(list, labels)
	errs := make([]error, len(list))
	for i, v := range list {
		errs[i] = e.removeVolume(ctx, v.Name)
	}
	return removed(errs)
}

func (e *Engine) removeVolume(ctx context.Context, name string) error {
	err := e.tell(ctx, "remove volume", removeTime, func(ctx context.Context) error { return e.api.removeVolume(ctx, name) })
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}

// removed counts what had no error.
func removed(errs []error) (int, error) {
	n := 0
	for _, err := range errs {
		if err == nil {
			n++
		}
	}
	return n, errors.Join(errs...)
}

// tell has the daemon do one thing, within its time.
func (e *Engine) tell(ctx context.Context, what string, d time.Duration, do func(context.Context) error) error {
	ctx, cancel := bound(ctx, what, d)
	defer cancel()
	return e.said(ctx, do(ctx))
}

// ask asks the daemon one thing, within its time.
func ask[T any](ctx context.Context, e *Engine, what string, d time.Duration, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := bound(ctx, what, d)
	defer cancel()
	out, err := do(ctx)
	return out, e.said(ctx, err)
}

// short is an id as people see it.
func short(id string) string { return id[:min(len(id), 12)] }

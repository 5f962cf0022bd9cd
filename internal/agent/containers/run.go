package containers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	networktypes "github.com/moby/moby/api/types/network"
)

// Start makes a step's container and starts it, after pulling its image if it
// must. A daemon that does not answer is waited for, but not for ever. The
// container needs the stage's network unless the step names another. What was made
// is removed again if it fails, also when ctx ends. A container that is returned
// must be waited for, by [Container.Wait], or given up.
func (s *Stage) Start(ctx context.Context, st *Step) (*Container, error) {
	if err := s.engine.awaitDaemon(ctx, st.Out, s.engine.conf.Patience); err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	stageNetwork := ""
	if needsStageNetwork(st) {
		var err error
		if stageNetwork, err = s.ensureNetwork(ctx, st.Setup.Network); err != nil {
			return nil, err
		}
	}
	pulled := false
	if pullsFirst(st.Request) {
		if err := s.engine.pull(ctx, st); err != nil {
			return nil, err
		}
		pulled = true
	}
	id, err := s.create(ctx, st, s.networkOf(st, stageNetwork), pulled)
	if err != nil {
		return nil, err
	}
	c := &Container{engine: s.engine, id: id, step: st, out: &beginning{to: st.Out}, ended: make(chan struct{}), streamed: make(chan struct{})}
	if err := s.connect(ctx, c, stageNetwork); err != nil {
		return nil, errors.Join(err, c.remove(ctx))
	}
	c.attach(ctx)
	err = c.start(ctx)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.GiveUp(ctx))
	}
	return c, nil
}

// create makes the container. An image that is missing is pulled, a name that a
// stage of ours has left taken is freed, each once.
func (s *Stage) create(ctx context.Context, st *Step, net usedNetwork, pulled bool) (string, error) {
	opts, notes, err := s.createOptions(st, net)
	if err != nil {
		return "", err
	}
	for _, n := range notes {
		st.Out.Note(n)
	}
	freed := false
	for {
		got, err := s.createOnce(ctx, opts)
		switch {
		case err == nil:
			for _, w := range got.Warnings {
				st.Out.Note("the Docker daemon warns: " + w)
			}
			return got.ID, nil
		case isNoImage(err) && !pulled && st.Request.Pull == pullNever:
			return "", &remedyError{cause: err, remedy: "the step's pull policy is Never: put the image on the machine, or choose another policy"}
		case isNoImage(err) && !pulled:
			if err := s.engine.pull(ctx, st); err != nil {
				return "", err
			}
			pulled = true
		case isNameTaken(err) && !freed:
			if err := s.freeName(ctx, opts.name, err); err != nil {
				return "", err
			}
			freed = true
		default:
			return "", err
		}
	}
}

func isNoImage(err error) bool {
	return hasStatus(err, http.StatusNotFound) && strings.Contains(strings.ToLower(err.Error()), "image")
}

// createOnce is one try. The call goes on when its caller has gone, because a
// container that is made after all would have to be found again.
func (s *Stage) createOnce(ctx context.Context, opts createOptions) (made, error) {
	if ctx.Err() != nil {
		return made{}, context.Cause(ctx)
	}
	making, cancel := lasting(ctx, "make container", makeTime)
	defer cancel()
	got, err := s.engine.api.createContainer(making, opts)
	if err != nil {
		return got, s.engine.said(making, err)
	}
	if ctx.Err() != nil {
		return got, errors.Join(context.Cause(ctx), s.engine.removeContainer(making, got.ID))
	}
	return got, nil
}

// freeName removes the container that has the name if it is one of an ended
// stage of ours. Any other is an error that says whose it is.
func (s *Stage) freeName(ctx context.Context, name string, conflict error) error {
	e := s.engine
	if _, err := e.Sweep(ctx); err != nil {
		e.conf.Log.WarnContext(ctx, "what a killed agent has left cannot be removed yet", "err", err)
	}
	holder, err := ask(ctx, e, "look at container "+name, askTime, func(ctx context.Context) (inspected, error) {
		return e.api.inspectContainer(ctx, name)
	})
	if hasStatus(err, http.StatusNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("container name %s is taken: %w", name, err)
	}
	labels := holder.Config.Labels
	if labels[LabelOwner] == e.conf.Owner && labels[LabelStage] != s.id {
		return e.removeContainer(ctx, holder.ID)
	}
	whose := "it is not one of this agent's"
	if labels[LabelOwner] != "" {
		whose = "it is step " + labels[LabelStep] + " of another stage"
	}
	return &remedyError{cause: conflict, remedy: fmt.Sprintf("%s, image %s: give the step another id, or remove it with docker rm -f %s", whose, holder.Config.Image, short(holder.ID))}
}

// connect attaches a new container to the step's further networks.
func (s *Stage) connect(ctx context.Context, c *Container, stageNetwork string) error {
	if c.step.Request.Network != "" {
		return nil
	}
	for _, name := range c.step.Request.Networks {
		if name == stageNetwork || name == c.step.Setup.Network.ID {
			continue
		}
		err := s.engine.tell(ctx, "connect to network "+name, makeTime, func(ctx context.Context) error {
			return s.engine.api.connectNetwork(ctx, name, c.id, &networktypes.EndpointSettings{Aliases: aliases(name)})
		})
		if err != nil {
			return fmt.Errorf("connect to network %s: %w", name, err)
		}
	}
	return nil
}

// Tries of a start, and the time between them.
const (
	startTries = 3
	startPause = 200 * time.Millisecond
)

// start starts a container. The call goes on when its caller has gone: what is
// started after all is removed then.
func (c *Container) start(ctx context.Context) error {
	for try := 1; ; try++ {
		starting, cancel := lasting(ctx, "start container", makeTime)
		err := c.engine.said(starting, c.engine.api.startContainer(starting, c.id))
		cancel()
		if errors.Is(err, ErrUnreachable) {
			c.lost.Store(true)
		}
		if err == nil || isFinal(err) || ctx.Err() != nil || try == startTries {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(startPause):
		}
	}
}

package containers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"

	networktypes "github.com/moby/moby/api/types/network"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// Stage is what one setup has begun: its network, its volumes and the
// containers of its steps. All methods are safe for concurrent use.
type Stage struct {
	engine *Engine
	id     string

	// turn is held while the stage's network and volumes change: a semaphore of
	// one, since the daemon is asked meanwhile.
	turn chan struct{}

	mu      sync.Mutex
	network *network // nil: not made yet
	temps   map[string]string
	touched bool // something may have been made
	lease   string
}

// network is a network of the stage, by the daemon's name.
type network struct {
	of   agentapi.Network
	name string
	own  bool // made for this stage, so removed with it
}

// Stage begins a stage, whose id no other stage of the engine has. Nothing is
// made yet.
func (e *Engine) Stage(id string) *Stage {
	return &Stage{engine: e, id: id, turn: make(chan struct{}, 1), temps: make(map[string]string)}
}

// For says what the stage is for, "" if nobody knows. It is a label of all that
// is made from now on.
func (s *Stage) For(lease string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease = lease
}

// Used says whether anything may have been made for the stage.
func (s *Stage) Used() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.touched
}

// Setup makes the volumes and the network of a setup, and removes those of an
// earlier setup of the stage that this one does not name. A network without an
// id is left to the first container. So is every network where the daemon does
// not answer at once: it may be starting, and steps on the machine need not wait
// for it. Without a daemon only volumes are an error, after a while in which it
// may come.
func (s *Stage) Setup(ctx context.Context, req *agentapi.SetupRequest) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	temps := dockerVolumes(req.Volumes, s.engine.conf.Prefix)
	if len(temps) == 0 && req.Network.ID == "" && !s.Used() {
		return nil // there is nothing to do
	}
	if len(temps) > 0 {
		if err := s.engine.awaitDaemon(ctx, logNotes{s.engine.conf.Log}, min(s.engine.conf.Patience, setupPatience)); err != nil {
			return err
		}
	} else if !s.engine.answers(ctx) {
		s.forget()
		return nil // the first container waits for it, and says so
	}
	s.leaveOut(ctx, temps)
	if err := s.makeVolumes(ctx, temps); err != nil {
		return err
	}
	s.changeNetwork(ctx, req.Network)
	if req.Network.ID == "" {
		return nil
	}
	if _, err := s.needNetwork(ctx, req.Network); err != nil && !isAway(err) {
		return err
	}
	return nil
}

// forget is for the network and the volumes of an earlier setup that cannot be
// removed now. They go with the stage.
func (s *Stage) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network = nil
	clear(s.temps)
}

// enter waits for the stage's turn.
func (s *Stage) enter(ctx context.Context) (leave func(), err error) {
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// begin is called before anything is made.
func (s *Stage) begin(ctx context.Context) error {
	s.mu.Lock()
	first := !s.touched
	s.mu.Unlock()
	if !first {
		return nil
	}
	if err := s.engine.ping(ctx); err != nil {
		return err // and nothing is left to remove
	}
	if err := s.engine.conf.Note(); err != nil {
		return fmt.Errorf("nothing is made for containers, since it could be left behind: %w", err)
	}
	if _, err := s.engine.Sweep(ctx); err != nil {
		if errors.Is(err, ErrUnreachable) {
			return err
		}
		s.engine.conf.Log.WarnContext(ctx, "what a killed agent has left cannot be removed yet", "err", err)
	}
	s.mu.Lock()
	s.touched = true
	s.mu.Unlock()
	return nil
}

// tempVolume is a volume the daemon keeps.
type tempVolume struct {
	name   string // the daemon's
	labels map[string]string
}

// dockerVolumes are the setup's volumes the daemon keeps, by the daemon's names.
func dockerVolumes(volumes []agentapi.Volume, prefix string) map[string]tempVolume {
	out := make(map[string]tempVolume)
	for _, v := range volumes {
		if t := v.Temp; t != nil && t.Medium != agentapi.MediumMemory {
			name := volumeName(t, prefix)
			out[name] = tempVolume{name: name, labels: t.Labels}
		}
	}
	return out
}

// volumeName is what the daemon calls a volume.
func volumeName(t *agentapi.TempVolume, prefix string) string {
	return objectName(prefix, cmp.Or(t.ID, t.Name))
}

// makeVolumes makes the volumes that are missing. One that is somebody else's is
// used, and stays at the end.
func (s *Stage) makeVolumes(ctx context.Context, temps map[string]tempVolume) error {
	for _, v := range temps {
		if err := s.begin(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		_, have := s.temps[v.name]
		s.mu.Unlock()
		if have {
			continue
		}
		// A volume that is made after all would be nobody's: the call goes on when
		// its caller has gone.
		ctx, cancel := lasting(ctx, "make volume", makeTime)
		labels, err := s.engine.api.createVolume(ctx, v.name, s.labels(v.labels))
		err = s.engine.said(ctx, err)
		cancel()
		if err != nil {
			return about("volume "+v.name, err)
		}
		s.mu.Lock()
		s.temps[v.name] = ""
		if s.owns(labels) {
			s.temps[v.name] = v.name
		}
		s.mu.Unlock()
	}
	return nil
}

// leaveOut removes volumes of an earlier setup that are not wanted any more.
// Those a container still uses go with the stage.
func (s *Stage) leaveOut(ctx context.Context, wanted map[string]tempVolume) {
	s.mu.Lock()
	have := maps.Clone(s.temps)
	s.mu.Unlock()
	for name, own := range have {
		if _, ok := wanted[name]; ok {
			continue
		}
		if own != "" {
			if err := s.engine.removeVolume(ctx, own); err != nil {
				s.engine.conf.Log.InfoContext(ctx, "a volume of an earlier setup stays until the end of the stage", "err", err)
			}
		}
		s.mu.Lock()
		delete(s.temps, name)
		s.mu.Unlock()
	}
}

// changeNetwork forgets the network of an earlier setup if this one asks for
// another, and removes it if nothing uses it.
func (s *Stage) changeNetwork(ctx context.Context, want agentapi.Network) {
	s.mu.Lock()
	was := s.network
	if was != nil && was.of.ID == want.ID {
		was = nil
	} else {
		s.network = nil
	}
	s.mu.Unlock()
	if was == nil || !was.own {
		return
	}
	err := s.engine.tell(ctx, "remove network", removeTime, func(ctx context.Context) error {
		return s.engine.api.removeNetwork(ctx, was.name)
	})
	if err != nil && !isGone(err) {
		s.engine.conf.Log.InfoContext(ctx, "the network of an earlier setup stays until the end of the stage", "err", err)
	}
}

// ensureNetwork makes the stage's network if it is not there yet, and returns its
// name.
func (s *Stage) ensureNetwork(ctx context.Context, of agentapi.Network) (string, error) {
	s.mu.Lock()
	have := s.network
	s.mu.Unlock()
	if have != nil {
		return have.name, nil
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	return s.needNetwork(ctx, of)
}

// needNetwork is ensureNetwork for who has the turn.
func (s *Stage) needNetwork(ctx context.Context, of agentapi.Network) (string, error) {
	s.mu.Lock()
	have := s.network
	s.mu.Unlock()
	if have != nil {
		return have.name, nil
	}
	e := s.engine
	n := &network{of: of, name: objectName(e.conf.Prefix, cmp.Or(of.ID, "runner-"+e.conf.Owner+"-"+s.id))}
	known, err := ask(ctx, e, "look for network", askTime, func(ctx context.Context) (listed, error) {
		return e.api.inspectNetwork(ctx, n.name)
	})
	switch {
	case err == nil && known.Name == n.name:
		n.own = s.owns(known.Labels)
	case err == nil, hasStatus(err, http.StatusNotFound): // the beginning of another's id finds that one
		if err := s.makeNetwork(ctx, n); err != nil {
			return "", err
		}
	default:
		return "", about("network "+n.name, err)
	}
	s.mu.Lock()
	s.network = n
	s.mu.Unlock()
	return n.name, nil
}

// Tries of a network, and what is done between them.
const networkTries = 3

// makeNetwork makes the network. When the daemon has no addresses left, those of
// networks nobody uses any more are freed, and it is tried once more.
func (s *Stage) makeNetwork(ctx context.Context, n *network) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	e := s.engine
	reclaimed := false
	for try := 1; ; try++ {
		err := s.createNetwork(ctx, n)
		switch {
		case err == nil:
			n.own = true
			return nil
		case isPoolExhausted(err):
			if reclaimed {
				return fmt.Errorf("network %s: %w", n.name, err)
			}
			reclaimed = true
			freed, reclaimErr := e.reclaim(ctx)
			if freed == 0 {
				return fmt.Errorf("network %s: %w", n.name, e.exhausted(ctx, err, reclaimErr))
			}
			e.conf.Log.InfoContext(ctx, "freed networks, since the daemon had no addresses left", "networks", freed)
		case isUnknownDriver(err):
			return fmt.Errorf("network %s: %w", n.name, &remedyError{cause: err, remedy: fmt.Sprintf(
				"this daemon has no network driver %q: set NETWORK_DRIVER to one that docker info lists under Plugins, usually bridge, on Windows nat, and start the runner again", e.conf.NetworkDriver)})
		case isFinal(err) || try == networkTries:
			return about("network "+n.name, err)
		}
	}
}

// createNetwork is one try. The call goes on when its caller has gone, because a
// network that is made after all would be nobody's.
func (s *Stage) createNetwork(ctx context.Context, n *network) error {
	ctx, cancel := lasting(ctx, "make network", makeTime)
	defer cancel()
	err := s.engine.api.createNetwork(ctx, networktypes.CreateRequest{
		Name: n.name, Driver: s.engine.conf.NetworkDriver, Options: n.of.Options, Labels: s.labels(n.of.Labels),
	})
	return s.engine.said(ctx, err)
}

func (e *Engine) reclaim(ctx context.Context) (int, error) {
	if e.conf.Reclaim != nil {
		return e.conf.Reclaim(ctx)
	}
	n, _, err := e.sweep(ctx)
	return n.Networks, err
}

// exhausted says how many networks there are, and whose.
func (e *Engine) exhausted(ctx context.Context, cause, reclaimErr error) error {
	count := ""
	list, err := ask(ctx, e, "list networks", askTime, func(ctx context.Context) ([]listed, error) {
		return e.api.listNetworks(ctx, nil)
	})
	if err == nil {
		ours := 0
		for _, n := range list {
			if n.Labels[LabelOwner] != "" {
				ours++
			}
		}
		count = fmt.Sprintf("there are %d networks, %d of them of running stages; ", len(list), ours)
	}
	remedy := count + "remove unused ones with docker network prune, or give the daemon more by default-address-pools in daemon.json"
	if reclaimErr != nil {
		remedy += "; freeing those of ended stages failed: " + reclaimErr.Error()
	}
	return &remedyError{cause: cause, remedy: remedy}
}

// Destroy removes everything made for the stage: containers, which are killed if
// they still run, networks and volumes. It fails with what could not be removed
// and may be called again.
func (s *Stage) Destroy(ctx context.Context) error {
	if !s.Used() {
		return nil
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, err = s.engine.RemoveLabelled(ctx, map[string]string{LabelOwner: s.engine.conf.Owner, LabelStage: s.id})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network, s.touched = nil, false
	clear(s.temps)
	return nil
}

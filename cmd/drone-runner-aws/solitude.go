package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

const (
	// beat is how often a runner records in its store that it lives, and how
	// often it looks for others.
	beat = 10 * time.Second
	// young is how old a sign of life may be for its runner to be taken for a
	// living one: two are missed.
	young = 3 * beat
	// patienceForOthers is a little longer, so that the sign of life of a
	// runner that has just died grows old while its successor waits.
	patienceForOthers = young + 5*time.Second
	// lookAgain is how often the wait looks.
	lookAgain = time.Second
)

// lifetimes is what a solitude asks its store.
type lifetimes interface {
	Lifetimes(ctx context.Context) ([]pool.Lifetime, error)
}

// solitude sees to it that one runner works on a database that several could
// open, since replicas are not built in yet: before the start by the signs of
// life others left, afterwards by those they leave. Between two runners that
// start in the same moment the second look decides, within 10 s; until then the
// store's transactions keep them from giving one machine to two leases.
type solitude struct {
	// incarnation names this run of the program.
	incarnation string
	// mark begins the incarnations of this data directory. Its admin socket
	// belongs to one runner at a time, so all the others with it are dead, and
	// a restart need not wait for its own past.
	mark string
	// store is nil where the store itself lets nobody else in.
	store lifetimes
	log   *slog.Logger
}

// errOthers is why a second runner does not start, or does not go on.
var errOthers = errors.New("several replicas are not built in yet")

func other(l pool.Lifetime) error {
	return fmt.Errorf("another runner (incarnation %s, since %s) works on this database; %w; stop one of them, or give it a database of its own",
		l.Incarnation, l.From.UTC().Format(time.RFC3339), errOthers)
}

// await returns once no other runner has given a sign of life for a while. One
// that still does after patienceForOthers is an error.
func (s *solitude) await(ctx context.Context) error {
	if s.store == nil {
		return nil
	}
	deadline := time.Now().Add(patienceForOthers)
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for waited := false; ; waited = true {
		all, err := s.others(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		var last pool.Lifetime
		for _, l := range all {
			if now.Sub(l.To) < young {
				last = l
			}
		}
		switch {
		case last.Incarnation == "":
			return nil
		case now.After(deadline):
			return other(last)
		case !waited:
			s.log.Warn("another runner worked on this database a moment ago; waiting until it is certainly gone",
				"incarnation", last.Incarnation, "seen", last.To, "at_most", patienceForOthers)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// watch returns an error when another runner is seen to live beside this one,
// and this one came second; nil when ctx ends. Clocks that differ do not matter
// here: a sign of life is one that was not there at the look before.
func (s *solitude) watch(ctx context.Context) error {
	if s.store == nil {
		return nil
	}
	seen := map[string]time.Time{}
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for first := true; ; first = false {
		all, err := s.store.Lifetimes(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.log.Error("cannot look for other runners on this database", "err", err)
		}
		var mine pool.Lifetime
		for _, l := range all {
			if l.Incarnation == s.incarnation {
				mine = l
			}
		}
		for _, l := range all {
			before, known := seen[l.Incarnation]
			seen[l.Incarnation] = l.To
			lives := !first && (!known || l.To.After(before))
			if lives && s.foreign(l) && earlier(l, mine) {
				return other(l)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// earlier puts any two runners into the same order on both sides.
func earlier(a, b pool.Lifetime) bool {
	return cmp.Or(a.From.Compare(b.From), strings.Compare(a.Incarnation, b.Incarnation)) < 0
}

func (s *solitude) foreign(l pool.Lifetime) bool {
	return l.Incarnation != s.incarnation && !strings.HasPrefix(l.Incarnation, s.mark+"-")
}

func (s *solitude) others(ctx context.Context) ([]pool.Lifetime, error) {
	all, err := s.store.Lifetimes(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for other runners on this database: %w", err)
	}
	var others []pool.Lifetime
	for _, l := range all {
		if s.foreign(l) {
			others = append(others, l)
		}
	}
	return others, nil
}

// markFile is in the data directory and says whose it is.
const markFile = "runner.id"

// runnerMark names this data directory on this host: a random id kept there,
// which a copy of the folder shares, with the host and the path, which it does
// not.
func runnerMark(dir string) (string, error) {
	path := filepath.Join(dir, markFile)
	id, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id = []byte(rand.Text() + "\n")
		err = os.WriteFile(path, id, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("the runner's own id: %w; the data directory must be writable", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "" // the id and the path are left
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{string(id), host, dir}, "\x00")))
	return hex.EncodeToString(sum[:6]), nil
}

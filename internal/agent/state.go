package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
)

// state is one run's folder below the state directory: the outputs of its
// steps, and a record of each process it has started, so that the next run can
// end what this one left behind when it was killed.
type state struct {
	dir  string
	boot string
	log  *slog.Logger
}

// The files of a run's folder.
const (
	ownerFile    = "owner.json"
	recordSuffix = ".process.json"
	outputSuffix = ".output"
)

// record is what outlives a killed agent.
type record struct {
	Boot string `json:"boot"`
	target
}

// openState makes this run's folder, and ends and removes what runs that are
// no more have left.
func openState(root string, log *slog.Logger) (*state, error) {
	runs := filepath.Join(root, "runs")
	if err := os.MkdirAll(runs, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	boot := bootID()
	sweepRuns(runs, boot, log)
	dir, err := os.MkdirTemp(runs, "run-")
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	s := &state{dir: dir, boot: boot, log: log}
	self := os.Getpid()
	if err := s.write(ownerFile, record{Boot: boot, target: target{PID: self, Start: startTime(self)}}); err != nil {
		return nil, errors.Join(fmt.Errorf("state directory: %w", err), os.RemoveAll(dir))
	}
	return s, nil
}

// sweepRuns cleans up after runs whose agent does not live any more. What goes
// wrong is logged: an agent must start even beside the remains of another.
func sweepRuns(runs, boot string, log *slog.Logger) {
	entries, err := os.ReadDir(runs)
	if err != nil {
		log.Warn("earlier runs cannot be read", "err", err)
		return
	}
	for _, e := range entries {
		dir := filepath.Join(runs, e.Name())
		var owner record
		if err := readRecord(filepath.Join(dir, ownerFile), &owner); err == nil &&
			owner.Boot == boot && owner.PID != os.Getpid() && owner.Start != 0 && startTime(owner.PID) == owner.Start {
			continue
		}
		if targets := readTargets(dir, boot); len(targets) > 0 {
			log.Info("ending processes an earlier run of the agent has left", "sessions", len(targets))
			if err := terminate(targets, killPolicy{terms: 1, interval: defaultGrace}); err != nil {
				log.Warn("processes of an earlier run cannot be ended", "err", err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			log.Warn("an earlier run cannot be removed", "dir", dir, "err", err)
		}
	}
}

func readTargets(dir, boot string) []target {
	names, err := filepath.Glob(filepath.Join(dir, "*"+recordSuffix))
	if err != nil {
		return nil
	}
	var targets []target
	for _, name := range names {
		var r record
		if readRecord(name, &r) == nil && r.Boot == boot {
			targets = append(targets, r.target)
		}
	}
	return targets
}

func readRecord(path string, into *record) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// write replaces a file whole, so that a kill leaves the old or the new one.
func (s *state) write(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// note records what step number n starts. It is called before the start with
// the marker alone, and after it with the process.
func (s *state) note(n int, t target) {
	if err := s.write(strconv.Itoa(n)+recordSuffix, record{Boot: s.boot, target: t}); err != nil {
		s.log.Warn("process cannot be recorded; it would outlive a killed agent", "err", err)
	}
}

// forget removes the record of a step whose processes are gone.
func (s *state) forget(n int) {
	err := os.Remove(filepath.Join(s.dir, strconv.Itoa(n)+recordSuffix))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Warn("record of a process cannot be removed", "err", err)
	}
}

func (s *state) outputPath(n int) string {
	return filepath.Join(s.dir, strconv.Itoa(n)+outputSuffix)
}

func (s *state) close() {
	if err := os.RemoveAll(s.dir); err != nil {
		s.log.Warn("state of this run cannot be removed", "dir", s.dir, "err", err)
	}
}

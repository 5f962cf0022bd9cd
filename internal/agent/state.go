package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
)

// state is one run's folder below the state directory: the outputs of its
// steps, and a journal of the processes it has started, so that the next run
// can end what this one left behind when it was killed.
type state struct {
	dir     string
	journal *os.File
	log     *slog.Logger
}

// The files of a run's folder.
const (
	ownerFile    = "owner.json"
	journalFile  = "processes.jsonl"
	outputSuffix = ".output"
)

// owner says which process a run's folder belongs to, and in which boot.
type owner struct {
	Boot string `json:"boot"`
	target
}

// entry is a line of the journal. The last one of a step counts.
type entry struct {
	Step int  `json:"step"`
	Gone bool `json:"gone,omitempty"`
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
	self := os.Getpid()
	text, err := json.Marshal(owner{Boot: boot, target: target{PID: self, Start: startTime(self)}})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, ownerFile), text, 0o600)
	}
	var journal *os.File
	if err == nil {
		journal, err = os.OpenFile(filepath.Join(dir, journalFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("state directory: %w", err), os.RemoveAll(dir))
	}
	return &state{dir: dir, journal: journal, log: log}, nil
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
		of := readOwner(filepath.Join(dir, ownerFile))
		if of.Boot == boot && of.Start != 0 && startTime(of.PID) == of.Start {
			continue
		}
		if of.Boot == boot {
			endRun(dir, log)
		}
		if err := os.RemoveAll(dir); err != nil {
			log.Warn("an earlier run cannot be removed", "dir", dir, "err", err)
		}
	}
}

// readOwner returns an owner that is nobody where there is no whole file.
func readOwner(path string) owner {
	var o owner
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &o) != nil {
		return owner{}
	}
	return o
}

// endRun ends the processes in a run's journal.
func endRun(dir string, log *slog.Logger) {
	text, err := os.ReadFile(filepath.Join(dir, journalFile))
	if err != nil {
		return // the agent ended before it started anything
	}
	targets := readJournal(text)
	if countAlive(targets) == 0 {
		return
	}
	log.Info("ending processes an earlier run of the agent has left", "steps", len(targets))
	if err := terminate(targets, killPolicy{terms: 1, interval: defaultGrace}); err != nil {
		log.Warn("processes of an earlier run cannot be ended", "err", err)
	}
}

// readJournal returns what may still be there. A last line that was cut off is
// left out.
func readJournal(text []byte) []target {
	last := make(map[int]target)
	for line := range bytes.Lines(text) {
		var e entry
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		if e.Gone {
			delete(last, e.Step)
			continue
		}
		last[e.Step] = e.target
	}
	targets := make([]target, 0, len(last))
	for _, t := range last {
		targets = append(targets, t)
	}
	return targets
}

// note records what step n starts. It is called before the start with the
// marker alone, and after it with the process.
func (s *state) note(n int, t target) { s.add(entry{Step: n, target: t}) }

// forget records that the processes of step n are gone.
func (s *state) forget(n int) { s.add(entry{Step: n, Gone: true}) }

// add appends a line in one write, so that steps do not mix theirs.
func (s *state) add(e entry) {
	line, err := json.Marshal(e)
	if err == nil {
		_, err = s.journal.Write(append(line, '\n'))
	}
	if err != nil {
		s.log.Warn("process cannot be recorded; it would outlive a killed agent", "err", err)
	}
}

func (s *state) outputPath(n int) string {
	return filepath.Join(s.dir, strconv.Itoa(n)+outputSuffix)
}

func (s *state) close() {
	if err := errors.Join(s.journal.Close(), os.RemoveAll(s.dir)); err != nil {
		s.log.Warn("state of this run cannot be removed", "dir", s.dir, "err", err)
	}
}

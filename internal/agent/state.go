package agent

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
)

// state is one run's folder below the state directory: the outputs of its
// steps, a journal of the processes it has started, and whether it may have made
// containers, so that the next run can end what this one left behind when it was
// killed.
type state struct {
	dir     string
	id      string // unlike that of any other run anywhere
	journal *os.File
	log     *slog.Logger
}

// The files of a run's folder.
const (
	ownerFile      = "owner.json"
	journalFile    = "processes.jsonl"
	containersFile = "containers" // there is one if the run may have made any
	outputSuffix   = ".output"
)

// owner says which process a run's folder belongs to, and in which boot.
type owner struct {
	ID   string `json:"id"`
	Boot string `json:"boot"`
	target
}

// deadRun is a run that is no more and may have left containers, networks or
// volumes. Its folder stays until they are gone.
type deadRun struct{ id, dir string }

// forget removes the folder of a run of which nothing is left.
func (d deadRun) forget(log *slog.Logger) {
	if err := os.RemoveAll(d.dir); err != nil {
		log.Warn("an earlier run cannot be removed", "dir", d.dir, "err", err)
	}
}

// entry is a line of the journal. The last one of a step counts.
type entry struct {
	Step int  `json:"step"`
	Gone bool `json:"gone,omitempty"`
	target
}

// openState makes this run's folder, and ends and removes what runs that are
// no more have left. Those it returns may have left containers.
func openState(root string, log *slog.Logger) (*state, []deadRun, error) {
	runs := filepath.Join(root, "runs")
	if err := os.MkdirAll(runs, 0o700); err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	boot := bootID()
	dead := sweepRuns(runs, boot, log)
	dir, err := os.MkdirTemp(runs, "run-")
	if err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	self := os.Getpid()
	id := rand.Text()
	text, err := json.Marshal(owner{ID: id, Boot: boot, target: target{PID: self, Start: startTime(self)}})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, ownerFile), text, 0o600)
	}
	var journal *os.File
	if err == nil {
		journal, err = os.OpenFile(filepath.Join(dir, journalFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("state directory: %w", err), os.RemoveAll(dir))
	}
	return &state{dir: dir, id: id, journal: journal, log: log}, dead, nil
}

// sweepRuns cleans up after runs whose agent does not live any more. What goes
// wrong is logged: an agent must start even beside the remains of another. It
// returns those that may have left containers, which stay.
func sweepRuns(runs, boot string, log *slog.Logger) []deadRun {
	entries, err := os.ReadDir(runs)
	if err != nil {
		log.Warn("earlier runs cannot be read", "err", err)
		return nil
	}
	var dead []deadRun
	for _, e := range entries {
		dir := filepath.Join(runs, e.Name())
		of := readOwner(filepath.Join(dir, ownerFile))
		if of.Boot == boot && isRunning(of.PID, of.Start) {
			continue
		}
		if of.Boot == boot {
			endRun(dir, log)
		}
		run := deadRun{id: of.ID, dir: dir}
		if _, err := os.Stat(filepath.Join(dir, containersFile)); err == nil && of.ID != "" {
			dead = append(dead, run)
			continue
		}
		run.forget(log)
	}
	return dead
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

// noteContainers records, before the first is made, that there may be
// containers, networks or volumes of this run. It may be called again.
func (s *state) noteContainers() error {
	f, err := os.OpenFile(filepath.Join(s.dir, containersFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	// They outlive a crash of the whole machine, and so must the record.
	if err := errors.Join(f.Sync(), f.Close(), syncDir(s.dir)); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

func (s *state) outputPath(n int) string {
	return filepath.Join(s.dir, strconv.Itoa(n)+outputSuffix)
}

func (s *state) close() {
	if err := errors.Join(s.journal.Close(), os.RemoveAll(s.dir)); err != nil {
		s.log.Warn("state of this run cannot be removed", "dir", s.dir, "err", err)
	}
}

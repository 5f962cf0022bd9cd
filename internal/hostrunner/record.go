package hostrunner

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// record is what is kept of a stage, so that a runner that follows a killed one
// knows it. It holds the stage's secrets: its file is for this user alone.
type record struct {
	ID      string    `json:"id"`
	Key     Key       `json:"key"`
	Created time.Time `json:"created"`
	layout
	// Shared is where its steps leave outputs.
	Shared string `json:"shared"`
	// Setup is what its agent was given.
	Setup agentapi.SetupRequest `json:"setup"`
	// Uses are the files and folders of the host the setup names, Removes those
	// of them that go with the last stage that uses them.
	Uses    []string `json:"uses,omitempty"`
	Removes []string `json:"removes,omitempty"`
	// Ready says that the setup is done, Ending that a destroy has begun.
	Ready  bool `json:"ready,omitempty"`
	Ending bool `json:"ending,omitempty"`
}

// stepRecord is what is kept of a step, so that no repeated call runs it twice.
type stepRecord struct {
	ID      string    `json:"id"`
	Started time.Time `json:"started"`
	// Result is nil until the step has ended.
	Result *agentapi.PollStepResponse `json:"result,omitempty"`
}

// folders is the layout of the data directory.
type folders struct{ root string }

func (f folders) stages() string          { return filepath.Join(f.root, "stages") }
func (f folders) stage(k Key) string      { return filepath.Join(f.stages(), "s-"+string(k)) }
func (f folders) agent(k Key) string      { return filepath.Join(f.stage(k), "agent") }
func (f folders) steps(k Key) string      { return filepath.Join(f.stage(k), "steps") }
func (f folders) recordFile(k Key) string { return filepath.Join(f.stage(k), "stage.json") }
func (f folders) work(k Key) string       { return filepath.Join(f.root, "work", "w-"+string(k)) }
func (f folders) lock() string            { return filepath.Join(f.root, "lock") }

// newShared names a folder for outputs that other users of the host cannot
// guess, since steps may run as any of them.
func (f folders) newShared() string {
	return filepath.Join(f.root, "shared", strings.ToLower(rand.Text()))
}

func (f folders) stepFile(k Key, id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(f.steps(k), hex.EncodeToString(sum[:16])+".json")
}

// make makes the folders. Users of steps may pass through the root and see
// nothing of it; what runners know is for this user alone.
func (f folders) make() error {
	for dir, mode := range map[string]os.FileMode{
		f.root: 0o711, f.stages(): 0o700, filepath.Join(f.root, "work"): 0o711, filepath.Join(f.root, "shared"): 0o711,
	} {
		err := os.MkdirAll(dir, mode)
		if err == nil {
			err = os.Chmod(dir, mode)
		}
		if err != nil {
			return fmt.Errorf("data directory: %w; choose another with --data-dir", err)
		}
	}
	return nil
}

func readJSON[T any](path string) (T, error) {
	var v T
	text, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// readSteps returns the steps of a stage by id.
func readSteps(dir string) (map[string]*stepRecord, error) {
	steps := make(map[string]*stepRecord)
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return steps, nil
	}
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".json") {
			continue // one that was being written
		}
		s, err := readJSON[stepRecord](filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		steps[s.ID] = &s
	}
	return steps, nil
}

package noop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// A machine's directory, <data>/noop/<pool>/<name>, holds
//
//	meta.json    what it was made from, written before the process exists
//	lock         locked by the process as long as it lives
//	state.json   written by the process: where it is and what it does
//	console.log  what it printed
//
// A directory appears with its meta.json at once and leaves its name at once,
// so whatever is listed is a machine. Names beginning with a dot are drafts
// and leftovers of a crash.
const (
	metaFile    = "meta.json"
	lockFile    = "lock"
	stateFile   = "state.json"
	consoleFile = "console.log"
	draftPrefix = ".draft-"
	gonePrefix  = ".gone-"
)

// draftAge is after how long a draft or leftover is nobody's work any more.
const draftAge = time.Hour

// meta is what a machine was made from. There is no secret in it.
type meta struct {
	Name      string        `json:"name"`
	Tags      drivers.Tags  `json:"tags"`
	BootDelay time.Duration `json:"boot_delay_ns"`
	StepTime  time.Duration `json:"step_time_ns"`
}

// The phases a process tells of.
const (
	phaseBooting   = "booting"
	phaseRunning   = "running"
	phaseSuspended = "suspended"
)

// state is the process's own word. It is the truth only while it lives.
type state struct {
	PID     int    `json:"pid"`
	Phase   string `json:"phase"`
	Address string `json:"address"`
	Port    int    `json:"port"`
}

// dirName is a pool's name as one path element that does not begin with a dot.
func dirName(pool string) string {
	name := url.PathEscape(pool)
	if name == "" {
		return "%" // what escaping never makes
	}
	if strings.HasPrefix(name, ".") {
		name = "%2E" + name[1:]
	}
	return name
}

// writeJSON replaces a file as a whole.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), draftPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// alive says whether some process holds the machine's lock. The shared lock
// it tries keeps nobody else from trying, and holds off a start only for the
// moment of the question.
func alive(dir string) (bool, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = flock(f, syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// pollEvery is how often a change on disk is looked for. The wait is for
// another process, so there is nothing to be woken by.
const pollEvery = 5 * time.Millisecond

// lockPath takes the exclusive lock of a file, made if need be, and waits for
// it until ctx ends. Closing the file lets go.
func lockPath(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = wait(ctx, pollEvery)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
)

// errUsed refuses a setup for a second use. Machines are never reused, so
// whoever asks has an old or wrong account of this one.
var errUsed = errors.New("this machine was set up for another use before, and is not given to a second one")

// use is what the machine has been used for. It is kept in the state
// directory, so that a restarted agent still knows.
type use struct {
	path string
	// Used is set with the first setup or step, Of is the use it was for, ""
	// if the caller did not say.
	Used bool   `json:"used"`
	Of   string `json:"of,omitempty"`
}

// openUse reads what an earlier run of the agent has recorded. Agents may share
// a state directory, so each machine has a file of its own. A file that cannot
// be read means that there was a use.
func openUse(dir, machine string) use {
	name := "use.json"
	if machine != "" {
		sum := sha256.Sum256([]byte(machine))
		name = "use-" + hex.EncodeToString(sum[:8]) + ".json"
	}
	u := use{path: filepath.Join(dir, name)}
	text, err := os.ReadFile(u.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil || json.Unmarshal(text, &u) != nil:
		u.Used = true
	}
	return u
}

// begin records a use, of being "" if it is not named. It fails with errUsed if
// the machine is another's; that it cannot be recorded is an error too.
func (u *use) begin(of string) error {
	if of != "" && u.Of != "" && of != u.Of {
		return errUsed
	}
	if u.Used && (of == "" || of == u.Of) {
		return nil
	}
	next := use{Used: true, Of: of}
	if of == "" {
		next.Of = u.Of
	}
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := os.WriteFile(u.path, text, 0o600); err != nil {
		return err
	}
	u.Used, u.Of = next.Used, next.Of
	return nil
}

package sqlite

import (
	"errors"
	"fmt"
	"os"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

// SQLite's primary result codes that a person may have to act on, from
// https://www.sqlite.org/rescode.html.
const (
	codePerm       = 3
	codeBusy       = 5
	codeLocked     = 6
	codeReadonly   = 8
	codeIOErr      = 10
	codeCorrupt    = 11
	codeFull       = 13
	codeCantOpen   = 14
	codeConstraint = 19
	codeNotADB     = 26
)

// explain turns a failure of the database into one that names the file and
// what to do. Answers of the store's contract pass as they are.
func explain(path string, err error) error {
	if err == nil || core.Ours(err) || errors.Is(err, pool.ErrUnavailable) {
		return err
	}
	if _, ok := errors.AsType[*store.KeyError](err); ok {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, damaged := errors.AsType[*damage](err)
	remedy := ""
	switch code := codeOf(err); {
	case code == codeConstraint:
		return fmt.Errorf("%w: %w", pool.ErrConflict, err)
	case code == codeBusy || code == codeLocked:
		remedy = "it is locked by another process; stop that process"
	case code == codeReadonly || code == codePerm:
		remedy = fmt.Sprintf("let this user (uid %d) write the file and its directory", os.Getuid())
	case code == codeCantOpen:
		remedy = fmt.Sprintf("let this user (uid %d) read and write the file and its directory", os.Getuid())
	case code == codeNotADB:
		remedy = "it is not a SQLite database and was left as it is; move it away, or set DRONE_DATABASE_DATASOURCE to another file"
	case code == codeCorrupt || damaged:
		remedy = "the database is damaged and was left as it is; restore a copy, or try: sqlite3 FILE .recover"
	case code == codeFull:
		remedy = "the disk is full; make room, nothing else has to be done"
	case code == codeIOErr:
		remedy = "the disk failed or is full; see the system's log"
	}
	if remedy == "" {
		return fmt.Errorf("%w: %s: %w", pool.ErrUnavailable, path, err)
	}
	return fmt.Errorf("%w: %s: %w: %s", pool.ErrUnavailable, path, err, remedy)
}

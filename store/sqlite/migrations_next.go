//go:build nextschema

package sqlite

import (
	"embed"
	"io/fs"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

// next is the version after this one, for tests of neighbouring versions. It
// is in no release.
//
//go:embed migrations_next/*.sql
var next embed.FS

// migrationFiles are the migrations of this program's schema and the next one.
func migrationFiles() (fs.FS, error) {
	now, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	then, err := fs.Sub(next, "migrations_next")
	return core.Both{now, then}, err
}

//go:build !nextschema

package postgres

import "io/fs"

// migrationFiles are the migrations of this program's schema.
func migrationFiles() (fs.FS, error) { return fs.Sub(migrations, "migrations") }

package sqlite

import "database/sql"

// Raw opens a file for reading, beside an open store.
func Raw(path string) (*sql.DB, error) { return sql.Open(driverName, dsn(path, true, SyncFull)) }

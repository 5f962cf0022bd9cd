//go:build !cgo

package sqlite

import (
	"errors"
	"net/url"

	"modernc.org/sqlite"
)

// library names the SQLite library of this build, for logs.
const library = "modernc.org/sqlite"

// driverName is its name in database/sql.
const driverName = "sqlite"

// dsn is the data source of one file. reader connections cannot write.
func dsn(path string, reader bool, sync Sync) string {
	q := url.Values{"_pragma": {"busy_timeout(0)", "foreign_keys(1)", "synchronous(" + string(sync) + ")"}}
	if reader {
		q["_pragma"] = []string{"busy_timeout(" + readerBusyMS + ")", "foreign_keys(1)", "query_only(1)"}
		q.Set("mode", "rw")
	}
	return fileURI(path) + "?" + q.Encode()
}

// codeOf is SQLite's primary result code of an error, 0 if it is not SQLite's.
func codeOf(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

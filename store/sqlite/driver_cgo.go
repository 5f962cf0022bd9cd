//go:build cgo

package sqlite

import (
	"errors"
	"net/url"

	"github.com/mattn/go-sqlite3"
)

// library names the SQLite library of this build, for logs.
const library = "mattn/go-sqlite3"

// driverName is its name in database/sql.
const driverName = "sqlite3"

// dsn is the data source of one file. reader connections cannot write.
func dsn(path string, reader bool, sync Sync) string {
	q := url.Values{
		"_busy_timeout": {"0"},
		"_foreign_keys": {"1"},
		// database/sql lets one goroutine at a time use a connection.
		"_mutex":       {"no"},
		"_synchronous": {string(sync)},
	}
	if reader {
		q.Set("_query_only", "1")
		q.Set("_busy_timeout", readerBusyMS)
		q.Set("mode", "rw")
	}
	return fileURI(path) + "?" + q.Encode()
}

// codeOf is SQLite's primary result code of an error, 0 if it is not SQLite's.
func codeOf(err error) int {
	if e, ok := errors.AsType[sqlite3.Error](err); ok {
		return int(e.Code) & 0xff
	}
	return 0
}

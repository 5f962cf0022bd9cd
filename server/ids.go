package server

import (
	"strings"
	"unicode/utf8"
)

// maxID is how many characters an id or name in a request may have. Known
// callers send about 30; ids are opaque text otherwise.
const maxID = 1000

// checkID refuses what no store could keep. Empty is for the caller to judge.
func checkID(field, id string) error {
	if n := utf8.RuneCountInString(id); n > maxID {
		return badRequest("field '%s' in the request body is too long: %d characters, at most %d are possible", field, n, maxID)
	}
	if strings.ContainsRune(id, 0) {
		return badRequest("field '%s' in the request body has a NUL character", field)
	}
	return nil
}

func mandatory(field, value string) error {
	if value == "" {
		return badRequest("mandatory field '%s' in the request body is empty", field)
	}
	return checkID(field, value)
}

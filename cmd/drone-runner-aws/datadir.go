package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// databaseFile is the store's name in the data directory.
const databaseFile = "database.sqlite3"

// dataDir chooses the data directory: the given one; else the pool file's
// folder if it holds or can hold the database; else the working directory. The
// path is absolute.
func dataDir(given, poolFile string) (string, error) {
	if given != "" {
		dir, err := filepath.Abs(given)
		if err != nil {
			return "", err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", fmt.Errorf("data directory: %w; choose another with --data-dir", err)
		}
		return dir, nil
	}
	if poolFile != "" {
		dir, err := filepath.Abs(filepath.Dir(poolFile))
		if err != nil {
			return "", err
		}
		if canHold(dir) {
			return dir, nil
		}
	}
	return os.Getwd()
}

// canHold says whether dir has the database, or a file could be made there.
func canHold(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, databaseFile)); err == nil {
		return true
	}
	f, err := os.CreateTemp(dir, ".drone-runner-aws-*")
	if err != nil {
		return false
	}
	return errors.Join(f.Close(), os.Remove(f.Name())) == nil
}

// volatileKinds are file systems that end with the container or the host's
// run, and how to say so.
var volatileKinds = map[string]string{
	"overlay":  "the container's own layer",
	"overlay2": "the container's own layer",
	"aufs":     "the container's own layer",
	"tmpfs":    "memory (tmpfs)",
	"ramfs":    "memory (ramfs)",
}

// volatile says on what kind of passing storage dir lies, "" if it is one that
// stays. mounts is a file of the form of /proc/self/mountinfo.
func volatile(dir, mounts string) string {
	f, err := os.Open(mounts)
	if err != nil {
		return ""
	}
	defer f.Close()
	best, kind := -1, ""
	for s := bufio.NewScanner(f); s.Scan(); {
		left, right, ok := strings.Cut(s.Text(), " - ")
		fields, types := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(types) < 1 {
			continue
		}
		point := unescape(fields[4])
		if within(dir, point) && len(point) >= best {
			best, kind = len(point), types[0]
		}
	}
	return volatileKinds[kind]
}

func within(dir, point string) bool {
	return point == "/" || dir == point || strings.HasPrefix(dir, point+"/")
}

// unescape undoes the octal escapes of mountinfo (a blank is \040).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/joho/godotenv"
)

// settings is the environment with the env file laid over it. An empty
// variable counts as unset.
type settings struct{ env []string }

// loadSettings reads the env file over the environment. A missing file is only
// worth a line in the log; a broken one is an error.
func loadSettings(path string, environ []string, log *slog.Logger) (settings, error) {
	s := settings{env: slices.Clone(environ)}
	if path == "" {
		return s, nil
	}
	file, err := godotenv.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		log.Info("no env file, going on with the environment", "path", path)
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("env file %s: %w", path, err)
	}
	names := make([]string, 0, len(file))
	for k := range file {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		s.env = append(s.env, k+"="+file[k])
	}
	return s, nil
}

// lookup returns the last value of a variable, "" if it is unset.
func (s settings) lookup(name string) string {
	for _, kv := range slices.Backward(s.env) {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// text returns a setting of the server by its bare name, which is the one in
// the documentation (HTTPS_BIND, SERVER_CERT_FILE). The same name with a further
// SERVER_ before it wins.
func (s settings) text(name, fallback string) string {
	return cmp.Or(s.lookup("SERVER_"+name), s.lookup(name), fallback)
}

// flag is text for true and false.
func (s settings) flag(name string) (bool, error) {
	v := s.text(name, "false")
	on, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%s is %q, want true or false", name, v)
	}
	return on, nil
}

// environ is what steps inherit.
func (s settings) environ() []string {
	seen := make(map[string]bool, len(s.env))
	var out []string
	for _, kv := range slices.Backward(s.env) {
		name, _, _ := strings.Cut(kv, "=")
		if !seen[name] {
			seen[name] = true
			out = append(out, kv)
		}
	}
	slices.Reverse(out)
	return out
}

// logLevel is debug if DEBUG or TRACE is set.
func (s settings) logLevel() (slog.Level, error) {
	for _, name := range []string{"DEBUG", "TRACE"} {
		on, err := s.flag(name)
		if err != nil {
			return 0, err
		}
		if on {
			return slog.LevelDebug, nil
		}
	}
	return slog.LevelInfo, nil
}

func environment() []string { return os.Environ() }

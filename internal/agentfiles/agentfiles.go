// Package agentfiles serves the agent's binaries and their checksums to machines
// that boot, from a folder of this host, on a listener of its own. It serves
// these files by their names and nothing else: no listing, no other path, no
// method that changes anything, and nothing of the runner's API.
package agentfiles

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// sumsName is the list of all checksums, sumSuffix ends the name of one.
	sumsName  = "SHA256SUMS"
	sumSuffix = ".sha256"
	// maxFile is far above any agent's size, in bytes: something else has its
	// name then.
	maxFile = 256 << 20
	// maxDownloads is how many answers are sent at a time; the machines that
	// come then are told to come again, which their boot scripts do.
	maxDownloads = 64
	// answerTime bounds one download, headerTime its request.
	answerTime = 10 * time.Minute
	headerTime = 10 * time.Second
	maxHeader  = 8 << 10
	// stopTime is how long downloads may go on when the runner stops.
	stopTime = 5 * time.Second
)

// Files are the agents in one folder. Its methods are safe for concurrent use.
type Files struct {
	dir  string
	log  *slog.Logger
	busy chan struct{}

	mu   sync.Mutex
	sums map[string]sum // by path
}

// sum is a file's checksum as long as it is the same file.
type sum struct {
	size int64
	at   time.Time
	hex  string
}

// Open looks for agents in dir: lite-engine-<os>-<arch> or
// runner-agent-<os>-<arch>, with .exe for Windows, and runner-agent alone for
// this host's own kind. None at all is an error that says so.
func Open(dir string, log *slog.Logger) (*Files, error) {
	f := &Files{dir: dir, log: log, busy: make(chan struct{}, maxDownloads), sums: map[string]sum{}}
	if len(f.Names()) == 0 {
		return nil, fmt.Errorf("no agent in %s: put lite-engine-linux-amd64, or runner-agent-linux-amd64, there", dir)
	}
	return f, nil
}

// names are the files machines ask for.
func names() []string {
	var out []string
	for _, system := range []string{"darwin", "linux", "windows"} {
		for _, arch := range []string{"amd64", "arm64"} {
			name := "lite-engine-" + system + "-" + arch
			if system == "windows" {
				name += ".exe"
			}
			out = append(out, name)
		}
	}
	return out
}

// Names are the files that are there now, sorted.
func (f *Files) Names() []string {
	return slices.DeleteFunc(names(), func(name string) bool {
		_, err := f.find(name)
		return err != nil
	})
}

// find is the path of a file that machines may have. Only names known here are
// looked for, so no path of a request reaches the file system.
func (f *Files) find(name string) (string, error) {
	if !slices.Contains(names(), name) {
		return "", fs.ErrNotExist
	}
	ours := strings.Replace(name, "lite-engine", "runner-agent", 1)
	for _, n := range []string{name, ours} {
		path := filepath.Join(f.dir, n)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	if ours == "runner-agent-"+runtime.GOOS+"-"+runtime.GOARCH {
		path := filepath.Join(f.dir, "runner-agent")
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fs.ErrNotExist
}

// open opens an agent and says what it is.
func (f *Files) open(name string) (*os.File, fs.FileInfo, error) {
	path, err := f.find(name)
	if err != nil {
		return nil, nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("%s has %d MiB: no agent is as large", path, info.Size()>>20)
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, info, nil
}

// checksum is an agent's, read anew when the file has changed.
func (f *Files) checksum(name string) (string, error) {
	file, info, err := f.open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	f.mu.Lock()
	defer f.mu.Unlock() // whoever comes meanwhile wants the same
	known, ok := f.sums[file.Name()]
	if ok && known.size == info.Size() && known.at.Equal(info.ModTime()) {
		return known.hex, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", err
	}
	known = sum{info.Size(), info.ModTime(), hex.EncodeToString(h.Sum(nil))}
	f.sums[file.Name()] = known
	return known.hex, nil
}

// ServeHTTP answers GET and HEAD for the agents, <agent>.sha256 and SHA256SUMS.
func (f *Files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	select {
	case f.busy <- struct{}{}:
		defer func() { <-f.busy }()
	default:
		w.Header().Set("Retry-After", "2")
		http.Error(w, "too many downloads at a time", http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	name := strings.TrimPrefix(r.URL.Path, "/")
	var err error
	switch {
	case name == sumsName:
		err = f.sendSums(w, r)
	case strings.HasSuffix(name, sumSuffix):
		err = f.sendSum(w, r, strings.TrimSuffix(name, sumSuffix))
	default:
		err = f.sendFile(w, r, name)
	}
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, "there is no such file", http.StatusNotFound)
	default:
		f.log.ErrorContext(r.Context(), "agent not served", "file", name, "err", err)
		http.Error(w, "the file cannot be read; the runner's log says why", http.StatusInternalServerError)
	}
}

func (f *Files) sendFile(w http.ResponseWriter, r *http.Request, name string) error {
	file, info, err := f.open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), file)
	if r.Method == http.MethodGet {
		f.log.InfoContext(r.Context(), "agent served", "file", name, "peer", r.RemoteAddr)
	}
	return nil
}

func (f *Files) sendSum(w http.ResponseWriter, r *http.Request, name string) error {
	hex, err := f.checksum(name)
	if err != nil {
		return err
	}
	return text(w, r, hex+"  "+name+"\n")
}

func (f *Files) sendSums(w http.ResponseWriter, r *http.Request) error {
	var out strings.Builder
	for _, name := range f.Names() {
		hex, err := f.checksum(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		out.WriteString(hex + "  " + name + "\n")
	}
	return text(w, r, out.String())
}

func text(w http.ResponseWriter, r *http.Request, body string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
	return nil
}

// Serve answers on ln until ctx ends, gives downloads a moment to finish, and
// closes ln.
func (f *Files) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler: f, ReadHeaderTimeout: headerTime, ReadTimeout: headerTime, WriteTimeout: answerTime, IdleTimeout: headerTime,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve agents: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		_ = srv.Close() // a machine that still downloads tries again elsewhere
	}
	<-failed //nolint:errcheck // http.ErrServerClosed
	return nil
}

// Listen opens the listener for an address, and returns that address with the
// port it has got.
func Listen(ctx context.Context, bind string) (ln net.Listener, bound string, err error) {
	host, _, err := net.SplitHostPort(bind)
	if err != nil {
		return nil, "", err
	}
	if ln, err = (&net.ListenConfig{}).Listen(ctx, "tcp", bind); err != nil {
		return nil, "", err
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return nil, "", errors.Join(err, ln.Close())
	}
	return ln, net.JoinHostPort(host, port), nil
}

// BaseURL is where machines find what is served at an address. One that is
// every address of this host is no place machines could be told: an error that
// says what to do.
func BaseURL(bind string) (string, error) {
	host, port, err := net.SplitHostPort(bind)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "", fmt.Errorf("%q is every address of this host: name the one machines reach, or set DRONE_LITE_ENGINE_PATH to http://<that address>:%s", bind, port)
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

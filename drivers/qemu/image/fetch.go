package image

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Source is where a package comes from instead of apt.
type Source struct {
	// URL is an http, https or file URL, or a path.
	URL string
	// SHA256 is the checksum of the file in hex; it is required with URL.
	SHA256 string
}

// cached is a fetched package: its record lies beside it in the cache, under
// the part it plays, so that a rebuild finds it without asking anybody.
type cached struct {
	Package
	// File is the name of the .deb in the cache.
	File string `json:"file"`
	// URL is where it came from, "apt" if from there.
	URL string `json:"url"`
	// Modules is the package with the kernel's modules, as apt takes it, where
	// they are not in the kernel's own: on Ubuntu.
	Modules string `json:"modules,omitempty"`
}

// fetcher gets the packages an image is made of.
type fetcher struct {
	cache string
	arch  string
	// osRelease is the file that says which distribution this host is.
	osRelease string
	client    *http.Client
	progress  func(step string, done, total int64)
	// help is what a person without network can do.
	help string
	// apt runs a program of apt in dir and returns its output. Tests replace it.
	apt func(ctx context.Context, dir, program string, args ...string) ([]byte, error)
}

// get returns the package for a part ("kernel", "busybox"): from the cache if
// it is there, else from the source if one is given, else from apt.
func (f *fetcher) get(ctx context.Context, part string, src Source, resolve func(context.Context) (string, error), update bool) (cached, error) {
	if c, ok := f.lookup(part, src); ok && !update {
		f.progress(part+": "+c.File+" is in the cache", 1, 1)
		return c, nil
	}
	if src.URL != "" {
		return f.fromURL(ctx, part, src)
	}
	name, err := resolve(ctx)
	if err != nil {
		return cached{}, err
	}
	return f.fromApt(ctx, part, name)
}

// lookup finds a part in the cache and checks its checksum.
func (f *fetcher) lookup(part string, src Source) (cached, bool) {
	raw, err := os.ReadFile(f.record(part))
	if err != nil {
		return cached{}, false
	}
	var c cached
	if json.Unmarshal(raw, &c) != nil || c.File != filepath.Base(c.File) {
		return cached{}, false
	}
	if src.URL != "" && !strings.EqualFold(c.SHA256, src.SHA256) {
		return cached{}, false
	}
	got, err := hashFile(filepath.Join(f.cache, c.File))
	return c, err == nil && got.SHA256 == c.SHA256
}

func (f *fetcher) record(part string) string {
	return filepath.Join(f.cache, part+"-"+f.arch+".json")
}

func (f *fetcher) remember(part string, c cached) error {
	raw, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return writeAtomic(f.record(part), append(raw, '\n'))
}

// fromApt downloads "name" or "name=version" with apt-get, which checks it
// against the distribution's signatures, and compares the checksum once more.
func (f *fetcher) fromApt(ctx context.Context, part, name string) (cached, error) {
	p, err := f.show(ctx, name)
	if err != nil {
		return cached{}, err
	}
	size, _ := strconv.ParseInt(p["Size"], 10, 64) // for the progress only
	c := cached{Package: Package{Name: p["Package"], Version: p["Version"], SHA256: p["SHA256"]}, URL: "apt"}
	c.Modules = dependency(p["Depends"], "linux-modules-")
	c.File = fileName(c.Package, f.arch)
	f.progress(part+": fetching "+c.Name+" "+c.Version+" with apt-get", 0, size)
	dir, err := os.MkdirTemp(f.cache, aptPrefix+"*")
	if err != nil {
		return cached{}, err
	}
	defer os.RemoveAll(dir)
	if out, err := f.apt(ctx, dir, "apt-get", "-q", "download", c.Name+"="+c.Version); err != nil {
		return cached{}, fmt.Errorf("apt-get download %s: %w: %s\n%s", c.Name, err, lastLine(out), offlineHelp)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(found) != 1 {
		return cached{}, fmt.Errorf("apt-get download %s: %d files instead of one", c.Name, len(found))
	}
	return f.keep(part, c, found[0])
}

// show reads the newest record of a package from apt's lists.
func (f *fetcher) show(ctx context.Context, name string) (map[string]string, error) {
	out, err := f.apt(ctx, f.cache, "apt-cache", "show", "--no-all-versions", name)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%s: apt is not on this host; %s", name, offlineHelp)
	}
	if err != nil {
		return nil, fmt.Errorf("apt-cache show %s: %w: %s; run apt-get update first, or %s", name, err, lastLine(out), offlineHelp)
	}
	p := parseControl(out)
	for _, field := range []string{"Package", "Version", "SHA256"} {
		if p[field] == "" {
			return nil, fmt.Errorf("apt-cache show %s: no %s in the answer; run apt-get update first, or %s", name, field, offlineHelp)
		}
	}
	return p, nil
}

// offlineHelp is what a person without network or apt can do.
const offlineHelp = "give the packages linux-image-<version>-cloud-<arch> and busybox-static as URL or file with their SHA-256 " +
	"(--kernel-url, --busybox-url), or copy the image's folder from a host that has it"

// parseControl reads the first paragraph of Debian's control format; lines that
// continue a field are not needed here and dropped.
func parseControl(data []byte) map[string]string {
	p := map[string]string{}
	s := bufio.NewScanner(bytes.NewReader(data))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := s.Text()
		if line == "" {
			break
		}
		if strings.HasPrefix(line, " ") {
			continue
		}
		if key, value, ok := strings.Cut(line, ":"); ok {
			p[key] = strings.TrimSpace(value)
		}
	}
	return p
}

// debName is the usual name of a package file: name_version_arch.deb, the
// colon of an epoch written %3a.
var debName = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]*)_([A-Za-z0-9.+~%-]+)_[a-z0-9]+\.deb$`)

// fromURL downloads or copies a package; a download that broke off goes on
// where it ended.
func (f *fetcher) fromURL(ctx context.Context, part string, src Source) (cached, error) {
	if raw, err := hex.DecodeString(src.SHA256); err != nil || len(raw) != 32 {
		return cached{}, fmt.Errorf("%s: %s needs the SHA-256 of the file, 64 hex digits", part, src.URL)
	}
	sum := strings.ToLower(src.SHA256)
	c := cached{Package: Package{Name: part, Version: sum[:12], SHA256: sum}, URL: src.URL}
	if m := debName.FindStringSubmatch(filepath.Base(src.URL)); m != nil {
		c.Name, c.Version = m[1], strings.NewReplacer("%3a", ":", "%3A", ":").Replace(m[2])
	}
	c.File = fileName(c.Package, f.arch)
	partial := filepath.Join(f.cache, sum+".part")
	var err error
	if path, ok := localPath(src.URL); ok {
		err = copyFile(path, partial)
	} else {
		err = f.download(ctx, part, src.URL, partial)
	}
	if err != nil {
		return cached{}, fmt.Errorf("fetch %s: %w", part, err)
	}
	return f.keep(part, c, partial)
}

func localPath(url string) (string, bool) {
	if path, ok := strings.CutPrefix(url, "file://"); ok {
		return path, true
	}
	return url, !strings.Contains(url, "://")
}

// keep checks a fetched file and moves it to its place in the cache. A file
// with the wrong checksum is deleted: going on from it would never end well.
func (f *fetcher) keep(part string, c cached, file string) (cached, error) {
	got, err := hashFile(file)
	if err != nil {
		return cached{}, err
	}
	if got.SHA256 != c.SHA256 {
		err := fmt.Errorf("%s: %s has SHA-256 %s, %s expected: the file is not the one meant", part, c.URL, got.SHA256, c.SHA256)
		return cached{}, errors.Join(err, os.Remove(file))
	}
	if err := os.Rename(file, filepath.Join(f.cache, c.File)); err != nil {
		return cached{}, err
	}
	f.progress(part+": "+c.File, got.Size, got.Size)
	return c, f.remember(part, c)
}

func fileName(p Package, arch string) string {
	clean := strings.NewReplacer(":", "_", "/", "_", "%", "_")
	return clean.Replace(p.Name) + "_" + clean.Replace(p.Version) + "_" + arch + ".deb"
}

// stallAfter is how long a download may bring no byte before it is given up.
const stallAfter = 30 * time.Second

// download gets url into file, continuing what is there.
func (f *fetcher) download(ctx context.Context, part, url, file string) error {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallAfter, func() {
		cancel(fmt.Errorf("no data for %s", stallAfter))
	})
	defer stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	res, err := f.client.Do(req)
	if err != nil {
		return fmt.Errorf("%w; is this host offline? %s", causeOf(ctx, err), f.help)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusPartialContent:
	case http.StatusRequestedRangeNotSatisfiable: // all of it is there
		return nil
	case http.StatusOK:
		if err := out.Truncate(0); err != nil {
			return err
		}
		have = 0
	default:
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	total := res.ContentLength
	if total >= 0 {
		total += have
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := res.Body.Read(buf)
		stall.Reset(stallAfter)
		if _, werr := out.Write(buf[:n]); werr != nil {
			return werr
		}
		have += int64(n)
		f.progress(part+": fetching "+filepath.Base(url), have, total)
		if errors.Is(err, io.EOF) {
			return out.Sync()
		}
		if err != nil {
			return fmt.Errorf("%s broke off after %d bytes, call again to go on: %w", url, have, causeOf(ctx, err))
		}
	}
}

func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(err, out.Close())
	}
	return out.Close()
}

// writeAtomic writes a file that is there as a whole or not at all.
func writeAtomic(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), newPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// runApt runs one of apt's programs with messages in English.
func runApt(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stderr.Bytes(), err
	}
	return stdout.Bytes(), nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Exit codes of curl and wget, and of mount.
const (
	curlUsage, curlNoHost, curlRefused = 2, 6, 22
	wgetUsage, wgetNetwork, wgetError  = 2, 4, 8
	mountFailed                        = 32
)

// stub is one call of a program that would reach out of the machine or change
// the host. It notes the call and does what can be done here.
func stub(name string, args []string) int {
	if err := note(Call{Program: name, Args: args, Proxy: proxyOf(name, args)}); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	text, err := os.ReadFile(filepath.Join(insideDir, planName))
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	var p plan
	if err := json.Unmarshal(text, &p); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	code := 0
	switch name {
	case "curl":
		code, err = curl(p, args)
	case "wget":
		code, err = wget(p, args)
	case "systemctl":
		code, err = systemctl(args)
	case "shutdown":
		code, err = systemctl([]string{"poweroff"})
	case "mount":
		code, err = mountStub(args)
	case "apt-get", "dnf":
		code, err = install(args)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	}
	return code
}

// proxyOf is the proxy that the environment names for the address that curl or
// wget is asked for.
func proxyOf(name string, args []string) string {
	if name != "curl" && name != "wget" {
		return ""
	}
	for _, a := range args {
		if !strings.HasPrefix(a, "http://") && !strings.HasPrefix(a, "https://") {
			continue
		}
		u, err := url.Parse(a)
		if err != nil {
			return ""
		}
		proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
		if err != nil || proxy == nil {
			return ""
		}
		return proxy.String()
	}
	return ""
}

func note(c Call) error {
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(insideDir, callsName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

var (
	errNoHost  = errors.New("could not resolve host")
	errMissing = errors.New("the requested URL returned error: 404")
)

// fetch copies what an address answers with.
func fetch(p plan, address string, w io.Writer) error {
	file, ok := p.Served[address]
	if !ok {
		host := ""
		if u, err := url.Parse(address); err == nil {
			host = u.Host
		}
		for known := range p.Served {
			if u, err := url.Parse(known); err == nil && u.Host == host {
				return errMissing
			}
		}
		return errNoHost
	}
	if file == "" {
		return errMissing
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}

// fetchTo is fetch into a file, or to standard output for "" and "-".
func fetchTo(p plan, address, file string) error {
	if file == "" || file == "-" {
		return fetch(p, address, os.Stdout)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(fetch(p, address, f), f.Close())
}

func curl(p plan, args []string) (int, error) {
	var address, file string
	fail := false
	for i := 0; i < len(args); i++ {
		a := args[i]
		next := func() string {
			if i++; i < len(args) {
				return args[i]
			}
			return ""
		}
		switch {
		case a == "-o" || a == "--output":
			file = next()
		case a == "--connect-timeout" || a == "--max-time" || a == "--retry":
			next()
		case a == "--fail":
			fail = true
		case strings.HasPrefix(a, "--"):
			return curlUsage, fmt.Errorf("option %s is not known here", a)
		case strings.HasPrefix(a, "-"):
			for _, c := range a[1:] {
				if !strings.ContainsRune("fsSL", c) {
					return curlUsage, fmt.Errorf("option -%c is not known here", c)
				}
				fail = fail || c == 'f'
			}
		case address == "":
			address = a
		default:
			return curlUsage, errors.New("more than one address")
		}
	}
	err := fetchTo(p, address, file)
	switch {
	case errors.Is(err, errMissing) && !fail:
		return 0, nil
	case errors.Is(err, errMissing):
		return curlRefused, err
	case err != nil:
		return curlNoHost, err
	}
	return 0, nil
}

func wget(p plan, args []string) (int, error) {
	var address, file string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-O" || a == "-T" || a == "-t":
			i++
			if a == "-O" && i < len(args) {
				file = args[i]
			}
		case a == "-q":
		case strings.HasPrefix(a, "-"):
			return wgetUsage, fmt.Errorf("option %s is not known here", a)
		default:
			address = a
		}
	}
	err := fetchTo(p, address, file)
	switch {
	case errors.Is(err, errMissing):
		return wgetError, err
	case err != nil:
		return wgetNetwork, err
	}
	return 0, nil
}

// systemctl asks the machine's first process.
func systemctl(args []string) (int, error) {
	c, err := net.Dial("unix", filepath.Join(insideDir, controlName))
	if err != nil {
		return 1, err
	}
	defer func() { _ = c.Close() }() // the answer was read
	if err := json.NewEncoder(c).Encode(order{Args: args}); err != nil {
		return 1, err
	}
	var a answer
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		return 1, err
	}
	if a.Text != "" {
		return a.Code, errors.New(a.Text)
	}
	return a.Code, nil
}

// install is a package manager that can install docker.
func install(args []string) (int, error) {
	if slices.Contains(args, "install") && (slices.Contains(args, "docker.io") || slices.Contains(args, "docker")) {
		if err := os.Symlink(insideDir+"/stub", "/usr/bin/docker"); err != nil && !errors.Is(err, os.ErrExist) {
			return 1, err
		}
	}
	return 0, nil
}

// mountStub mounts what a file that stands for a disk holds: a folder that
// stays, provided that the disk has a file system. By label it finds nothing, as
// there are no real disks.
func mountStub(args []string) (int, error) {
	var words []string
	bind := false
	for i := 0; i < len(args); i++ {
		switch a := args[i]; a {
		case "-L":
			return 1, errors.New("no disk has this label")
		case "-o":
			i++
		case "--bind":
			bind = true
		default:
			words = append(words, a)
		}
	}
	if len(words) != 2 {
		return mountFailed, fmt.Errorf("want what and where, got %q", words)
	}
	from, to := words[0], words[1]
	if !bind {
		kind, err := exec.Command("/sbin/blkid", "-p", "-o", "value", "-s", "TYPE", from).Output()
		if err != nil || len(kind) == 0 {
			return mountFailed, fmt.Errorf("%s: wrong fs type, bad option, bad superblock", from)
		}
		from = filepath.Join(insideDir, "volumes", filepath.Base(from))
		if err := os.MkdirAll(from, 0o755); err != nil {
			return mountFailed, err
		}
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return mountFailed, fmt.Errorf("%s: %w", to, err)
	}
	return 0, nil
}

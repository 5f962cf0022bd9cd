//go:build unix

package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// place is where a service's file goes and how the system is told.
type place struct {
	path             string
	text             []byte
	install, removal [][]string
}

// placeOf describes a service for this system and user: root's are the whole
// system's, others' their own.
func placeOf(s Spec, goos string, uid int, home string) (place, error) {
	if home == "" && uid != 0 {
		return place{}, errors.New("this user has no home directory; install as root")
	}
	if goos == "darwin" {
		text, err := Launchd(s)
		p := place{path: filepath.Join("/Library/LaunchDaemons", s.Name+".plist"), text: text}
		domain := "system"
		if uid != 0 {
			p.path = filepath.Join(home, "Library/LaunchAgents", s.Name+".plist")
			domain = "gui/" + strconv.Itoa(uid)
		}
		p.install = [][]string{{"launchctl", "bootstrap", domain, p.path}}
		p.removal = [][]string{{"launchctl", "bootout", domain + "/" + s.Name}}
		return p, err
	}
	text, err := Systemd(s, uid != 0)
	p := place{path: filepath.Join("/etc/systemd/system", s.Name+".service"), text: text}
	ctl := []string{"systemctl"}
	if uid != 0 {
		p.path = filepath.Join(home, ".config/systemd/user", s.Name+".service")
		ctl = []string{"systemctl", "--user"}
	}
	order := func(words ...string) []string { return append(append([]string{}, ctl...), words...) }
	p.install = [][]string{order("daemon-reload"), order("enable", "--now", s.Name)}
	p.removal = [][]string{order("disable", "--now", s.Name), order("daemon-reload")}
	return p, err
}

// Render is the service's file for this system, and where it goes.
func Render(s Spec) (path string, text []byte, err error) {
	p, err := placeOf(s, runtime.GOOS, os.Getuid(), homeDir())
	return p.path, p.text, err
}

func homeDir() string {
	home, _ := os.UserHomeDir() // "" where there is none
	return home
}

// Install writes the service's file and starts the service; it is started
// again at each boot. Installing again replaces it.
func Install(ctx context.Context, s Spec) (path string, err error) {
	p, err := placeOf(s, runtime.GOOS, os.Getuid(), homeDir())
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(p.path), 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(p.path, p.text, 0o644); err != nil {
		return "", err
	}
	for _, words := range p.install {
		if err := order(ctx, words); err != nil {
			return "", fmt.Errorf("%s is written, but the service is not started: %w", p.path, err)
		}
	}
	return p.path, nil
}

// Uninstall stops the service and removes its file. That there is none is no
// error.
func Uninstall(ctx context.Context, s Spec) (path string, err error) {
	p, err := placeOf(s, runtime.GOOS, os.Getuid(), homeDir())
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(p.path); errors.Is(err, fs.ErrNotExist) {
		return p.path, nil
	}
	stop, rest := p.removal[0], p.removal[1:]
	if err := order(ctx, stop); err != nil {
		return "", err
	}
	if err := os.Remove(p.path); err != nil {
		return "", err
	}
	for _, words := range rest {
		if err := order(ctx, words); err != nil {
			return "", err
		}
	}
	return p.path, nil
}

// order runs a command of the system.
func order(ctx context.Context, words []string) error {
	out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

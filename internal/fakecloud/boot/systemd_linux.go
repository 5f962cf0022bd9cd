package boot

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	unitDir = "/etc/systemd/system"
	// exitUnknown is systemctl's code for a unit that is not there, exitInactive
	// that of is-active for one that does not run.
	exitUnknown  = 5
	exitInactive = 3
)

// unit is what of a systemd unit is understood: section to key to values.
type unit map[string]map[string][]string

func (u unit) get(section, key string) string {
	if v := u[section][key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// words are all values of a key that lists names.
func (u unit) words(section, key string) []string {
	return strings.Fields(strings.Join(u[section][key], " "))
}

// parseUnit reads a unit file.
func parseUnit(text string) (unit, error) {
	u := unit{}
	section := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[' && strings.HasSuffix(line, "]"):
			section = strings.Trim(line, "[]")
			u[section] = map[string][]string{}
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" {
				return nil, fmt.Errorf("line %d: %q is no setting", i+1, line)
			}
			u[section][key] = append(u[section][key], value)
		}
	}
	return u, nil
}

// running is one unit that was started.
type running struct {
	cmd     *exec.Cmd
	active  bool
	stopped bool
}

// manager starts and keeps units, as systemd does.
type manager struct {
	off     chan struct{}
	offOnce sync.Once

	mu    sync.Mutex
	units map[string]*running
}

func newManager() *manager {
	return &manager{off: make(chan struct{}), units: map[string]*running{}}
}

// order is what the stub of systemctl asks for, answer what it is told.
// Disk is another order: a disk to be plugged in.
type order struct {
	Args []string `json:"args"`
	Disk *plugged `json:"disk,omitempty"`
}

type answer struct {
	Code int    `json:"code"`
	Text string `json:"text"`
}

func (m *manager) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }() // it was answered
			var o order
			if json.NewDecoder(bufio.NewReader(c)).Decode(&o) != nil {
				return
			}
			a := answer{}
			if o.Disk == nil {
				a = m.order(o.Args)
			} else if err := o.Disk.in(); err != nil {
				a = answer{1, err.Error()}
			}
			_ = json.NewEncoder(c).Encode(a) // who asked may be gone
		}()
	}
}

func (m *manager) order(args []string) answer {
	var verb string
	var names []string
	now := false
	for _, a := range args {
		switch {
		case a == "--now":
			now = true
		case a == "--quiet" || a == "-q" || a == "--no-block":
		case strings.HasPrefix(a, "-"):
			return answer{1, "unknown option " + a}
		case verb == "":
			verb = a
		case strings.Contains(a, "."):
			names = append(names, a)
		default:
			names = append(names, a+".service")
		}
	}
	switch verb {
	case "daemon-reload":
		return answer{}
	case "poweroff", "halt":
		m.offOnce.Do(func() { close(m.off) })
		return answer{}
	case "enable", "start", "restart", "try-restart", "stop", "is-active", "disable":
	default:
		return answer{1, "unknown command " + verb}
	}
	for _, name := range names {
		var err error
		switch verb {
		case "enable":
			if err = m.enable(name); err == nil && now {
				err = m.start(name)
			}
		case "disable":
		case "start":
			err = m.start(name)
		case "stop":
			m.stop(name)
		case "restart":
			m.stop(name)
			err = m.start(name)
		case "try-restart":
			if m.active(name) {
				m.stop(name)
				err = m.start(name)
			}
		case "is-active":
			if !m.active(name) {
				return answer{exitInactive, "inactive"}
			}
		}
		if errors.Is(err, os.ErrNotExist) {
			return answer{exitUnknown, fmt.Sprintf("unit %s: %v", name, err)}
		}
		if err != nil {
			return answer{1, fmt.Sprintf("unit %s: %v", name, err)}
		}
	}
	return answer{}
}

// foreign are units of other programs, which are taken to be there.
func foreign(name string) bool {
	return slices.Contains([]string{"docker.service", "containerd.service", "network-online.target", "multi-user.target", "timers.target"}, name)
}

func load(name string) (unit, error) {
	text, err := os.ReadFile(filepath.Join(unitDir, name))
	if err != nil {
		return nil, err
	}
	return parseUnit(string(text))
}

func (m *manager) enable(name string) error {
	if foreign(name) {
		return nil
	}
	u, err := load(name)
	if err != nil {
		return err
	}
	targets := u.words("Install", "WantedBy")
	if len(targets) == 0 {
		return errors.New("has no [Install] section")
	}
	for _, target := range targets {
		dir := filepath.Join(unitDir, target+".wants")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join(unitDir, name), filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// startEnabled starts what is enabled, as a boot does: in the order their After
// lines ask for.
func (m *manager) startEnabled() {
	var names []string
	for _, target := range []string{"timers.target", "multi-user.target"} {
		entries, err := os.ReadDir(filepath.Join(unitDir, target+".wants"))
		if err != nil {
			continue // nothing is enabled there
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	started := map[string]bool{}
	var start func(name string)
	start = func(name string) {
		if started[name] {
			return
		}
		started[name] = true
		if u, err := load(name); err == nil {
			for _, first := range u.words("Unit", "After") {
				if slices.Contains(names, first) {
					start(first)
				}
			}
		}
		if err := m.start(name); err != nil {
			say("systemd: %s: %v", name, err)
		}
	}
	for _, name := range names {
		start(name)
	}
}

func (m *manager) active(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.units[name]
	return r != nil && r.active
}

// start starts a unit and what it requires.
func (m *manager) start(name string) error {
	if foreign(name) || m.active(name) {
		return nil
	}
	u, err := load(name)
	if err != nil {
		return err
	}
	for _, needed := range u.words("Unit", "Requires") {
		if err := m.start(needed); err != nil {
			return fmt.Errorf("dependency failed: %s: %w", needed, err)
		}
	}
	if strings.HasSuffix(name, ".timer") {
		return m.arm(name, u)
	}
	cmd, err := serviceOf(u)
	if err != nil {
		return err
	}
	if u.get("Service", "Type") == "oneshot" {
		if err := cmd.Run(); err != nil {
			return err
		}
		m.put(name, &running{active: u.get("Service", "RemainAfterExit") == "yes"})
		return nil
	}
	r := &running{cmd: cmd}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.active = true
	m.put(name, r)
	go m.keep(name, u, r)
	return nil
}

func (m *manager) put(name string, r *running) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.units[name] = r
}

// keep waits for a service's end and starts it again if its unit says so.
func (m *manager) keep(name string, u unit, r *running) {
	err := r.cmd.Wait()
	m.mu.Lock()
	r.active = false
	stopped := r.stopped
	m.mu.Unlock()
	if stopped {
		return
	}
	say("systemd: %s ended: %v", name, err)
	if u.get("Service", "Restart") != "always" {
		return
	}
	pause, perr := strconv.ParseFloat(u.get("Service", "RestartSec"), 64)
	if perr != nil {
		pause = 0.1
	}
	timer := time.NewTimer(time.Duration(pause * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-timer.C:
		if err := m.start(name); err != nil {
			say("systemd: %s: %v", name, err)
		}
	case <-m.off:
	}
}

func (m *manager) stop(name string) {
	m.mu.Lock()
	r := m.units[name]
	if r == nil || r.cmd == nil || !r.active {
		m.mu.Unlock()
		return
	}
	r.stopped = true
	m.mu.Unlock()
	_ = r.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	for range 500 {
		if !m.active(name) {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	_ = r.cmd.Process.Kill() // likewise
}

// arm waits for a timer's time; a time that has passed is now if the timer is
// persistent.
func (m *manager) arm(name string, u unit) error {
	at, err := time.Parse("2006-01-02 15:04:05 UTC", u.get("Timer", "OnCalendar"))
	if err != nil {
		return fmt.Errorf("OnCalendar is not understood here: %w", err)
	}
	wait := time.Until(at)
	if wait < 0 && u.get("Timer", "Persistent") != "true" {
		return nil
	}
	m.put(name, &running{active: true})
	service := strings.TrimSuffix(name, ".timer") + ".service"
	go func() {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			if err := m.start(service); err != nil {
				say("systemd: %s: %v", service, err)
			}
		case <-m.off:
		}
	}()
	return nil
}

// serviceOf is what a service runs.
func serviceOf(u unit) (*exec.Cmd, error) {
	words := u.words("Service", "ExecStart")
	if len(words) == 0 {
		return nil, errors.New("has no ExecStart")
	}
	if !filepath.IsAbs(words[0]) {
		return nil, fmt.Errorf("ExecStart %q is no absolute path", words[0])
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = []string{"PATH=" + searchPath}
	for _, v := range u["Service"]["Environment"] {
		cmd.Env = append(cmd.Env, strings.Trim(v, `"`))
	}
	cmd.Dir = "/"
	if dir := u.get("Service", "WorkingDirectory"); dir != "" {
		cmd.Dir = dir
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if cmd.Stdout, err = appendTo(u.get("Service", "StandardOutput")); err != nil {
		return nil, err
	}
	if cmd.Stderr, err = appendTo(u.get("Service", "StandardError")); err != nil {
		return nil, err
	}
	return cmd, nil
}

// appendTo opens the file of "append:FILE"; other ways go nowhere here.
func appendTo(how string) (io.Writer, error) {
	name, ok := strings.CutPrefix(how, "append:")
	if !ok {
		return io.Discard, nil
	}
	return os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
}

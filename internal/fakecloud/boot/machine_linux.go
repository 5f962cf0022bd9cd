package boot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options are what a machine is made of.
type Options struct {
	// UserData is what the cloud hands to cloud-init: a cloud-config or a script,
	// packed or not.
	UserData []byte
	// Served are the addresses that answer, and the files of this host they
	// answer with. An empty file name is an address that answers 404; a host none
	// of whose addresses is here does not exist.
	Served map[string]string
	// Disks are device paths in the machine and the files of this host behind
	// them.
	Disks map[string]string
	// Volumes are folders of this host that keep what disks hold, by device path.
	// What others hold goes with the machine.
	Volumes map[string]string
	// Store is a folder of this host with the folders of disks that the machine
	// may be given while it runs, see [Machine.Attach]; "" for none.
	Store string
	// Dnf makes the machine one with dnf instead of apt-get.
	Dnf bool
	// Docker says that the image brings docker; else it is there once a package
	// manager has installed it.
	Docker bool
	// NoPauses makes sleep a stub that returns at once, so that a script that
	// tries again and again is soon through; Calls has how long it would have
	// slept.
	NoPauses bool
}

// Call is one call of a stub.
type Call struct {
	// Program is the stub's name, Args what it was given.
	Program string   `json:"program"`
	Args    []string `json:"args"`
	// Proxy is what curl and wget would have gone through, "" for nothing.
	Proxy string `json:"proxy,omitempty"`
}

// String gives the call as it would be typed.
func (c Call) String() string { return strings.Join(append([]string{c.Program}, c.Args...), " ") }

// Machine is one sandbox. Its methods are safe for concurrent use, except that
// Reboot and Stop are for one caller at a time.
type Machine struct {
	base string

	mu    sync.Mutex
	init  *exec.Cmd
	hold  io.Closer
	ended chan struct{}
}

// ErrUnsupported is a host that lets nobody make such a sandbox.
var ErrUnsupported = errors.New("this host allows no namespaces")

// Names below a machine's folder, and the same inside the machine.
const (
	rootName     = "root"
	upperName    = "usr"
	localName    = "local"
	workName     = "work"
	insideDir    = "/sandbox"
	controlName  = "control.sock"
	agentName    = "agent.sock"
	callsName    = "calls"
	consoleName  = "console"
	resultName   = "result"
	userDataName = "user-data"
	planName     = "plan.json"
)

// plan is what the first process needs to know beside the user data.
type plan struct {
	Served map[string]string `json:"served"`
	Disks  map[string]string `json:"disks"`
	// Volumes are folders of the host, by the name of the file behind a disk.
	Volumes map[string]string `json:"volumes"`
	// Store is bound into the machine, if there is one.
	Store string `json:"store,omitempty"`
	// Hidden are programs of the host that the machine lacks.
	Hidden []string `json:"hidden"`
}

// Start makes a machine and boots it. It returns when its first process runs;
// see Booted for the end of the boot script. Stop it when it is not needed.
func Start(ctx context.Context, o Options) (*Machine, error) {
	base, err := os.MkdirTemp("", "boot")
	if err != nil {
		return nil, fmt.Errorf("make machine: %w", err)
	}
	m := &Machine{base: base}
	if err := m.furnish(o); err != nil {
		return nil, errors.Join(fmt.Errorf("make machine: %w", err), os.RemoveAll(base))
	}
	if err := m.run(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(base))
	}
	return m, nil
}

func (m *Machine) inside(name string) string {
	return filepath.Join(m.base, rootName, insideDir, name)
}

// furnish makes the folders of a machine: its root, and what lies over the
// host's /usr.
func (m *Machine) furnish(o Options) error {
	for _, dir := range []string{
		upperName + "/bin", upperName + "/sbin", upperName + "/local", localName, workName,
		"root/etc", "root/root", "root/var/log", "root/var/tmp", "root/var/lib", "root/run", "root/tmp", "root/proc", "root/dev", "root/usr", "root/mnt",
		"root/old", "root/etc/ssl/certs", "root" + insideDir + "/files", "root" + insideDir + "/volumes",
	} {
		if err := os.MkdirAll(filepath.Join(m.base, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(m.base, 0o711); err != nil {
		return err
	}
	stubs := []string{"curl", "wget", "systemctl", "ufw", "shutdown", "mount"}
	hidden := []string{"dnf", "yum", "restorecon"}
	if o.Dnf {
		stubs, hidden = append(stubs, "dnf"), []string{"apt-get", "yum", "restorecon"}
	} else {
		stubs = append(stubs, "apt-get")
	}
	if o.Docker {
		stubs = append(stubs, "docker")
	} else {
		hidden = append(hidden, "docker")
	}
	if o.NoPauses {
		stubs = append(stubs, "sleep")
	}
	for _, name := range stubs {
		for _, dir := range []string{"bin", "sbin"} {
			if err := os.Symlink(insideDir+"/stub", filepath.Join(m.base, upperName, dir, name)); err != nil {
				return err
			}
		}
	}
	p := plan{Served: map[string]string{}, Disks: map[string]string{}, Volumes: map[string]string{}, Store: o.Store, Hidden: hidden}
	for url, file := range o.Served {
		if file == "" {
			p.Served[url] = ""
			continue
		}
		name, err := m.take(file, len(p.Served))
		if err != nil {
			return err
		}
		p.Served[url] = name
	}
	for device, file := range o.Disks {
		name, err := m.take(file, len(o.Served)+len(p.Disks))
		if err != nil {
			return err
		}
		p.Disks[device] = name
		if folder := o.Volumes[device]; folder != "" {
			p.Volumes[filepath.Base(name)] = folder
		}
	}
	if err := m.writePlan(p); err != nil {
		return err
	}
	if err := os.WriteFile(m.inside("stub"), nil, 0o755); err != nil { // the program is mounted on it
		return err
	}
	return os.WriteFile(m.inside(userDataName), o.UserData, 0o600)
}

// writePlan puts the plan in place of an earlier one, which others may be
// reading.
func (m *Machine) writePlan(p plan) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.inside(planName+".new"), text, 0o600); err != nil {
		return err
	}
	return os.Rename(m.inside(planName+".new"), m.inside(planName))
}

// Attach gives the machine one more disk, as a cloud does that plugs it in: it
// shows at the device path at once, if the machine runs, and at every boot. File
// is what is behind it, folder what keeps what it holds, a folder directly in
// Options.Store. Not for a frozen machine, nor beside Reboot.
func (m *Machine) Attach(ctx context.Context, device, file, folder string) error {
	if err := m.attach(ctx, device, file, folder); err != nil {
		return fmt.Errorf("attach %s: %w", device, err)
	}
	return nil
}

func (m *Machine) attach(ctx context.Context, device, file, folder string) error {
	text, err := os.ReadFile(m.inside(planName))
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	if p.Disks[device] != "" {
		return errors.New("there is a disk already")
	}
	if p.Store == "" || filepath.Dir(folder) != filepath.Clean(p.Store) {
		return fmt.Errorf("folder %s is not in the machine's store %q", folder, p.Store)
	}
	name, err := m.take(file, len(p.Served)+len(p.Disks))
	if err != nil {
		return err
	}
	p.Disks[device], p.Volumes[filepath.Base(name)] = name, folder
	if err := m.writePlan(p); err != nil {
		return err
	}
	select {
	case <-m.Off():
		return nil // it shows at the next boot
	default:
	}
	return m.ask(ctx, order{Disk: &plugged{Device: device, File: name, Folder: filepath.Base(folder)}})
}

// ask has the first process carry out an order.
func (m *Machine) ask(ctx context.Context, o order) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", m.inside(controlName))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // the answer was read
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if err := json.NewEncoder(c).Encode(o); err != nil {
		return err
	}
	var a answer
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		return err
	}
	if a.Code != 0 {
		return errors.New(a.Text)
	}
	return nil
}

// take brings a file of the host into the machine: the same file if that is
// possible, so that a test sees what becomes of a disk.
func (m *Machine) take(file string, n int) (string, error) {
	inside := filepath.Join(insideDir, "files", strconv.Itoa(n))
	dst := filepath.Join(m.base, rootName, inside)
	if err := os.Link(file, dst); err == nil {
		return inside, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return inside, os.WriteFile(dst, raw, 0o755)
}

// run starts the first process.
func (m *Machine) run(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	for _, name := range []string{resultName, controlName, agentName} {
		if err := os.Remove(m.inside(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("start machine: %w", err)
		}
	}
	// The machine outlives ctx's end; it ends with this process, whose pipe it
	// reads, or by Stop.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self)
	cmd.Args[0] = initName
	cmd.Env = []string{baseVariable + "=" + m.base, "PATH=" + searchPath, "HOME=/root"}
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &words, &words
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true,
	}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	hold, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("start machine: %w: %w", ErrUnsupported, err)
		}
		return fmt.Errorf("start machine: %w", err)
	}
	ended := make(chan struct{})
	m.mu.Lock()
	m.init, m.hold, m.ended = cmd, hold, ended
	m.mu.Unlock()
	var left error
	go func() { // ended by the process's end, which Stop waits for
		defer close(ended)
		left = cmd.Wait()
	}()
	if err := m.poll(ctx, func() (bool, error) {
		select {
		case <-ended:
			err := fmt.Errorf("start machine: its first process ended: %w: %s", left, bytes.TrimSpace(words.Bytes()))
			if cmd.ProcessState.ExitCode() == exitForbidden {
				err = fmt.Errorf("%w: %w", ErrUnsupported, err)
			}
			return false, err
		default:
		}
		_, err := os.Stat(m.inside(controlName))
		return err == nil, nil
	}); err != nil {
		return errors.Join(err, m.halt())
	}
	return nil
}

// poll asks until it is answered yes or with an error, or ctx ends.
func (m *Machine) poll(ctx context.Context, ask func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// halt cuts the power.
func (m *Machine) halt() error {
	m.mu.Lock()
	cmd, hold, ended := m.init, m.hold, m.ended
	m.mu.Unlock()
	err := cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-ended
	if cerr := hold.Close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}

// PowerOff cuts the power. Reboot boots it again, with its disks as they are.
func (m *Machine) PowerOff() error { return m.halt() }

// Stop ends the machine and removes it.
func (m *Machine) Stop() error { return errors.Join(m.halt(), os.RemoveAll(m.base)) }

// Reboot cuts the power and boots again: what runs at each boot runs, what
// runs once does not, memory and /run and /tmp are empty.
func (m *Machine) Reboot(ctx context.Context) error {
	if err := m.halt(); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return m.run(ctx)
}

// Off is closed when the machine has ended, by itself or by Stop.
func (m *Machine) Off() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended
}

// Booted waits for the end of the boot data's commands, or of those of each
// boot after a Reboot, and returns what went wrong with them.
func (m *Machine) Booted(ctx context.Context) error {
	var said string
	err := m.poll(ctx, func() (bool, error) {
		text, err := os.ReadFile(m.inside(resultName))
		said = string(text)
		if err == nil {
			return true, nil
		}
		select {
		case <-m.Off():
			return false, errors.New("the machine ended")
		default:
			return false, nil
		}
	})
	if err == nil && said != "" {
		err = errors.New(said)
	}
	return err
}

// Console is what was written to the machine's console so far, over all boots.
func (m *Machine) Console() string {
	text, err := os.ReadFile(m.inside(consoleName))
	if err != nil {
		return "" // nothing was written yet
	}
	return string(text)
}

// Calls are the calls of stubs so far, over all boots.
func (m *Machine) Calls() ([]Call, error) {
	text, err := os.ReadFile(m.inside(callsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var calls []Call
	dec := json.NewDecoder(bytes.NewReader(text))
	for dec.More() {
		var c Call
		if err := dec.Decode(&c); err != nil {
			return calls, fmt.Errorf("calls: %w", err)
		}
		calls = append(calls, c)
	}
	return calls, nil
}

// File reads one of the machine's files, with its mode.
func (m *Machine) File(name string) ([]byte, fs.FileMode, error) {
	if rest, ok := strings.CutPrefix(name, "/usr/local/"); ok {
		name = filepath.Join(m.base, localName, rest)
	} else if rest, ok := strings.CutPrefix(name, "/usr/"); ok {
		name = filepath.Join(m.base, upperName, rest)
	} else {
		name = filepath.Join(m.base, rootName, name)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	text, err := os.ReadFile(name)
	return text, info.Mode(), err
}

// Dial connects to the agent's port.
func (m *Machine) Dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", m.inside(agentName))
}

// Kill ends all processes of a program in the machine, as if it had crashed.
func (m *Machine) Kill(program string) error {
	m.mu.Lock()
	pid := m.init.Process.Pid
	m.mu.Unlock()
	mine, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return fmt.Errorf("kill %s: %w", program, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("kill %s: %w", program, err)
	}
	killed := 0
	for _, e := range entries {
		ns, err := os.Readlink("/proc/" + e.Name() + "/ns/pid")
		if err != nil || ns != mine {
			continue // no process, or one of another machine
		}
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		name, _, _ := strings.Cut(string(line), "\x00")
		other, nerr := strconv.Atoi(e.Name())
		if err != nil || nerr != nil || other == pid || filepath.Base(name) != program {
			continue
		}
		if err := syscall.Kill(other, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill %s: %w", program, err)
		}
		killed++
	}
	if killed == 0 {
		return fmt.Errorf("kill %s: it does not run", program)
	}
	return nil
}

package noop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// processes is the pretend cloud whose machines are child processes. All
// state is on disk, so drivers of several runner processes, and of one after
// the other, see the same machines.
type processes struct {
	root     string
	poolDir  string
	cfg      Config
	binary   string
	stepTime time.Duration
	log      drivers.Logger
}

func newProcesses(root string, o drivers.Options, cfg Config, s Setup) (cloud, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("%w: data directory %q is not absolute", drivers.ErrInvalid, o.DataDir)
	}
	p := &processes{
		root: root, poolDir: filepath.Join(root, dirName(o.Pool)),
		cfg: cfg, binary: s.Binary, stepTime: s.StepTime, log: o.Log,
	}
	if p.binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the running program: %w", err)
		}
		p.binary = exe
	}
	return p, nil
}

// ping proves that the directory can be written and the program run.
func (p *processes) ping(context.Context) error {
	if err := os.MkdirAll(p.poolDir, 0o700); err != nil {
		return fmt.Errorf("make the directory of machines: %w", err)
	}
	if _, err := exec.LookPath(p.binary); err != nil {
		return fmt.Errorf("%w: the program of a machine: %w", drivers.ErrInvalid, err)
	}
	p.sweepDrafts()
	return nil
}

// sweepDrafts removes what crashes have left: directories that never became
// machines, and ones that are none any more.
func (p *processes) sweepDrafts() {
	entries, err := os.ReadDir(p.poolDir)
	if err != nil {
		return // the next call that needs the directory says so
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), draftPrefix) && !strings.HasPrefix(e.Name(), gonePrefix) {
			continue
		}
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < draftAge {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.poolDir, e.Name())); err != nil {
			p.log.Warn("leftover of a machine stays", "path", e.Name(), "err", err)
		}
	}
}

func ref(name string) drivers.Ref { return drivers.Ref{Name: name, ID: "noop-" + name} }

// dir is where a machine lives: in this pool, or in another one of the scope.
func (p *processes) dir(name string) (string, bool, error) {
	own := filepath.Join(p.poolDir, name)
	if _, err := os.Stat(own); err == nil {
		return own, true, nil
	}
	pools, err := os.ReadDir(p.root)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	for _, pool := range pools {
		if strings.HasPrefix(pool.Name(), ".") {
			continue
		}
		dir := filepath.Join(p.root, pool.Name(), name)
		if _, err := os.Stat(dir); err == nil {
			return dir, true, nil
		}
	}
	return "", false, nil
}

func (p *processes) exists(name string) (bool, error) {
	_, ok, err := p.dir(name)
	return ok, err
}

// create also finishes what a crash between directory and process has left.
func (p *processes) create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	dir, ok, err := p.dir(spec.Name)
	if err != nil {
		return drivers.Ref{}, err
	}
	if !ok {
		dir = filepath.Join(p.poolDir, spec.Name)
		if err := p.onShelf(ctx, len(spec.Disks) > 0, func(s shelf) error { return s.attach(spec, p.there) }); err != nil {
			return drivers.Ref{}, err
		}
		if err := p.reserve(ctx, dir, spec); err != nil {
			return drivers.Ref{}, err
		}
	}
	if err := p.start(ctx, dir, spec.Identity); err != nil {
		return drivers.Ref{}, fmt.Errorf("start the process: %w", err)
	}
	return ref(spec.Name), nil
}

// reserve makes the directory, unless it exists, within the pool's capacity.
func (p *processes) reserve(ctx context.Context, dir string, spec drivers.Spec) error {
	if err := os.MkdirAll(p.poolDir, 0o700); err != nil {
		return err
	}
	lock, err := lockPath(ctx, filepath.Join(p.poolDir, ".lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	entries, err := os.ReadDir(p.poolDir)
	if err != nil {
		return err
	}
	n := 0
	for _, e := range entries {
		if e.Name() == spec.Name {
			return nil
		}
		if !strings.HasPrefix(e.Name(), ".") {
			n++
		}
	}
	if p.cfg.Capacity > 0 && n >= p.cfg.Capacity {
		return full(n, p.cfg.Capacity)
	}
	draft, err := os.MkdirTemp(p.poolDir, draftPrefix)
	if err != nil {
		return err
	}
	err = writeJSON(filepath.Join(draft, metaFile), meta{
		Name: spec.Name, Tags: spec.Tags, BootDelay: p.cfg.BootDelay, StepTime: p.stepTime,
	})
	if err == nil {
		err = os.Rename(draft, dir)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(draft))
	}
	return nil
}

// start gives the directory its process, once: whoever gets the lock first
// starts it and hands it the lock, others find its state.
func (p *processes) start(ctx context.Context, dir string, id drivers.Identity) error {
	for {
		var s state
		if err := readJSON(filepath.Join(dir, stateFile), &s); err == nil {
			return nil
		}
		f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		err = flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			// Between the look and the lock another may have been through.
			if err := readJSON(filepath.Join(dir, stateFile), &s); err == nil {
				return f.Close()
			}
			return errors.Join(p.launch(ctx, dir, f, id), f.Close())
		}
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if err := wait(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// startMessage is all a child is told beside its directory. It goes through a
// pipe and is never written to disk.
type startMessage struct {
	Identity drivers.Identity `json:"identity"`
}

// launch runs the child until it says that it is there. If it cannot be, the
// directory goes, and the process with it; if ctx ends before, both stay.
func (p *processes) launch(ctx context.Context, dir string, lock *os.File, id drivers.Identity) (err error) {
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = errors.Join(err, discard(dir))
		}
	}()
	console, err := os.OpenFile(filepath.Join(dir, consoleFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	input, err := json.Marshal(startMessage{Identity: id})
	if err != nil {
		readyChild.Close()
		return err
	}

	// Not CommandContext: the machine outlives the call that made it.
	cmd := exec.Command(p.binary, "noop-machine", "--dir", dir)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{lock, readyChild} // descriptors 3 and 4
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		readyChild.Close()
		return err
	}
	err = cmd.Start()
	readyChild.Close()
	if err != nil {
		return err
	}
	// Reaps the child when it ends, which may be long after the call; it ends
	// with this process otherwise.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // how it ended is of no interest, that it has is seen by its lock
	}()

	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err = stdin.Write(append(input, '\n'))
	if err = errors.Join(err, stdin.Close()); errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
		// It has ended, and Wait may have closed the pipe already; its answer
		// says why.
		err = nil
	}
	if err == nil {
		var line string
		if line, err = bufio.NewReader(ready).ReadString('\n'); err == nil && line != "ok\n" {
			err = errors.New(strings.TrimSpace(line))
		}
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		// What the cloud has begun it finishes, and lists. Taking it back could
		// take it from another process that has asked for the same machine
		// while this one was stopped.
		return ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("it ended at once: %s", lastLine(filepath.Join(dir, consoleFile)))
	}
	err = errors.Join(err, ignoreDone(cmd.Process.Kill()))
	<-ended // at once, and then nobody writes to the directory any more
	return err
}

func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func lastLine(path string) string {
	data, _ := os.ReadFile(path) // nothing to add if it cannot be read
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}

// discard takes a directory out of the list at once, then removes it.
func discard(dir string) error {
	gone, err := os.MkdirTemp(filepath.Dir(dir), gonePrefix)
	if err != nil {
		return err
	}
	err = os.Rename(dir, filepath.Join(gone, "machine"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(gone))
}

func (p *processes) stopping(string) {}

// killAgain is how often a process is told to go until it has.
const killAgain = 200 * time.Millisecond

func (p *processes) destroy(ctx context.Context, name string, o drivers.DiskPolicy) error {
	dir, ok, err := p.dir(name)
	if err != nil || !ok {
		return err
	}
	err = p.signalUntil(ctx, dir, syscall.SIGKILL, func(s state, live bool) bool { return !live })
	if err != nil {
		return err
	}
	if err := discard(dir); err != nil {
		return err
	}
	return p.onShelf(ctx, p.hasDisks(), func(s shelf) error {
		s.detach(name, o)
		return nil
	})
}

// signalUntil sends a signal to the machine's process, again and again, until
// done says so of its state and life.
func (p *processes) signalUntil(ctx context.Context, dir string, sig syscall.Signal, done func(s state, live bool) bool) error {
	var last time.Time
	for {
		live, err := alive(dir)
		if err != nil {
			return err
		}
		var s state
		err = readJSON(filepath.Join(dir, stateFile), &s)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if done(s, live) {
			return nil
		}
		if !live {
			return errors.New("the process of the machine is gone")
		}
		if s.PID > 0 && time.Since(last) >= killAgain {
			if err := signalProcess(dir, s.PID, sig); err != nil {
				return fmt.Errorf("signal process %d: %w", s.PID, err)
			}
			last = time.Now()
		}
		if err := wait(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// signalProcess reaches the process that holds the lock, or nobody. The handle is
// taken first and the lock looked at after: a number cannot be another
// process's while its first owner still lives.
func signalProcess(dir string, pid int, sig syscall.Signal) error {
	proc, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer proc.Release()
	if live, err := alive(dir); err != nil || !live {
		return err
	}
	return ignoreDone(proc.Signal(sig))
}

func (p *processes) list(context.Context) ([]drivers.Instance, error) {
	pools, err := os.ReadDir(p.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []drivers.Instance
	for _, pool := range pools {
		if !pool.IsDir() || strings.HasPrefix(pool.Name(), ".") {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(p.root, pool.Name()))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				continue
			}
			inst, err := inspect(filepath.Join(p.root, pool.Name(), e.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue // destroyed while we looked
			}
			if err != nil {
				return nil, err
			}
			all = append(all, inst)
		}
	}
	slices.SortFunc(all, func(a, b drivers.Instance) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// startGrace is how long a machine may be without a process before it counts
// as dead: far longer than a start takes on a busy host.
const startGrace = time.Minute

func inspect(dir string) (drivers.Instance, error) {
	var m meta
	if err := readJSON(filepath.Join(dir, metaFile), &m); err != nil {
		return drivers.Instance{}, err
	}
	inst := drivers.Instance{Ref: ref(m.Name), Tags: m.Tags}
	live, err := alive(dir)
	if err != nil {
		return drivers.Instance{}, err
	}
	var s state
	err = readJSON(filepath.Join(dir, stateFile), &s)
	switch {
	case errors.Is(err, fs.ErrNotExist) && live:
		inst.Status = drivers.StatusPending
		return inst, nil
	case errors.Is(err, fs.ErrNotExist):
		// Its maker is about to start the process, or has died before it could.
		// The directory itself may also have gone by now.
		info, err := os.Stat(filepath.Join(dir, metaFile))
		if err != nil {
			return drivers.Instance{}, err
		}
		inst.Status = drivers.StatusPending
		if time.Since(info.ModTime()) > startGrace {
			inst.Status, inst.Reason = drivers.StatusDead, "its process was never started"
		}
		return inst, nil
	case err != nil:
		return drivers.Instance{}, err
	}
	inst.Address, inst.Port = s.Address, s.Port
	switch {
	case !live:
		inst.Status, inst.Reason = drivers.StatusDead, fmt.Sprintf("process %d has ended", s.PID)
	case s.Phase == phaseBooting:
		inst.Status, inst.Address, inst.Port = drivers.StatusPending, "", 0
	case s.Phase == phaseRunning:
		inst.Status = drivers.StatusRunning
	case s.Phase == phaseSuspended:
		inst.Status = drivers.StatusSuspended
	default:
		inst.Status = drivers.StatusUnknown
	}
	return inst, nil
}

// existing is the directory of a machine that must be there.
func (p *processes) existing(name string) (string, error) {
	dir, ok, err := p.dir(name)
	if err == nil && !ok {
		err = fmt.Errorf("%w: no machine %s", drivers.ErrNotFound, name)
	}
	return dir, err
}

func (p *processes) find(name string) (drivers.Instance, error) {
	dir, err := p.existing(name)
	if err != nil {
		return drivers.Instance{}, err
	}
	inst, err := inspect(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %s was destroyed while we looked", drivers.ErrNotFound, name)
	}
	return inst, err
}

func (p *processes) suspend(ctx context.Context, name string) error {
	dir, err := p.existing(name)
	if err != nil {
		return err
	}
	return p.signalUntil(ctx, dir, syscall.SIGUSR1, func(s state, live bool) bool { return live && s.Phase == phaseSuspended })
}

func (p *processes) resume(ctx context.Context, name string) (drivers.Instance, error) {
	dir, err := p.existing(name)
	if err != nil {
		return drivers.Instance{}, err
	}
	err = p.signalUntil(ctx, dir, syscall.SIGUSR2, func(s state, live bool) bool { return live && s.Phase == phaseRunning })
	if err != nil {
		return drivers.Instance{}, err
	}
	return inspect(dir)
}

func (p *processes) console(name string) (io.ReadCloser, error) {
	dir, err := p.existing(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, consoleFile))
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(strings.NewReader("")), nil // never started
	}
	return f, err
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// target is everything one step has started: its session, and what left the
// session, known by its descent or by the marker, a variable ("NAME=value") of the
// step's environment that no other step has. On Windows it is what is in the job.
type target struct {
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"`
	Marker string `json:"marker"`
	// job is nil of what an earlier run has started, and where there is none.
	job *job
}

// process is a running host process with its output.
type process struct {
	cmd    *exec.Cmd
	target target
	out    *os.File // read end of stdout and stderr, which are one pipe
	pumped chan struct{}
}

// startOptions is what a host process is started with.
type startOptions struct {
	args   []string
	dir    string
	env    []string
	user   string
	marker string
	sink   io.Writer
}

// etxtbsyTries and etxtbsyPause bound the wait for a script that a process
// forked at the same moment still has open for writing.
const (
	etxtbsyTries = 20
	etxtbsyPause = 20 * time.Millisecond
)

// startProcess starts a host process in a session of its own and pumps what it
// prints into sink. The errors have the texts callers know.
func startProcess(ctx context.Context, spawn Spawner, o startOptions) (*process, error) {
	if o.dir != "" {
		if err := checkDir(o.dir); err != nil {
			return nil, err
		}
	}
	path, err := findProgram(o.args[0], o.env)
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	var cmd *exec.Cmd
	for try := 1; ; try++ {
		cmd = &exec.Cmd{Path: path, Args: o.args, Dir: o.dir, Env: o.env, Stdout: in, Stderr: in, SysProcAttr: sessionAttr(o.user)}
		err = spawn.Start(cmd)
		if err == nil || !isTextBusy(err) || try == etxtbsyTries {
			break
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), out.Close(), in.Close())
		case <-time.After(etxtbsyPause):
		}
	}
	closeErr := in.Close()
	if err != nil {
		return nil, errors.Join(err, closeErr, out.Close())
	}
	confined, err := confine(cmd.Process)
	if err != nil {
		err = errors.Join(err, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		spawn.Exited(cmd)
		return nil, errors.Join(err, out.Close())
	}
	p := &process{
		cmd:    cmd,
		target: target{PID: cmd.Process.Pid, Start: startTime(cmd.Process.Pid), Marker: o.marker, job: confined},
		out:    out,
		pumped: make(chan struct{}),
	}
	go p.pump(o.sink)
	return p, nil
}

// pump copies until the pipe ends, or until settle says that the process has.
func (p *process) pump(sink io.Writer) {
	defer close(p.pumped)
	buf := make([]byte, 32<<10)
	for {
		n, err := p.out.Read(buf)
		_, _ = sink.Write(buf[:n]) // an output never fails
		if errors.Is(err, os.ErrDeadlineExceeded) {
			drainPipe(p.out, sink, buf)
			return
		}
		if err != nil {
			return
		}
	}
}

// wait returns when the process has ended and all it printed is in the sink.
// Children it left behind may still have the pipe open; they are not waited
// for, and what they print from now on is dropped, by a goroutine that ends
// with them.
func (p *process) wait(spawn Spawner) error {
	err := p.cmd.Wait()
	spawn.Exited(p.cmd)
	settlePipe(p.out, p.pumped)
	go func() {
		<-p.pumped
		_ = p.out.SetReadDeadline(time.Time{}) // pipes without deadlines have none to clear
		_, _ = io.Copy(io.Discard, p.out)      // ends with the last writer
		_ = p.out.Close()                      // only read from
	}()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil // the code says it
	}
	return err
}

// exitCode is the process's own, -1 if a signal ended it. Only after wait.
func (p *process) exitCode() int { return p.cmd.ProcessState.ExitCode() }

// checkDir says in callers' words why dir cannot be a working directory.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return &fs.PathError{Op: "chdir", Path: dir, Err: err}
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "chdir", Path: dir, Err: errNotDir}
	}
	return nil
}

// findProgram looks a bare name up in the step's own PATH, then in the agent's.
func findProgram(name string, env []string) (string, error) {
	if strings.ContainsAny(name, `/\`) {
		return name, nil
	}
	for _, dir := range filepath.SplitList(lookup(env, "PATH")) {
		if dir == "" {
			continue
		}
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return "", err
	}
	return path, nil
}

// killPolicy is how a process is asked to end before it is made to.
type killPolicy struct {
	terms    int
	interval time.Duration
}

// defaultGrace is how long a process may take to end on TERM. The answer to a
// step's timeout is due within a second, so the grace must be less.
const defaultGrace = 500 * time.Millisecond

// maxGrace bounds what a caller may ask for.
const maxGrace = 30 * time.Second

// newKillPolicy reads the caller's wish. Without one: one TERM, half a second.
func newKillPolicy(c agentapi.ProcessConfig) killPolicy {
	if !c.KillProcessOnContextCancel {
		return killPolicy{terms: 1, interval: defaultGrace}
	}
	if c.KillProcessMaxSigtermAttempts <= 0 {
		return killPolicy{}
	}
	interval := time.Duration(max(0, min(c.KillProcessRetryIntervalSecs, int(maxGrace/time.Second)))) * time.Second
	if interval == 0 {
		interval = defaultGrace
	}
	terms := min(c.KillProcessMaxSigtermAttempts, max(1, int(maxGrace/interval)))
	return killPolicy{terms: terms, interval: interval}
}

// killPause is the wait between two looks at dying processes.
const killPause = 15 * time.Millisecond

// killTime bounds how long KILL is sent to targets that keep forking, or that the
// kernel does not let go. On an overloaded host a killed process takes seconds to
// get the time it needs to end.
const killTime = 10 * time.Second

// terminate ends everything the targets have started, politely as p says and
// then by force. It returns an error only if something is left.
func terminate(targets []target, p killPolicy) error {
	if len(targets) == 0 {
		return nil
	}
	for range p.terms {
		if signalAll(targets, false) == 0 {
			return nil
		}
		for until := time.Now().Add(p.interval); time.Now().Before(until); {
			<-time.After(killPause)
			if countAlive(targets) == 0 {
				return nil
			}
		}
	}
	for until := time.Now().Add(killTime); ; {
		left := signalAll(targets, true)
		if left == 0 {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("%d processes are still there after KILL", left)
		}
		<-time.After(killPause)
	}
}

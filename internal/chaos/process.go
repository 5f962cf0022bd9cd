package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/client"
)

// process is one runner: a data directory, an address, and the process that
// serves it now, if any. It is used by one goroutine; only api may be called by
// any.
type process struct {
	binary string
	dir    string
	addr   string
	env    []string
	api    *client.Client
	log    *os.File

	cmd  *exec.Cmd
	exit chan error
}

// newProcess prepares a runner on a data directory that holds a pool file.
func newProcess(binary, dir, logFile string, env []string) (*process, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	api, err := client.New("http://" + addr)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &process{binary: binary, dir: dir, addr: addr, env: env, api: api, log: log}, nil
}

// freeAddress is an address that the runner can have again after each restart.
// Its port is none that the kernel gives to connections: a caller that knocks
// while the runner is down could be given the very port, connect to itself,
// and keep the runner out.
func freeAddress() (string, error) {
	const first, ports = 20_000, 12_000
	var last error
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(ports))
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, l.Close()
		}
		last = err
	}
	return "", fmt.Errorf("find a port: %w", last)
}

// launch starts the program. It does not wait for anything.
func (p *process) launch() error {
	// Not CommandContext: how and when it ends is what a mode decides.
	cmd := exec.Command(p.binary, "delegate", "--pool", filepath.Join(p.dir, "pool.yml"), "--data-dir", p.dir)
	cmd.Dir = p.dir
	cmd.Env = append(bare(os.Environ()), append([]string{"DRONE_HTTP_BIND=" + p.addr, "GORACE=exitcode=66 halt_on_error=1"}, p.env...)...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// Its own group, so that an interrupt at the terminal is the harness's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the runner: %w", err)
	}
	exit := make(chan error, 1)
	go func() { exit <- cmd.Wait() }()
	p.cmd, p.exit = cmd, exit
	return nil
}

// bare is an environment without what would configure a runner.
func bare(env []string) []string {
	var out []string
	for _, e := range env {
		if strings.HasPrefix(e, "DRONE_") || strings.HasPrefix(e, "RUNNER_") || strings.HasPrefix(e, "GORACE=") {
			continue
		}
		out = append(out, e)
	}
	return out
}

// ended is an error if the program has ended by itself.
func (p *process) ended() error {
	select {
	case err := <-p.exit:
		p.exit <- err
		return fmt.Errorf("the runner has ended by itself: %w", errors.Join(err, errors.New("its log: "+p.log.Name())))
	default:
		return nil
	}
}

// readyWithin is how long a start may take: far longer than it does, so that
// only a runner that hangs is taken for one.
const readyWithin = 90 * time.Second

// ready waits until the program says that it is.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("the runner was not ready within %s", readyWithin))
	defer cancel()
	for {
		if missing, err := p.api.Pending(ctx); err == nil && len(missing) == 0 {
			return nil
		}
		if err := p.ended(); err != nil {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// start launches the program and waits until it is ready.
func (p *process) start(ctx context.Context) error {
	if err := p.launch(); err != nil {
		return err
	}
	return p.ready(ctx)
}

// kill ends the program as a power cut would, as far as processes go. A runner
// that had ended before by itself is an error.
func (p *process) kill() error {
	if p.cmd == nil {
		return nil
	}
	err := p.ended()
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exit                 //nolint:errcheck // it was killed
	p.cmd, p.exit = nil, nil
	p.api.Close()
	return err
}

// stop asks the program to stop and waits for a clean end.
func (p *process) stop(ctx context.Context) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the runner did not stop within a minute"))
	defer cancel()
	select {
	case err := <-p.exit:
		p.cmd, p.exit = nil, nil
		p.api.Close()
		if err != nil {
			return fmt.Errorf("stop the runner: %w", err)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", sig, err)
	}
	return nil
}

// close ends the program if it runs and lets go of the log.
func (p *process) close() error {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.exit                 //nolint:errcheck // it was killed
		p.cmd = nil
	}
	p.api.Close()
	return p.log.Close()
}

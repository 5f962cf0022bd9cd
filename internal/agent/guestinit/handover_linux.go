package guestinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// handoverVariable tells the new process the numbers of two descriptors: the
// memory with the host's request, and the identity port.
const handoverVariable = "RUNNER_AGENT_HANDOVER"

// handover is what the process with the identity gets from the one without.
type handover struct {
	request guestlink.Request
	port    *port
}

// reexec replaces the process by a new one that has the request. It returns
// only if that fails.
func reexec(req guestlink.Request, p *port, args []string) error {
	mem, err := giveHandover(req)
	if err != nil {
		return fmt.Errorf("hand identity over: %w", err)
	}
	if err := keepOverExec(p.fd, true); err != nil {
		return errors.Join(fmt.Errorf("hand identity port over: %w", err), unix.Close(mem))
	}
	env := append(os.Environ(), fmt.Sprintf("%s=%d,%d", handoverVariable, mem, p.fd))
	program, err := os.Executable()
	if err == nil {
		err = unix.Exec(program, args, env)
	}
	return errors.Join(fmt.Errorf("start anew: %w", err), keepOverExec(p.fd, false), unix.Close(mem))
}

// giveHandover puts the request into memory that has no name and survives the
// change of the program.
func giveHandover(req guestlink.Request) (fd int, err error) {
	text, err := json.Marshal(req)
	if err != nil {
		return -1, err
	}
	fd, err = unix.MemfdCreate("identity", 0)
	if err != nil {
		return -1, err
	}
	for off := 0; off < len(text); {
		n, err := unix.Pwrite(fd, text[off:], int64(off))
		if err != nil {
			return -1, errors.Join(err, unix.Close(fd))
		}
		off += n
	}
	return fd, nil
}

// handedOver is what the process before this one has left, nil if there was none.
func handedOver() (*handover, error) {
	text, ok := os.LookupEnv(handoverVariable)
	if !ok {
		return nil, nil
	}
	if err := os.Unsetenv(handoverVariable); err != nil {
		return nil, err
	}
	h, err := takeHandover(text)
	if err != nil {
		return nil, fmt.Errorf("take over identity: %w", err)
	}
	return h, nil
}

// takeHandover reads what reexec has left and lets go of the memory.
func takeHandover(text string) (*handover, error) {
	var mem, fd int
	if n, err := fmt.Sscanf(text, "%d,%d", &mem, &fd); err != nil || n != 2 {
		return nil, fmt.Errorf("%s=%q is not two descriptors", handoverVariable, text)
	}
	if err := keepOverExec(fd, false); err != nil {
		return nil, fmt.Errorf("identity port: %w", err)
	}
	f := os.NewFile(uintptr(mem), "identity")
	if f == nil {
		return nil, fmt.Errorf("descriptor %d is not open", mem)
	}
	defer f.Close()
	body, err := io.ReadAll(io.NewSectionReader(f, 0, guestlink.MaxMessage*2))
	if err != nil {
		return nil, err
	}
	h := &handover{port: &port{fd: fd}}
	if err := json.Unmarshal(body, &h.request); err != nil {
		return nil, err
	}
	if h.request.Identity == nil {
		return nil, errors.New("request without an identity")
	}
	return h, nil
}

// keepOverExec says whether a descriptor goes on into the programs this
// process starts.
func keepOverExec(fd int, keep bool) error {
	flags := unix.FD_CLOEXEC
	if keep {
		flags = 0
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags)
	return err
}

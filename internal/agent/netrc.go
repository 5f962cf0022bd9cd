package agent

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// envPersistCreds has containers of a stage share ~/.netrc, so that what one
// step writes there serves the next.
const envPersistCreds = "DRONE_PERSIST_CREDS"

// netrc returns the file that the step's container is to have as ~/.netrc, made
// if it is missing; "" if it is to have none of the stage's. That it cannot be
// shared is told in the output.
func (s *step) netrc() string {
	if s.setup.Envs[envPersistCreds] != "true" || runtime.GOOS == "windows" {
		return ""
	}
	path := s.agent.opts.Netrc
	if err := makeNetrc(path); err != nil {
		s.remark(remarks{fmt.Sprintf("~/.netrc is not shared with this container (%s): %v", envPersistCreds, err)})
		return ""
	}
	return path
}

// makeNetrc makes an empty file that nobody else reads; one that exists stays as
// it is. A daemon would make a folder of a missing one.
func makeNetrc(path string) error {
	if path == "" {
		return errors.New("there is no home folder; set HOME")
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

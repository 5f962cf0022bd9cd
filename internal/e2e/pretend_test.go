//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newPretend is newRunner for machines that are processes, which are ended
// with the test.
func newPretend(t *testing.T, poolFile string) *runner {
	t.Helper()
	r := newRunner(t, poolFile)
	r.pretend()
	return r
}

func (r *runner) pretend() {
	r.t.Cleanup(func() {
		if r.cmd != nil {
			_ = r.cmd.Process.Kill()
			<-r.exit
			r.cmd = nil
		}
		for _, pid := range r.children() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// launch starts the program and waits until it listens, ready or not.
func (r *runner) launch() {
	r.t.Helper()
	r.exec()
	r.eventually(20*time.Second, "it listens", func() error {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// children are the processes that are machines of this data directory, found
// by looking at every process of the host.
func (r *runner) children() map[string]int {
	out := map[string]int{}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range procs {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
		if i := slices.Index(args, "noop-machine"); i < 0 || !strings.HasPrefix(args[len(args)-1], r.dir+"/") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/cmdline", &pid); err == nil {
			out[filepath.Base(args[len(args)-1])] = pid
		}
	}
	return out
}

// auditPretend waits until processes, folders and rows are the same machines.
func (r *runner) auditPretend() {
	r.t.Helper()
	r.eventually(time.Minute, "processes, folders and rows agree", func() error {
		var rows, processes, folders []string
		for _, i := range r.instances() {
			if i.State != "warm" && i.State != "leased" {
				return fmt.Errorf("%s is %s", i.Name, i.State)
			}
			rows = append(rows, i.Name)
		}
		for name := range r.children() {
			processes = append(processes, name)
		}
		dirs, _ := filepath.Glob(filepath.Join(r.dir, "noop", "*", "vm-*"))
		for _, dir := range dirs {
			folders = append(folders, filepath.Base(dir))
		}
		slices.Sort(rows)
		slices.Sort(processes)
		slices.Sort(folders)
		if !slices.Equal(rows, processes) || !slices.Equal(rows, folders) {
			return fmt.Errorf("rows %v, processes %v, folders %v", rows, processes, folders)
		}
		return nil
	})
}

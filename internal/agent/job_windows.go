package agent

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/windows"
)

// job holds all a step has started: what its processes start is in it too,
// whoever their parents are and whether these live. The system ends what is in
// it when nobody has a handle on it any more, so also when the agent is killed.
type job struct{ handle windows.Handle }

func newJob() (*job, error) {
	h, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return nil, os.NewSyscallError("CreateJobObject", err)
	}
	j := &job{h}
	runtime.AddCleanup(j, func(h windows.Handle) { _ = windows.CloseHandle(h) }, h) // the step is forgotten
	limits := new(windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION)
	limits.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	var pin runtime.Pinner
	pin.Pin(limits)
	defer pin.Unpin()
	if _, err := windows.SetInformationJobObject(h, windows.JobObjectExtendedLimitInformation, uintptr(unsafe.Pointer(limits)), uint32(unsafe.Sizeof(*limits))); err != nil {
		return nil, os.NewSyscallError("SetInformationJobObject", err)
	}
	return j, nil
}

// jobAccounting is JOBOBJECT_BASIC_ACCOUNTING_INFORMATION.
type jobAccounting struct {
	_      [4]int64 // times
	_      [2]uint32
	active uint32
	_      uint32
}

// active is how many processes in the job live.
func (j *job) active() int {
	counts := new(jobAccounting)
	var pin runtime.Pinner
	pin.Pin(counts)
	defer pin.Unpin()
	err := windows.QueryInformationJobObject(j.handle, windows.JobObjectBasicAccountingInformation, uintptr(unsafe.Pointer(counts)), uint32(unsafe.Sizeof(*counts)), nil)
	runtime.KeepAlive(j)
	if err != nil {
		return 0
	}
	return int(counts.active)
}

// killedCode is what processes that are ended by force exit with, as taskkill
// has it.
const killedCode = 1

// end ends all that is in the job.
func (j *job) end() {
	_ = windows.TerminateJobObject(j.handle, killedCode) // looked at again by the caller
	runtime.KeepAlive(j)
}

// confine puts a process that was started held into a job and lets it run.
// Where there can be no job, as within one that allows none, it runs without.
func confine(p *os.Process) (*job, error) {
	j, err := newJob()
	if err == nil {
		assignErr := p.WithHandle(func(handle uintptr) { err = windows.AssignProcessToJobObject(j.handle, windows.Handle(handle)) })
		err = errors.Join(err, assignErr)
	}
	if err != nil {
		j = nil
	}
	return j, release(uint32(p.Pid))
}

// release lets the threads of a held process run. There is one: it has not come
// to start another.
func release(pid uint32) error {
	snapshot, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPTHREAD, 0)
	if err != nil {
		return os.NewSyscallError("CreateToolhelp32Snapshot", err)
	}
	defer windows.CloseHandle(snapshot)
	e := windows.ThreadEntry32{Size: uint32(unsafe.Sizeof(windows.ThreadEntry32{}))}
	released := 0
	for err = windows.Thread32First(snapshot, &e); err == nil; err = windows.Thread32Next(snapshot, &e) {
		if e.OwnerProcessID != pid {
			continue
		}
		if err := releaseThread(e.ThreadID); err != nil {
			return err
		}
		released++
	}
	if !errors.Is(err, windows.ERROR_NO_MORE_FILES) {
		return os.NewSyscallError("Thread32Next", err)
	}
	if released == 0 {
		return fmt.Errorf("process %d has no thread to start", pid)
	}
	return nil
}

func releaseThread(id uint32) error {
	h, err := windows.OpenThread(windows.THREAD_SUSPEND_RESUME, false, id)
	if err != nil {
		return os.NewSyscallError("OpenThread", err)
	}
	defer windows.CloseHandle(h)
	if _, err := windows.ResumeThread(h); err != nil {
		return os.NewSyscallError("ResumeThread", err)
	}
	return nil
}

package agent

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

// jobRole makes the test's binary be a process of a step.
const jobRole = "TEST_JOB_ROLE"

// TestProcessOfAStep is no test but what the tests below start: a parent that
// leaves a child behind, the child, or an agent that starts the child.
func TestProcessOfAStep(t *testing.T) {
	switch os.Getenv(jobRole) {
	case "parent":
		child := exec.Command(os.Args[0], "-test.run=^TestProcessOfAStep$")
		child.Env = append(os.Environ(), jobRole+"=child")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("child", child.Process.Pid)
	case "child":
		<-time.After(5 * time.Minute)
	case "agent":
		p, err := startProcess(t.Context(), plainSpawner{}, startOptions{
			args: []string{os.Args[0], "-test.run=^TestProcessOfAStep$"}, env: append(os.Environ(), jobRole+"=child"), sink: io.Discard,
		})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(p.target.PID, p.target.Start)
		<-time.After(5 * time.Minute)
	}
}

func TestWhatAKilledAgentHasStartedEndsWithIt(t *testing.T) {
	agent := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcessOfAStep$")
	agent.Env = append(os.Environ(), jobRole+"=agent")
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var start uint64
	_, err = fmt.Fscan(out, &pid, &start)
	if err != nil || !isRunning(pid, start) {
		t.Errorf("the agent's process %d of %d does not run, %v", pid, start, err)
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait() // killed
	deadline := time.Now().Add(20 * time.Second)
	for isRunning(pid, start) && time.Now().Before(deadline) {
		<-time.After(10 * time.Millisecond)
	}
	if isRunning(pid, start) {
		t.Errorf("process %d lives on", pid)
	}
}

// leaver starts a process whose child outlives it.
func leaver(t *testing.T) *process {
	t.Helper()
	p, err := startProcess(t.Context(), plainSpawner{}, startOptions{
		args: []string{os.Args[0], "-test.run=^TestProcessOfAStep$"}, env: append(os.Environ(), jobRole+"=parent"), sink: io.Discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.target.job == nil {
		t.Fatal("the process is in no job")
	}
	if err := p.wait(plainSpawner{}); err != nil || p.exitCode() != 0 {
		t.Fatalf("exit %d, %v", p.exitCode(), err)
	}
	if n := countAlive([]target{p.target}); n != 1 {
		t.Fatalf("%d processes live after the first has ended, want its child", n)
	}
	return p
}

func TestWhatAStepLeavesBehindIsEndedThoughItsParentHasGone(t *testing.T) {
	p := leaver(t)
	if err := terminate([]target{p.target}, killPolicy{terms: 1, interval: 50 * time.Millisecond}); err != nil {
		t.Error(err)
	}
	if n := countAlive([]target{p.target}); n != 0 {
		t.Errorf("%d processes live", n)
	}
}

func TestTwoStepsHaveJobsOfTheirOwn(t *testing.T) {
	one, two := leaver(t), leaver(t)
	if err := terminate([]target{one.target}, killPolicy{}); err != nil {
		t.Error(err)
	}
	if n := countAlive([]target{two.target}); n != 1 {
		t.Errorf("%d processes of the other step live", n)
	}
	if err := terminate([]target{two.target}, killPolicy{}); err != nil {
		t.Error(err)
	}
}

package hostrunner

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// States of a runner.
const (
	StateServing  = "serving"
	StateDraining = "draining"
)

// Health answers GET /healthz. Version, DockerInstalled, GitInstalled and OK
// are what callers know.
type Health struct {
	Version         string `json:"version"`
	DockerInstalled bool   `json:"docker_installed"`
	GitInstalled    bool   `json:"git_installed"`
	// OK says that stages of every kind can be run: it is taken, docker and git
	// work.
	OK    bool   `json:"ok"`
	State string `json:"state"`
	// Stages run or are being set up, Waiting wait for room.
	Stages  int `json:"stages"`
	Waiting int `json:"waiting"`
	// Problems say why it is not OK, and what to do.
	Problems []string `json:"problems,omitempty"`
}

// Health looks at the runner and at what it needs.
func (r *Runner) Health(ctx context.Context) Health {
	h := Health{Version: r.c.Version, State: StateServing, Waiting: len(r.room.list())}
	r.mu.Lock()
	if r.draining {
		h.State = StateDraining
	}
	h.Stages = len(r.stages) - h.Waiting
	r.mu.Unlock()
	if err := r.docker.check(ctx); err != nil {
		h.Problems = append(h.Problems, "container steps fail: "+err.Error())
	} else {
		h.DockerInstalled = true
	}
	if _, err := exec.LookPath("git"); err != nil {
		h.Problems = append(h.Problems, "host steps cannot clone: git is not in PATH; install it")
	} else {
		h.GitInstalled = true
	}
	if h.State == StateDraining {
		h.Problems = append(h.Problems, errDraining.Error())
	}
	h.OK = len(h.Problems) == 0
	return h
}

// Status answers GET /v1/status: what runs, what waits and why.
type Status struct {
	Health
	Limits  LimitsInfo    `json:"limits"`
	Host    Facts         `json:"host"`
	Running []StageStatus `json:"running"`
	Queue   []Waiting     `json:"queue"`
}

// LimitsInfo is Limits as numbers a script reads.
type LimitsInfo struct {
	Stages      int     `json:"stages,omitempty"`
	CPUs        float64 `json:"stage_cpus"`
	Memory      uint64  `json:"stage_memory_bytes"`
	DiskReserve uint64  `json:"disk_reserve_bytes"`
}

// StageStatus is one stage.
type StageStatus struct {
	ID string `json:"id"`
	// State is setup, ready, broken (its setup or its revival failed) or leftover (destroyed, but for
	// Leftover).
	State    string    `json:"state"`
	Created  time.Time `json:"created"`
	LastCall time.Time `json:"last_call"`
	// Steps are all it was told to run, Busy those that run.
	Steps    int      `json:"steps"`
	Busy     int      `json:"busy"`
	Dir      string   `json:"dir,omitempty"`
	Fault    string   `json:"fault,omitempty"`
	Leftover []string `json:"leftover,omitempty"`
}

// Status tells what runs and what waits.
func (r *Runner) Status(ctx context.Context) Status {
	l := r.c.Limits
	s := Status{
		Health: r.Health(ctx),
		Limits: LimitsInfo{Stages: l.Stages, CPUs: l.CPUs, Memory: l.Memory, DiskReserve: l.Disk},
		Queue:  r.room.list(), Running: []StageStatus{},
	}
	facts, err := r.c.Facts()
	if err != nil {
		s.Problems = append(s.Problems, "the host cannot be looked at: "+err.Error())
	}
	s.Host = facts
	r.mu.Lock()
	stages := make([]*stage, 0, len(r.stages))
	for _, st := range r.stages {
		stages = append(stages, st)
	}
	r.mu.Unlock()
	for _, st := range stages {
		if st.isIn() {
			s.Running = append(s.Running, st.status())
		}
	}
	slices.SortFunc(s.Running, func(a, b StageStatus) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return s
}

func (st *stage) status() StageStatus {
	ready := false
	select {
	case <-st.ready:
		ready = true
	default:
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	s := StageStatus{
		ID: st.rec.ID, State: "setup", Created: st.rec.Created, LastCall: st.lastCall,
		Steps: len(st.steps), Busy: st.running, Leftover: st.leftover,
	}
	if !ready {
		return s
	}
	s.State, s.Dir = "ready", st.rec.Dir
	if st.fault != nil {
		s.State, s.Fault = "broken", st.fault.Error()
	}
	if len(st.leftover) > 0 {
		s.State = "leftover"
	}
	return s
}

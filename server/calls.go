package server

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// poolOwner says whether a pool, or a stage in it, is ours. The parameters
// count in the URL only.
func (s *Server) poolOwner(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	name, stage := q.Get("pool"), q.Get("stageId")
	if name == "" {
		return undecodable(errors.New("mandatory URL parameter 'pool' is missing"))
	}
	callOf(r.Context()).lease = stage
	if checkID("pool", name) != nil || checkID("stageId", stage) != nil {
		return replyJSON(w, http.StatusOK, api.PoolOwner{}) // nobody owns what cannot be
	}
	owner, err := s.await(r.Context()).Owns(r.Context(), name, stage)
	if err != nil {
		return err
	}
	return replyJSON(w, http.StatusOK, api.PoolOwner{Owner: owner})
}

// step runs a step and answers when it has ended.
func (s *Server) step(w http.ResponseWriter, r *http.Request) error {
	req, err := decode[api.StepRequest](s, w, r)
	if err != nil {
		return err
	}
	callOf(r.Context()).lease = req.StageRuntimeID
	var agent agentapi.StartStepRequest
	if err := view(req.StartStepRequest, &agent); err != nil {
		return err
	}
	if agent.ID == "" && req.IPAddress == "" {
		return badRequest("either parameter 'id' or 'ip_address' must be provided")
	}
	for field, id := range map[string]string{
		"stage_runtime_id": req.StageRuntimeID, "instance_id": req.InstanceID,
		"start_step_request.id": agent.ID, "instance_info.id": req.InstanceInfo.ID,
	} {
		if err := checkID(field, id); err != nil {
			return err
		}
	}
	if req.StageRuntimeID == "" {
		return fmt.Errorf("step without a stage_runtime_id: stage %w", pool.ErrNotFound)
	}
	answer, err := s.await(r.Context()).Step(r.Context(), pool.StepRequest{
		Lease:    req.StageRuntimeID,
		Instance: cmp.Or(req.InstanceID, req.InstanceInfo.ID),
		Step:     agent.ID,
		Timeout:  span(int64(agent.Timeout), time.Second),
		// What has passed view is an object whose parts can be edited.
		Body: func(exported map[string]string) (json.RawMessage, error) {
			return s.c.Edits.Step(req.StartStepRequest, exported)
		},
		Fit:   s.c.Edits.FitStep,
		Known: known(req.InstanceInfo),
	})
	if err != nil {
		return err
	}
	return replyRaw(w, answer)
}

// destroy ends a stage.
func (s *Server) destroy(w http.ResponseWriter, r *http.Request) error {
	req, err := decode[api.DestroyRequest](s, w, r)
	if err != nil {
		return err
	}
	id := cmp.Or(req.ID, req.StageRuntimeID)
	callOf(r.Context()).lease = id
	if err := mandatory("stage_runtime_id", id); err != nil {
		return err
	}
	meant := cmp.Or(req.InstanceID, req.InstanceInfo.ID)
	if err := checkID("instance_id", meant); err != nil {
		return err
	}
	disks := drivers.Keep
	if req.StorageCleanupType == api.CleanupDelete {
		disks = drivers.Delete
	}
	err = s.await(r.Context()).Destroy(r.Context(), pool.DestroyRequest{
		Lease: id, Instance: meant, Disks: disks, Known: known(req.InstanceInfo),
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// suspend puts a gitspace to sleep. Callers must say which machine they mean:
// with a lease in the store its id and pool are enough, without one nothing
// may be missing.
func (s *Server) suspend(w http.ResponseWriter, r *http.Request) error {
	req, err := decode[api.SuspendRequest](s, w, r)
	if err != nil {
		return err
	}
	callOf(r.Context()).lease = req.StageRuntimeID
	if err := mandatory("stage_runtime_id", req.StageRuntimeID); err != nil {
		return err
	}
	info := req.InstanceInfo
	if err := checkID("instance_info.id", info.ID); err != nil {
		return err
	}
	missing := func(field string) error {
		return badRequest("invalid instance info: field %q is not populated", field)
	}
	if info.ID == "" {
		return missing("ID")
	}
	svc := s.await(r.Context())
	if info.PoolName == "" {
		_, err := svc.Lease(r.Context(), req.StageRuntimeID)
		switch {
		case errors.Is(err, pool.ErrNotFound):
			return missing(unpopulated(info))
		case err != nil:
			return err
		}
		return missing("PoolName")
	}
	body, err := object(req.SuspendRequest)
	if err != nil {
		return undecodable(fmt.Errorf("suspend_request %w", err))
	}
	err = svc.Suspend(r.Context(), pool.SuspendRequest{
		Lease: req.StageRuntimeID, Instance: info.ID, Body: joinObject(body), Known: known(info),
	})
	if field := unpopulated(info); field != "" && errors.Is(err, pool.ErrNotFound) {
		return missing(field)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

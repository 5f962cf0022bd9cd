package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// maxPools is how many pools one request may name.
const maxPools = 100

// setup gives a machine to a stage.
func (s *Server) setup(w http.ResponseWriter, r *http.Request) error {
	req, err := decode[api.SetupRequest](s, w, r)
	if err != nil {
		return err
	}
	c := callOf(r.Context())
	c.lease = req.ID
	in, agent, err := s.setupRequest(req)
	if err != nil {
		return err
	}
	if req.SkipCloudVMCleanup {
		s.log.InfoContext(r.Context(), "skip_cloud_vm_cleanup is accepted without effect", "lease", req.ID, "request", c.id)
	}
	began := time.Now()
	e := s.await(r.Context())
	lines := s.startProgress(r.Context(), e, req, agent, in.Pools[0])
	in.Progress = lines.step
	res, err := e.Setup(r.Context(), in)
	if err == nil {
		lines.done(nil)
		s.metrics.setupDone(in, res, time.Since(began))
		return replyJSON(w, http.StatusOK, setupResponse(res))
	}
	err = cutOff(r.Context(), err)
	if !errors.Is(err, ErrStarting) {
		err = &provisionError{err: err}
	}
	lines.done(err)
	s.metrics.setupFailed(e, in, err, time.Since(began))
	return err
}

// setupRequest checks a request and puts it in the engine's words.
func (s *Server) setupRequest(req api.SetupRequest) (pool.SetupRequest, agentapi.SetupRequest, error) {
	var agent agentapi.SetupRequest
	none := func(err error) (pool.SetupRequest, agentapi.SetupRequest, error) {
		return pool.SetupRequest{}, agent, err
	}
	if err := mandatory("id", req.ID); err != nil {
		return none(err)
	}
	if err := mandatory("pool_id", req.PoolID); err != nil {
		return none(err)
	}
	// The agent's own types decide whether it could read the object.
	if err := view(req.SetupRequest, &agent); err != nil {
		return none(err)
	}
	body, err := s.c.Edits.Setup(req.SetupRequest)
	if err != nil {
		return none(undecodable(err))
	}
	disk, err := sizeGiB("storage_config.boot_disk_size", req.StorageConfig.BootDiskSize)
	if err != nil {
		return none(err)
	}
	pools, err := s.pools(req, agent.LogConfig.AccountID)
	if err != nil {
		return none(err)
	}
	for field, text := range map[string]string{
		"zone": req.Zone, "resource_class": req.ResourceClass, "storage_config.identifier": req.StorageConfig.Identifier, "storage_config.type": req.StorageConfig.Type,
		"setup_request.vm_image_config.image_name":    agent.VMImageConfig.ImageName,
		"setup_request.vm_image_config.image_version": agent.VMImageConfig.ImageVersion,
		"instance_info.id":                            req.InstanceInfo.ID,
	} {
		if err := checkID(field, text); err != nil {
			return none(err)
		}
	}
	in := pool.SetupRequest{
		ID:    req.ID,
		Kind:  pool.Build,
		Pools: pools,
		Want: pool.Want{
			Account:       agent.LogConfig.AccountID,
			ResourceClass: req.ResourceClass,
			Image:         agent.VMImageConfig.ImageName,
			ImageVersion:  agent.VMImageConfig.ImageVersion,
			Zone:          req.Zone,
			DiskGiB:       disk,
			Nested:        req.NestedVirtualization,
			Life:          span(agent.Timeout, time.Second),
		},
		Timeout: span(req.Timeout, time.Millisecond),
		Known:   known(req.InstanceInfo),
		Body:    body,
		Fit:     s.c.Edits.FitSetup,
		Digest:  digest(req.SetupRequest),
	}
	in.Want.Labels = labels(req.Tags)
	if err := gitspace(&in, req); err != nil {
		return none(err)
	}
	return in, agent, nil
}

// What is taken of a request's tags: more is no way to find a machine by.
const (
	maxTags     = 40
	maxTagBytes = 256
)

// labels are a request's tags as they go to the machine that is made for it,
// those that are too long or too many left out.
func labels(tags map[string]string) map[string]string {
	if len(tags) == 0 {
		return nil
	}
	out := make(map[string]string, min(len(tags), maxTags))
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if value := tags[key]; len(out) < maxTags && key != "" && value != "" && len(key) <= maxTagBytes/2 && len(value) <= maxTagBytes {
			out[key] = value
		}
	}
	return out
}

// pools is the order of pools to try, renamed for the account, each once.
func (s *Server) pools(req api.SetupRequest, account string) ([]string, error) {
	fallbacks := req.FallbackPoolIDs
	if len(fallbacks) == 0 {
		fallbacks = s.c.FallbackPools
	}
	if len(fallbacks) >= maxPools {
		return nil, badRequest("field 'fallback_pool_ids' in the request body names %d pools, at most %d are possible", len(fallbacks), maxPools-1)
	}
	var pools []string
	for i, name := range append([]string{req.PoolID}, fallbacks...) {
		if i > 0 {
			if err := checkID("fallback_pool_ids", name); err != nil {
				return nil, err
			}
		}
		name = s.c.PoolMap.Rename(account, name)
		if name != "" && !slices.Contains(pools, name) {
			pools = append(pools, name)
		}
	}
	return pools, nil
}

// gitspace fills in what makes a setup a gitspace's. secret and access_token are
// deprecated and have no effect: what they were for is in the init script. What
// a script says is nobody's to read, so errors never quote it.
func gitspace(in *pool.SetupRequest, req api.SetupRequest) error {
	g := req.GitspaceAgentConfig
	if len(g.Ports) == 0 {
		return nil
	}
	for _, p := range g.Ports {
		if p < 1 || p > math.MaxUint16 {
			return badRequest("field 'gitspace_agent_config.ports' in the request body has %d, which is no port", p)
		}
	}
	size, err := sizeGiB("storage_config.size", req.StorageConfig.Size)
	if err != nil {
		return err
	}
	script, err := base64.StdEncoding.DecodeString(g.VMInitScript)
	if err != nil || !utf8.Valid(script) || bytes.IndexByte(script, 0) >= 0 {
		return badRequest("field 'gitspace_agent_config.vm_init_script' in the request body is not the base64 of a script")
	}
	in.Kind = pool.Gitspace
	in.Want.Ports = g.Ports
	in.Want.Storage = strings.Join(pool.StorageNames(req.StorageConfig.Identifier), ",")
	in.Want.StorageGiB, in.Want.StorageType = size, req.StorageConfig.Type
	in.InitScript, in.Reset = string(script), req.IsMarkedForInfraReset
	if name := g.GitspaceConfigIdentifier; name != "" {
		if in.Want.Labels == nil {
			in.Want.Labels = map[string]string{}
		}
		in.Want.Labels["name"] = name
	}
	return nil
}

// setupResponse is the answer to a setup. It holds the machine's keys, which
// callers keep and send back; it must not be logged.
func setupResponse(res pool.SetupResult) api.SetupResponse {
	i := res.Instance
	return api.SetupResponse{
		IPAddress:             i.Address,
		InstanceID:            i.ExternalID(),
		GitspacesPortMappings: res.Ports,
		InstanceInfo: api.InstanceInfo{
			ID:                i.ExternalID(),
			Name:              i.Name,
			IPAddress:         i.Address,
			Port:              int64(i.Port),
			OS:                i.OS,
			Arch:              i.Arch,
			Provider:          i.Driver,
			PoolName:          i.Pool,
			Zone:              i.Zone,
			StorageIdentifier: i.StorageID,
			CAKey:             i.Identity.CAKey,
			CACert:            i.Identity.CACert,
			TLSKey:            i.Identity.Key,
			TLSCert:           i.Identity.Cert,
			ProxyURL:          i.Proxy,
		},
	}
}

// view decodes an object meant for the agent into the agent's types. Absent
// and null are the empty object.
func view(raw json.RawMessage, into any) error {
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return undecodable(err)
	}
	return nil
}

// maxDiskGiB is more than any cloud offers, and far from overflowing anything.
const maxDiskGiB = 1 << 20

func sizeGiB(field, text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < 0 || n > maxDiskGiB {
		return 0, badRequest("field '%s' in the request body is %.40q, which is no number of GB", field, text)
	}
	return n, nil
}

// span is n units, 0 for less than nothing, and never overflows.
func span(n int64, unit time.Duration) time.Duration {
	if n <= 0 {
		return 0
	}
	if n > math.MaxInt64/int64(unit) {
		return math.MaxInt64
	}
	return time.Duration(n) * unit
}

// digest identifies a setup body: equal for bodies that differ only in the
// order of keys and in spaces.
func digest(raw json.RawMessage) string {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if len(raw) == 0 || d.Decode(&v) != nil || v == nil {
		v = map[string]any{}
	}
	canonical, err := json.Marshal(v)
	if err != nil {
		canonical = raw // cannot be: it was just decoded
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])
}

package chaos

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// Told is what the runner's own API says.
type Told struct {
	// Instances are the live machines' states by id.
	Instances map[string]string
	// Counted is each pool's counter.
	Counted map[string]int
	// Leases are the machines, by id, of the stages that hold one.
	Leases map[string]string
	// Orphans is the metric of machines without a row that are left alone.
	Orphans int
}

// ask reads what an audit compares.
func ask(ctx context.Context, p *process, ledger Account) (Told, error) {
	t := Told{Instances: map[string]string{}, Counted: map[string]int{}, Leases: map[string]string{}}
	list, err := p.api.Instances(ctx, client.InstanceQuery{Live: true, Limit: api.MaxLimit})
	if err != nil {
		return t, fmt.Errorf("/v1/instances: %w", err)
	}
	for _, i := range list.Instances {
		t.Instances[i.ID] = i.State
	}
	pools, err := p.api.Pools(ctx)
	if err != nil {
		return t, fmt.Errorf("/v1/pools: %w", err)
	}
	for _, pool := range pools {
		t.Counted[pool.Name] = pool.Counted
	}
	for _, s := range ledger.Holders() {
		l, err := p.api.Lease(ctx, s.ID)
		if err != nil && !client.NotFound(err) {
			return t, fmt.Errorf("/v1/leases/%s: %w", s.ID, err)
		}
		t.Leases[s.ID] = l.InstanceID
	}
	orphans, err := metric(ctx, p.addr, "drone_runner_orphans")
	t.Orphans = int(orphans)
	return t, err
}

// metric is the sum of a metric over its labels; one that is not there is 0.
func metric(ctx context.Context, addr, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("/metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("/metrics: %s", resp.Status)
	}
	sum := 0.0
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		rest, is := strings.CutPrefix(lines.Text(), name)
		if !is || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		sum += v
	}
	return sum, lines.Err()
}

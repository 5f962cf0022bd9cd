package poolfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// The words of a pool file as they are written.
type (
	fileText struct {
		Version   string     `yaml:"version"`
		Instances []poolText `yaml:"instances"`
	}
	poolText struct {
		Name      string         `yaml:"name"`
		Default   bool           `yaml:"default,omitempty"`
		Type      string         `yaml:"type"`
		Pool      int            `yaml:"pool"`
		Limit     int            `yaml:"limit"`
		Wait      string         `yaml:"wait,omitempty"`
		Running   int            `yaml:"running,omitempty"`
		FreeAge   string         `yaml:"free_max_age,omitempty"`
		BusyAge   string         `yaml:"busy_max_age,omitempty"`
		Platform  platformText   `yaml:"platform"`
		Spec      map[string]any `yaml:"spec"`
		Variants  []variantText  `yaml:"variants,omitempty"`
		Tenants   []tenantText   `yaml:"tenants,omitempty"`
		Schedules []scheduleText `yaml:"schedules,omitempty"`
		Guards    *guardsText    `yaml:"guards,omitempty"`
	}
	platformText struct {
		OS      string `yaml:"os,omitempty"`
		Arch    string `yaml:"arch,omitempty"`
		Variant string `yaml:"variant,omitempty"`
		Version string `yaml:"version,omitempty"`
		OSName  string `yaml:"os_name,omitempty"`
	}
	variantText struct {
		ID            string   `yaml:"variant_id"`
		ResourceClass string   `yaml:"resource_class,omitempty"`
		Nested        bool     `yaml:"enable_nested_virtualization,omitempty"`
		Image         string   `yaml:"image_name,omitempty"`
		MachineType   string   `yaml:"machine_type,omitempty"`
		DiskSize      int      `yaml:"disk_size,omitempty"`
		DiskType      string   `yaml:"disk_type,omitempty"`
		Zones         []string `yaml:"zones,omitempty"`
		GPU           bool     `yaml:"gpu,omitempty"`
		Hibernate     bool     `yaml:"hibernate"`
		Pool          int      `yaml:"pool"`
		Limit         int      `yaml:"limit,omitempty"`
	}
	tenantText struct {
		GroupID  string         `yaml:"group_id"`
		IDs      []string       `yaml:"ids"`
		Pool     int            `yaml:"pool"`
		Limit    *int           `yaml:"limit,omitempty"`
		Spec     map[string]any `yaml:"spec"`
		Variants []variantText  `yaml:"variants,omitempty"`
	}
	scheduleText struct {
		Days      []string `yaml:"days,omitempty,flow"`
		From      string   `yaml:"from"`
		To        string   `yaml:"to"`
		Timezone  string   `yaml:"timezone"`
		Pool      int      `yaml:"pool"`
		VariantID string   `yaml:"variant_id,omitempty"`
		Tenant    string   `yaml:"tenant,omitempty"`
	}
	guardsText struct {
		Failures   int     `yaml:"failures"`
		Pause      string  `yaml:"pause"`
		MaxPause   string  `yaml:"max_pause"`
		PerMinute  int     `yaml:"creates_per_minute"`
		PerDay     float64 `yaml:"machine_hours_per_day"`
		KeepFailed string  `yaml:"keep_failed"`
	}
)

// Format writes pools as a pool file with every value spelt out: what a server
// works with after defaults and warnings. Reading it back gives the same
// pools. A pool without a SpecJSON has an empty spec. Secrets are written as
// they are.
func Format(c pool.Config) ([]byte, error) {
	out := fileText{Version: "1"}
	for _, p := range c.Pools {
		in, err := poolOf(p)
		if err != nil {
			return nil, fmt.Errorf("pool %s: %w", p.Name, err)
		}
		out.Instances = append(out.Instances, in)
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(out); err != nil {
		return nil, fmt.Errorf("write pools: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("write pools: %w", err)
	}
	return b.Bytes(), nil
}

func poolOf(p pool.PoolConfig) (poolText, error) {
	spec, err := jsonTree(p.SpecJSON)
	if err != nil {
		return poolText{}, fmt.Errorf("spec: %w", err)
	}
	in := poolText{
		Name: p.Name, Default: p.Default, Type: p.Driver, Pool: p.Min, Limit: p.Max, Wait: duration(p.Wait),
		Running: p.Running, FreeAge: duration(p.FreeAge), BusyAge: duration(p.BusyAge),
		Platform: platformText(p.Platform), Spec: spec, Variants: variantsOf(p.Variants), Guards: guardsOf(p.Guards),
	}
	for _, t := range p.Tenants {
		one, err := tenantOf(p, t)
		if err != nil {
			return poolText{}, fmt.Errorf("tenant %s: %w", t.ID, err)
		}
		in.Tenants = append(in.Tenants, one)
	}
	for _, s := range p.Schedules {
		one := scheduleText{
			From: clockText(s.From), To: clockText(s.To), Timezone: s.Zone.String(),
			Pool: s.Min, VariantID: s.Variant, Tenant: s.Tenant,
		}
		for _, d := range s.Days {
			one.Days = append(one.Days, strings.ToLower(d.String()[:3]))
		}
		in.Schedules = append(in.Schedules, one)
	}
	return in, nil
}

func variantsOf(all []pool.VariantConfig) []variantText {
	var out []variantText
	for _, v := range all {
		out = append(out, variantText{
			ID: v.ID, ResourceClass: v.ResourceClass, Nested: v.Nested, Image: v.Image, MachineType: v.MachineType,
			DiskSize: v.DiskGiB, DiskType: v.DiskType, Zones: v.Zones, GPU: v.GPU, Hibernate: v.Hibernate,
			Pool: v.Min, Limit: max(v.Max, 0),
		})
	}
	return out
}

// tenantOf writes of a tenant's spec what differs from the pool's.
func tenantOf(p pool.PoolConfig, t pool.TenantConfig) (tenantText, error) {
	out := tenantText{GroupID: t.ID, IDs: t.Accounts, Pool: t.Min, Variants: variantsOf(t.Variants)}
	if t.Max >= 0 {
		out.Limit = &t.Max
	}
	base, err := whole(p.Spec, p.SpecJSON)
	if err != nil {
		return out, err
	}
	own, err := whole(t.Spec, t.SpecJSON)
	if err != nil {
		return out, err
	}
	out.Spec = difference(base, own)
	return out, nil
}

// whole is a spec with its zeros where it is at hand decoded.
func whole(spec any, raw json.RawMessage) (map[string]any, error) {
	if spec == nil {
		return jsonTree(raw)
	}
	full, err := drivers.FullJSON(spec)
	if err != nil {
		return nil, err
	}
	return jsonTree(full)
}

// difference is what of own is not in base; all that is only in base is
// nothing a spec can take back.
func difference(base, own map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range own {
		old, ok := base[key]
		if ok && reflect.DeepEqual(old, value) {
			continue
		}
		below, isMap := value.(map[string]any)
		if under, was := old.(map[string]any); was && isMap {
			value = difference(under, below)
		}
		out[key] = value
	}
	return out
}

// guardsOf writes guards; none are those by default.
func guardsOf(g pool.Guards) *guardsText {
	if g == (pool.Guards{}) {
		return nil
	}
	return &guardsText{
		Failures: max(g.Failures, 0), Pause: g.Pause.String(), MaxPause: g.MaxPause.String(),
		PerMinute: g.PerMinute, PerDay: g.HoursPerDay, KeepFailed: max(g.KeepFailed, 0).String(),
	}
}

func clockText(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d", int(d/time.Hour), int(d/time.Minute)%60)
}

// duration writes a duration, and none as nothing.
func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// jsonTree reads a JSON object; nothing is an empty one.
func jsonTree(raw json.RawMessage) (map[string]any, error) {
	if len(raw) == 0 {
		return map[string]any{}, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	m, ok := numbers(v).(map[string]any)
	if !ok {
		return nil, fmt.Errorf("not an object")
	}
	return m, nil
}

// numbers turns json.Number into the number it is, which yaml writes without
// quotes, and keeps whole ones whole.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
	}
	return v
}

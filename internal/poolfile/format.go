package poolfile

import (
	"bytes"
	"encoding/json"
	"fmt"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Format writes pools as a pool file with every value spelt out: what a server
// works with after defaults and warnings. Reading it back gives the same
// pools. A pool without a SpecJSON has an empty spec.
func Format(c pool.Config) ([]byte, error) {
	type platform struct {
		OS      string `yaml:"os,omitempty"`
		Arch    string `yaml:"arch,omitempty"`
		Variant string `yaml:"variant,omitempty"`
		Version string `yaml:"version,omitempty"`
		OSName  string `yaml:"os_name,omitempty"`
	}
	type instance struct {
		Name     string         `yaml:"name"`
		Default  bool           `yaml:"default,omitempty"`
		Type     string         `yaml:"type"`
		Pool     int            `yaml:"pool"`
		Limit    int            `yaml:"limit"`
		Wait     string         `yaml:"wait,omitempty"`
		Platform platform       `yaml:"platform"`
		Spec     map[string]any `yaml:"spec"`
	}
	out := struct {
		Version   string     `yaml:"version"`
		Instances []instance `yaml:"instances"`
	}{Version: "1"}
	for _, p := range c.Pools {
		in := instance{
			Name: p.Name, Default: p.Default, Type: p.Driver, Pool: p.Min, Limit: p.Max,
			Platform: platform(p.Platform), Spec: map[string]any{},
		}
		if p.Wait > 0 {
			in.Wait = p.Wait.String()
		}
		if len(p.SpecJSON) > 0 {
			dec := json.NewDecoder(bytes.NewReader(p.SpecJSON))
			dec.UseNumber()
			var spec any
			if err := dec.Decode(&spec); err != nil {
				return nil, fmt.Errorf("spec of pool %s: %w", p.Name, err)
			}
			m, ok := numbers(spec).(map[string]any)
			if !ok {
				return nil, fmt.Errorf("spec of pool %s: not an object", p.Name)
			}
			in.Spec = m
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

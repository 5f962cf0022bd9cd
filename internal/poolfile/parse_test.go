package poolfile_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// parse fails the test if the file has errors.
func parse(t testing.TB, text string) pool.Config {
	t.Helper()
	config, found := poolfile.Parse("pool.yml", []byte(text), registrations(), poolfile.Options{})
	if found.Errors() > 0 {
		t.Fatalf("findings: %v", found)
	}
	return config
}

func TestParseResolvesEverything(t *testing.T) {
	t.Parallel()
	yes := true
	got := parse(t, `
version: 1
instances:
  - &base
    name: p
    default: true
    type: carton
    pool: 2
    limit: 4
    wait: 90s
    platform: {os: linux, arch: arm64, variant: v, version: 22.04, os_name: ubuntu}
    spec: &spec
      image: big
      memory: 512
      boot: 1m
      private_ip: yes
      zone: a
      labels: {team: ci, cost: 12}
      networks: [{network: n}]
      disk: {iops: "200"}
  - <<: *base
    name: q
    default: true
    spec: {<<: *spec, memory_mb: 1024}
  - {name: r, type: noop, pool: -1, limit: -1, spec: }
`)
	platform := drivers.Platform{OS: "linux", Arch: "arm64", Variant: "v", Version: "22.04", OSName: "ubuntu"}
	spec := func(memory int) *box {
		return &box{
			Image: "big", MemoryMB: memory, CPUs: 1, Boot: time.Minute, Share: 0.5, Mode: "auto", Private: &yes,
			Zone: []string{"a"}, Labels: map[string]string{"team": "ci", "cost": "12"},
			Disk: boxDisk{Size: 10, IOPS: 200}, Networks: []boxNetwork{{Network: "n", Public: true}},
		}
	}
	const before = `{"boot":"1m0s","cpus":1,"disk":{"iops":200,"size":10},"image":"big","labels":{"cost":"12","team":"ci"},"memory_mb":`
	const after = `,"mode":"auto","networks":[{"network":"n","public":true}],"private_ip":true,"share":0.5,"zone":["a"]}`
	byDefault := pool.Guards{Failures: 5, Pause: time.Minute, MaxPause: 30 * time.Minute, KeepFailed: time.Hour}
	want := pool.Config{Pools: []pool.PoolConfig{
		{
			Name: "p", Default: true, Driver: "box", Platform: platform, Min: 2, Max: 4, Wait: 90 * time.Second,
			Spec: spec(512), SpecJSON: json.RawMessage(before + "512" + after), Image: "big", MachineType: "1x512", DiskGiB: 10, Guards: byDefault,
		},
		{
			Name: "q", Driver: "box", Platform: platform, Min: 2, Max: 4, Wait: 90 * time.Second,
			Spec: spec(1024), SpecJSON: json.RawMessage(before + "1024" + after), Image: "big", MachineType: "1x1024", DiskGiB: 10, Guards: byDefault,
		},
		{
			Name: "r", Driver: "noop", Min: 0, Max: 100, Wait: pool.DefaultWait,
			Spec: &pretend{}, SpecJSON: json.RawMessage(`{}`), Guards: byDefault,
		},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The documentation's table of pool and limit.
func TestPoolAndLimit(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		keys     string
		min, max int
		warnings int
	}{
		{"neither is given", "", 0, 100, 0},
		{"neither has a value", "pool: , limit: ", 0, 100, 0},
		{"both are given", "pool: 3, limit: 10", 3, 10, 0},
		{"limit is zero, which is no limit of its own", "pool: 3, limit: 0", 3, 100, 0},
		{"limit is negative", "pool: 3, limit: -7", 3, 100, 1},
		{"pool is negative", "pool: -3, limit: 10", 0, 10, 1},
		{"limit is below pool", "pool: 8, limit: 5", 8, 8, 1},
		{"pool is above the default limit", "pool: 150", 150, 150, 1},
		{"limit equals pool", "pool: 1, limit: 1", 1, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := "instances: [{name: p, type: noop, spec: {}, " + tt.keys + "}]"
			got, found := poolfile.Parse("pool.yml", []byte(text), registrations(), poolfile.Options{})
			if found.Errors() > 0 || found.Warnings() != tt.warnings {
				t.Fatalf("findings: %v; want %d warnings", found, tt.warnings)
			}
			if p := got.Pools[0]; p.Min != tt.min || p.Max != tt.max {
				t.Errorf("Min %d, Max %d; want %d, %d", p.Min, p.Max, tt.min, tt.max)
			}
		})
	}
}

func TestErrorsLeaveNoPools(t *testing.T) {
	t.Parallel()
	got, found := poolfile.Parse("pool.yml", []byte(`
instances:
  - {name: good, type: noop, spec: {}}
  - {name: bad, type: nosuch, spec: {}}
`), registrations(), poolfile.Options{})
	if found.Errors() != 1 || len(got.Pools) != 0 {
		t.Errorf("%d errors, %d pools; want 1 and none: one pool's fault must not drop the others silently", found.Errors(), len(got.Pools))
	}
}

func TestManyFindingsAreCut(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("instances:\n")
	for range 3000 {
		b.WriteString("- {}\n")
	}
	_, found := poolfile.Parse("pool.yml", []byte(b.String()), registrations(), poolfile.Options{})
	if n := len(found); n != 1001 {
		t.Fatalf("%d findings, want 1000 and one that counts the rest", n)
	}
	if got, want := found[1000].Message, "8000 more findings from here on; mend those above first"; got != want || found[1000].Severity != poolfile.Error {
		t.Errorf("%s: %s, want %s", found[1000].Severity, got, want)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const good = "instances: [{name: p, type: noop, spec: {}}]\n"
	tests := []struct {
		name, path, want string
	}{
		{"the file is missing", filepath.Join(dir, "nosuch.yml"), ": no such file; give its path with --pool, examples/pool.yml is one to begin with"},
		{"its directory is missing", filepath.Join(dir, "no", "such.yml"), ": no such file; give its path with --pool, examples/pool.yml is one to begin with"},
		{"it is a directory", dir, ": is a directory; give the path of the file in it"},
		{"a part of the path is a file", filepath.Join(write("file", ""), "x"), ": cannot be read: not a directory"},
		{"it is empty", write("empty.yml", ""), `:1:1: file is empty; list at least one pool under "instances"`},
		{"it has 5 MB", write("large.yml", good+strings.Repeat("#"+strings.Repeat("x", 99)+"\n", 50_000)), ":1:1: file is larger than 1 MiB, which is the limit; a pool file is a few kilobytes"},
		{"it has 1 MiB", write("full.yml", good+strings.Repeat("#", poolfile.MaxBytes-len(good))), ""},
		{"it has 1 MiB and one byte", write("over.yml", good+strings.Repeat("#", poolfile.MaxBytes+1-len(good))), ":1:1: file is larger than 1 MiB, which is the limit; a pool file is a few kilobytes"},
		{"it is no text", write("binary.yml", "\x7fELF\x02"), ":1:1: control character U+007F is not allowed; remove it"},
		{"it is in another encoding", write("latin1.yml", "instances:\n- name: gr\xfc\xdfe\n"), ":2:11: byte 0xfc is not UTF-8; save the file as UTF-8"},
		{"it is UTF-16", write("utf16.yml", "\xff\xfei\x00"), ":1:1: file is UTF-16; save it as UTF-8"},
		{"it begins with a byte order mark and has Windows line ends", write("bom.yml", "\ufeffinstances:\r\n- {name: p, type: noop, spec: {}}\r\n"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config, found := poolfile.Load(tt.path, registrations(), poolfile.Options{})
			if tt.want == "" {
				if len(found) > 0 || len(config.Pools) != 1 {
					t.Fatalf("findings %v, %d pools; want a pool", found, len(config.Pools))
				}
				return
			}
			var b bytes.Buffer
			if err := found.Print(&b); err != nil {
				t.Fatal(err)
			}
			if got, want := b.String(), tt.path+tt.want+"\n"; got != want {
				t.Errorf("got  %swant %s", got, want)
			}
			if found.Errors() != 1 || len(config.Pools) != 0 {
				t.Errorf("%d errors, %d pools", found.Errors(), len(config.Pools))
			}
		})
	}
}

func TestPathsAreFoundBesideTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "beside.sh"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, path, want string }{
		{"a file beside the pool file", "beside.sh", filepath.Join(dir, "beside.sh")},
		{"a file in the working directory wins", "parse_test.go", "parse_test.go"},
		{"a file that is nowhere", "nowhere.sh", "nowhere.sh"},
		{"an absolute path", "/beside.sh", "/beside.sh"},
		{"no path", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := "instances: [{name: p, type: box, spec: {script_path: '" + tt.path + "'}}]"
			path := filepath.Join(t.TempDir(), "pool.yml")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			config, found := poolfile.Load(path, registrations(), poolfile.Options{Dir: dir})
			if found.Errors() > 0 {
				t.Fatal(found)
			}
			if got := config.Pools[0].Spec.(*box).Script; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFindingsAsJSON(t *testing.T) {
	t.Parallel()
	_, found := poolfile.Parse("pool.yml", []byte(`
version: "2"
instances:
  - {name: p, type: box, default: true, spec: {cpus: 0, cpu: <2>}}
  - {name: q, type: noop, default: true, spec: {}}
`), registrations(), poolfile.Options{})
	var b bytes.Buffer
	if err := found.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/findings.json", b.Bytes())
	b.Reset()
	if err := poolfile.Findings(nil).WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), "{\n  \"errors\": 0,\n  \"warnings\": 0,\n  \"findings\": []\n}\n"; got != want {
		t.Errorf("no findings: got %s, want %s", got, want)
	}
}

func TestFormatSpellsOutWhatIsServed(t *testing.T) {
	t.Parallel()
	config := parse(t, `
instances:
  - {name: "no", type: box, pool: 1, default: yes, platform: {version: "22.10"}, spec: {memory: 256, labels: {"12": "12"}}}
  - {name: q, type: noop, spec: }
`)
	text, err := poolfile.Format(config)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/format.yml", text)
	if diff := cmp.Diff(config, parse(t, string(text)), sameZone); diff != "" {
		t.Errorf("read back, -want +got:\n%s", diff)
	}
}

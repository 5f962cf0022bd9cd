package poolfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// FuzzParse: no input panics, every finding has a place and fits on a line,
// and what was read is written and read back the same.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(txtar.Parse(raw).Files[0].Data)
	}
	example, err := os.ReadFile("../../examples/pool.yml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	// A tenant's values over those of the pool, zeros among them.
	f.Add([]byte(`instances:
  - name: p
    type: box
    spec: {boot: 1m, share: 0.7, private_ip: yes, hibernate: yes, zone: [a], labels: {a: b}, disk: {iops: 200}}
    variants: [{variant_id: v, hibernate: no}]
    tenants: [{ids: [t], spec: {boot: 0s, share: 0, private_ip: no, hibernate: no, zone: [], labels: {c: d}, image: ""}}]
    schedules: [{days: fri-mon, from: "22:00", to: "06:30", timezone: Europe/Berlin, pool: 3, variant_id: v, tenant: t}]
    guards: {failures: 0, keep_failed: 0, machine_hours_per_day: 1.5}
`))
	// Much of one thing.
	for _, shape := range []struct{ head, body, tail string }{
		{"instances:\n", "- {}\n", ""},
		{"", "[", ""},
		{"", "{a: ", ""},
		{"", "? ", ""},
		{"", "- ", ""},
		{"", "!a ", ""},
		{"", "---\n", ""},
		{"", "a: 1\n", ""},
		{"a: &a b\nc: [", "*a,", "]"},
		{"a: &a {x: 1}\nb:\n", "  <<: *a\n", ""},
		{"instances: [&a {name: b, type: box, spec: {}},", "{<<: *a},", "]"},
	} {
		f.Add([]byte(shape.head + strings.Repeat(shape.body, 1000) + shape.tail))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := strings.Count(string(data), "\n") + 1
		config, found := poolfile.Parse("pool.yml", data, registrations(), poolfile.Options{})
		for _, one := range found {
			if one.Line < 1 || one.Column < 1 {
				t.Errorf("no place: %+v", one)
			}
			// YAML has three more line ends than "\n".
			if one.Line > lines+strings.Count(string(data), "\r")+strings.Count(string(data), "\u0085")+
				strings.Count(string(data), "\u2028")+strings.Count(string(data), "\u2029") {
				t.Errorf("line %d of %d: %v", one.Line, lines, one)
			}
			if one.Message == "" || strings.ContainsAny(one.String(), "\n\r") {
				t.Errorf("not one line: %q", one.String())
			}
		}
		_, strict := poolfile.Parse("pool.yml", data, registrations(), poolfile.Options{Strict: true})
		if strict.Errors() < found.Errors() {
			t.Errorf("a strict check finds %d errors, another %d", strict.Errors(), found.Errors())
		}
		if found.Errors() == 0 {
			readBack(t, config, registrations())
		}
		// The types of the program, of which some are only known by their keys.
		config, found = poolfile.Parse("pool.yml", data, builtIn(), poolfile.Options{CheckOnly: true})
		if found.Errors() == 0 {
			readBack(t, config, builtIn())
		}
	})
}

// readBack writes a configuration and reads it.
func readBack(t *testing.T, config pool.Config, regs []drivers.Registration) {
	t.Helper()
	text, err := poolfile.Format(config)
	if err != nil {
		t.Fatal(err)
	}
	again, found := poolfile.Parse("pool.yml", text, regs, poolfile.Options{CheckOnly: true})
	if found.Errors() > 0 {
		t.Fatalf("read back: %v\n%s", found, text)
	}
	if diff := cmp.Diff(config, again, sameZone); diff != "" {
		t.Fatalf("read back, -want +got:\n%s\n%s", diff, text)
	}
}

// BenchmarkParse reads the example and a file of a hundred pools.
func BenchmarkParse(b *testing.B) {
	var large strings.Builder
	large.WriteString("instances:\n")
	for i := range 100 {
		large.WriteString("  - name: p" + strings.Repeat("x", i) + "\n    type: box\n    pool: 1\n    limit: 4\n" +
			"    platform: {os: linux, arch: amd64}\n    spec:\n      image: small\n      memory_mb: 256\n      zone: [a, b]\n")
	}
	for _, size := range []struct{ name, text string }{
		{"one pool", "instances: [{name: p, type: box, spec: {cpus: 2}}]"},
		{"100 pools", large.String()},
		{"alias bomb", bomb()},
	} {
		b.Run(size.name, func(b *testing.B) {
			regs := registrations()
			data := []byte(size.text)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				poolfile.Parse("pool.yml", data, regs, poolfile.Options{})
			}
		})
	}
}

// bomb names each anchor ten times from the next.
func bomb() string {
	var b strings.Builder
	b.WriteString("a: &a [" + strings.Repeat("x, ", 9) + "x]\n")
	for c := 'b'; c <= 'z'; c++ {
		b.WriteString(string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+", ", 9) + "*" + string(c-1) + "]\n")
	}
	b.WriteString("instances: *z\n")
	return b.String()
}

// Not parallel: allocations are counted for the whole process.
func TestAliasBombCostsNothing(t *testing.T) {
	text := []byte(bomb())
	// Expanded it would be 10^26 values; that this test ends is half of it.
	allocations := testing.AllocsPerRun(3, func() {
		if _, found := poolfile.Parse("pool.yml", text, registrations(), poolfile.Options{}); found.Errors() != 1 {
			t.Fatal(found)
		}
	})
	if allocations > 10_000 {
		t.Errorf("%v allocations for %d bytes of input, want at most 10000", allocations, len(text))
	}
}

package poolfile_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/amazon"
	"github.com/vm-runner/drone-runner-aws/drivers/anka"
	"github.com/vm-runner/drone-runner-aws/drivers/ankabuild"
	"github.com/vm-runner/drone-runner-aws/drivers/azure"
	"github.com/vm-runner/drone-runner-aws/drivers/digitalocean"
	"github.com/vm-runner/drone-runner-aws/drivers/google"
	"github.com/vm-runner/drone-runner-aws/drivers/nomad"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
	"github.com/vm-runner/drone-runner-aws/drivers/vmfusion"
	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
)

// builtIn are the types the program has, or will have.
func builtIn() []drivers.Registration {
	return []drivers.Registration{
		qemu.Registration, noop.Registration(noop.Setup{}),
		amazon.Registration, anka.Registration, ankabuild.Registration, azure.Registration,
		digitalocean.Registration, google.Registration, nomad.Registration, vmfusion.Registration,
	}
}

func TestExample(t *testing.T) {
	t.Parallel()
	config, found := poolfile.Load("../../examples/pool.yml", builtIn(), poolfile.Options{Strict: true})
	if len(found) > 0 {
		t.Fatalf("findings: %v", found)
	}
	var got []string
	for _, p := range config.Pools {
		got = append(got, fmt.Sprintf("%s %s default=%v %d/%d %s", p.Name, p.Driver, p.Default, p.Min, p.Max, p.Platform.OS))
	}
	want := []string{"local qemu default=true 2/4 linux", "pretend noop default=false 0/100 linux"}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if p := config.Pools[0]; p.Image != "tiny" || p.MachineType != "1x128" || p.DiskGiB != 0 {
		t.Errorf("resolved to image %q, machine type %q, %d GiB; want tiny, 1x128, 0", p.Image, p.MachineType, p.DiskGiB)
	}
}

// What a pool is made from is kept with its credentials, to end its machines
// after it has left the file, and compared without them.
func TestCredentialsMakeNoDrift(t *testing.T) {
	t.Parallel()
	const text = "instances:\n  - {name: a, type: amazon, platform: {os: linux, arch: amd64}, spec: {ami: ami-0123456789, account: {region: r, access_key_id: us, access_key_secret: KEY}}}\n"
	path := filepath.Join(t.TempDir(), "pool.yml")
	typ := amazon.Registration
	typ.New = func(drivers.Options) (drivers.Driver, error) { return nil, errors.ErrUnsupported }
	var recipes, specs []string
	for _, key := range []string{"old", "new"} {
		if err := os.WriteFile(path, []byte(strings.Replace(text, "KEY", key, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		config, found := poolfile.Load(path, []drivers.Registration{typ}, poolfile.Options{})
		if len(config.Pools) != 1 {
			t.Fatalf("findings: %v", found)
		}
		recipes = append(recipes, string(config.Pools[0].RecipeJSON))
		specs = append(specs, string(config.Pools[0].SpecJSON))
	}
	if recipes[0] == "" || recipes[0] != recipes[1] || strings.Contains(recipes[0], "access_key") {
		t.Errorf("recipes %q", recipes)
	}
	if !strings.Contains(specs[1], `"access_key_secret":"new"`) {
		t.Errorf("spec %s", specs[1])
	}
}

// The example of what one pool can have shows every key of a pool that has an
// effect, and is served as it stands.
func TestExampleOfTenants(t *testing.T) {
	t.Parallel()
	config, found := poolfile.Load("../../examples/tenants.yml", builtIn(), poolfile.Options{Strict: true})
	if len(found) > 0 {
		t.Fatalf("findings: %v", found)
	}
	if n := len(config.Pools[0].Tenants); n != 2 {
		t.Errorf("%d tenants, want 2", n)
	}
	raw, err := os.ReadFile("../../examples/tenants.yml")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(fields []drivers.Field)
	walk = func(fields []drivers.Field) {
		for _, f := range fields {
			if f.Ignored == "" && f.Unused == "" && !regexp.MustCompile(`(?m)^[ -{]*`+f.Name+`:|[{,] ?`+f.Name+`:`).Match(raw) {
				t.Errorf("%s is not shown", f.Name)
			}
			walk(f.Fields)
		}
	}
	walk(instanceFields(t))
}

// Where a key first stands in an example, a comment above it explains it.
func TestExampleExplainsEveryKey(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pool.yml", "tenants.yml"} {
		explained(t, "../../examples/"+name)
	}
}

func explained(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`^ *(?:- )?([a-z_]+):`)
	seen := map[string]bool{}
	above := ""
	for i, line := range strings.Split(string(raw), "\n") {
		if m := key.FindStringSubmatch(line); m != nil && !seen[m[1]] {
			seen[m[1]] = true
			if !strings.Contains(above, "#") {
				t.Errorf("%s:%d: no comment above %s", path, i+1, m[1])
			}
		}
		above = line
	}
	if len(seen) < 20 {
		t.Errorf("%s: only %d keys found", path, len(seen))
	}
}

// The tags are what documentation and schema show, NewConfig is what happens.
func TestDefaultsAreAsTagged(t *testing.T) {
	t.Parallel()
	for _, reg := range builtIn() {
		t.Run(reg.Name, func(t *testing.T) {
			t.Parallel()
			got := reg.NewConfig()
			tagged := reflect.New(reflect.TypeOf(got).Elem()).Interface()
			drivers.SetDefaults(tagged)
			if diff := gocmp.Diff(tagged, got); diff != "" {
				t.Errorf("-tagged +NewConfig:\n%s", diff)
			}
		})
	}
}

// The built-in types' own rules come with the place they are about.
func TestBuiltInMessages(t *testing.T) {
	t.Parallel()
	_, found := poolfile.Parse("pool.yml", []byte(`version: "1"
instances:
  - name: local
    type: qemu
    pool: 1
    platform: {os: windows}
    spec:
      image: debian
      cpus: -1
      disk: {size: 10}
      egress: yes
      accelerator: kwm
      address_range: 10.0.0.0/8
      memroy_mb: 256
  - name: pretend
    type: noop
    spec: {create_delay: -1s, boot_delay: 5, fail_rate: 2, capacity: -1, proces: on}
`), builtIn(), poolfile.Options{})
	var b bytes.Buffer
	if err := found.Print(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/builtin.txt", b.Bytes())
}

// TestDocumentation keeps the tables of docs/pool-file.md equal to the tables
// the parser works with, and reads every file shown there.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	const page = "../../docs/pool-file.md"
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]string{"file": table(poolfile.Fields()), "instance": table(instanceFields(t))}
	for _, f := range instanceFields(t) {
		if len(f.Fields) > 0 && f.Name != "platform" {
			tables[f.Name] = table(f.Fields)
		}
	}
	for _, reg := range builtIn() {
		tables[reg.Name] = table(drivers.Fields(reg.NewConfig()))
	}
	block := regexp.MustCompile(`(?s)<!-- table: ([a-z]+) -->\n.*?<!-- end -->`)
	text := block.ReplaceAllStringFunc(string(raw), func(old string) string {
		name := block.FindStringSubmatch(old)[1]
		rows, ok := tables[name]
		if !ok {
			t.Errorf("no table %s", name)
		}
		delete(tables, name)
		return "<!-- table: " + name + " -->\n" + rows + "<!-- end -->"
	})
	for name := range tables {
		t.Errorf("%s has no table of %s", page, name)
	}
	var shown bytes.Buffer
	_, found := poolfile.Parse("pool.yml", []byte(faulty), builtIn(), poolfile.Options{})
	if err := found.Print(&shown); err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?s)<!-- findings -->\n.*?<!-- end -->`).ReplaceAllLiteralString(text,
		"<!-- findings -->\n```text\n"+shown.String()+"```\n<!-- end -->")
	golden(t, page, []byte(text))

	files := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(files) == 0 {
		t.Error("no file is shown")
	}
	for _, m := range files {
		if _, found := poolfile.Parse("pool.yml", []byte(m[1]), builtIn(), poolfile.Options{Strict: true}); len(found) > 0 {
			t.Errorf("a file shown there has findings: %v", found)
		}
	}
}

// faulty is the file whose findings docs/pool-file.md shows.
const faulty = `version: "1"
instances:
  - name: local
    type: qemu
    pool: 8
    limit: 5
    spec:
      memory_mb: 16
      memroy_mb: 128
  - name: local
    type: nop
    spec:
`

func instanceFields(t *testing.T) []drivers.Field {
	t.Helper()
	for _, f := range poolfile.Fields() {
		if f.Name == "instances" {
			return f.Fields
		}
	}
	t.Fatal("no instances")
	return nil
}

// table is the Markdown of a table of keys, those of mappings inside it
// spelt out. Those not built in yet are left out, and those with a section of
// their own.
func table(fields []drivers.Field) string {
	var b strings.Builder
	b.WriteString("| key | value | default | |\n|---|---|---|---|\n")
	var rows func(prefix string, fields []drivers.Field)
	rows = func(prefix string, fields []drivers.Field) {
		for _, f := range fields {
			if f.Later != "" {
				continue
			}
			if f.Kind == drivers.KindObject && f.Name != "guards" {
				rows(prefix+f.Name+".", f.Fields)
				continue
			}
			value := string(f.Kind)
			switch {
			case f.Elem == drivers.KindObject:
				value += " of mappings"
			case len(f.Enum) > 0:
				value = "`" + strings.Join(f.Enum, "`, `") + "`"
			case f.Name == "spec":
				value = string(drivers.KindObject)
			case f.Min != "" && f.Max != "":
				value += ", " + f.Min + " to " + f.Max
			case f.Min != "":
				value += ", at least " + f.Min
			case f.Max != "":
				value += ", at most " + f.Max
			}
			standard := ""
			switch {
			case f.Required || strings.Contains(f.Doc, "Must be there"):
				standard = "required"
			case f.Default != "":
				standard = "`" + f.Default + "`"
			}
			doc := f.Doc
			if others := slices.Concat(f.Aliases, f.OldNames); len(others) > 0 {
				doc += " Also `" + strings.Join(others, "`, `") + "`."
			}
			if f.Ignored != "" {
				doc += " Ignored."
			}
			if f.Unused != "" {
				doc += " No effect, with a warning."
			}
			fmt.Fprintf(&b, "| `%s%s` | %s | %s | %s |\n", prefix, f.Name, value, standard,
				strings.ReplaceAll(cmp.Or(doc, " "), "|", "\\|"))
			switch {
			case f.Name == "variants" || f.Name == "tenants" || f.Name == "schedules":
			case f.Kind == drivers.KindList && len(f.Fields) > 0:
				rows(prefix+f.Name+"[].", f.Fields)
			case f.Kind == drivers.KindMap && len(f.Fields) > 0:
				rows(prefix+f.Name+".<name>.", f.Fields)
			}
		}
	}
	rows("", fields)
	return b.String()
}

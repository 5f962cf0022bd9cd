//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// pretend is a pool of machines that are child processes.
const pretend = "instances:\n  - {name: p, type: noop, pool: 1, limit: 3, wait: 1s, spec: {process: true}}\n"

// nobody is a user whom file modes stop, as they do not stop root.
const nobody = 65534

// folder makes a data directory that other users may enter, with these files.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-data")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// openRunner is the program in a folder that other users may enter.
func openRunner(t *testing.T) string {
	t.Helper()
	// A link: a copy could be busy, since other tests fork while it is written.
	path := filepath.Join(folder(t, nil), "drone-runner-aws")
	if err := os.Link(built.runner, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// failing is a start that must end by itself.
type failing struct {
	dir    string
	pool   string // path of the pool file, pool.yml in dir if empty
	env    []string
	binary string // built.runner if empty
	nobody bool   // as another user, if this one is root
}

// result is how a program ended.
type result struct {
	code int
	text string // standard output and error
	took time.Duration
}

// run starts the runner and waits for its end.
func (f failing) run(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	binary, pool := f.binary, f.pool
	if binary == "" {
		binary = built.runner
	}
	if pool == "" {
		pool = filepath.Join(f.dir, "pool.yml")
	}
	if len(args) == 0 {
		args = []string{"delegate"}
	}
	cmd := exec.CommandContext(ctx, binary, append(args, "--pool", pool)...)
	cmd.Dir = f.dir
	cmd.Env = append(os.Environ(), append([]string{"DRONE_HTTP_BIND=127.0.0.1:0"}, f.env...)...)
	if f.nobody && os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	began := time.Now()
	out, err := cmd.CombinedOutput()
	r := result{text: string(out), took: time.Since(began)}
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = ee.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return r
}

// soon is run for errors that must come within two seconds. A busy host gets
// two more tries, and as many times longer as it takes it to start a program
// that has nothing to do.
func (f failing) soon(t *testing.T) result {
	t.Helper()
	const most, start = 2 * time.Second, 50 * time.Millisecond
	var r result
	var idle time.Duration
	for range 3 {
		if r = f.run(t); r.took < most {
			return r
		}
		began := time.Now()
		if err := exec.CommandContext(t.Context(), built.runner, "--version").Run(); err != nil {
			t.Fatal(err)
		}
		if idle = time.Since(began); idle > start && r.took < most*idle/start {
			return r
		}
	}
	t.Errorf("it took %s (a program that does nothing: %s) to say:\n%s", r.took, idle, r.text)
	return r
}

func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d:\n%s", r.code, code, r.text)
	}
	for _, text := range texts {
		if !strings.Contains(r.text, text) {
			t.Errorf("%q is not said:\n%s", text, r.text)
		}
	}
	if strings.Contains(r.text, "panic") || strings.Contains(r.text, "goroutine ") {
		t.Errorf("a panic:\n%s", r.text)
	}
}

// contents are the files below dir, by what is in them.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%d bytes, %x", len(text), sha256.Sum256(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// untouched fails if a file of before is another now, or if one was made other
// than those by which processes share a database.
func untouched(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	after := contents(t, dir)
	for name := range after {
		_, old := before[name]
		if ext := strings.TrimPrefix(name, "/database.sqlite3"); !old && (ext == ".lock" || ext == "-shm" || ext == "-wal") {
			delete(after, name)
		}
	}
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("files were changed (-before +after):\n%s", d)
	}
}

func TestBadPoolFile(t *testing.T) {
	t.Parallel()
	const later = "not built in yet"
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 9; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	bomb += "instances: *a8\n"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"missing", "", []string{"pool.yml: no such file; give its path with --pool"}},
		{"empty", "\n", []string{`pool.yml:1:1: file is empty; list at least one pool under "instances"`}},
		{"without a pool", "version: \"1\"\ninstances: []\n", []string{"pool.yml:2:12: instances: "}},
		{"5 MB", "# " + strings.Repeat("x", 5<<20), []string{"pool.yml:1:1: file is larger than 1 MiB"}},
		{"no YAML", "instances: [", []string{"pool.yml:1:", "not YAML"}},
		{"alias bomb", bomb, []string{"pool.yml:1:1: its aliases expand to more than 100000 values", "write the values out"}},
		{"a name twice", pretend + "  - {name: p, type: noop, spec: {}}\n", []string{`pool.yml:3:12: instances[1].name: "p" is already the name of instances[0] on line 2; rename one`}},
		{"a key twice", "instances:\n  - name: p\n    type: noop\n    pool: 1\n    pool: 2\n    spec: {}\n", []string{"pool.yml:5:5: instances[0].pool: key given twice, first on line 4; keep one"}},
		{"wrong types, all at once", "instances:\n  - name: p\n    type: noop\n    pool: many\n    spec: {capacity: [1]}\n", []string{
			`pool.yml:4:11: instances[0].pool: want a whole number, found the text "many"; write it in digits`,
			"pool.yml:5:22: instances[0].spec.capacity: want a whole number, found a list; write one value",
		}},
		{"unknown type", "instances:\n  - name: p\n    type: nop\n    spec: {}\n", []string{`pool.yml:3:11: instances[0].type: unknown type "nop"; did you mean "noop"?`}},
		{"a type for later", "instances:\n  - name: p\n    type: digitalocean\n    spec: {account: {pat: x}, image: i, size: s}\n", []string{"pool.yml:3:11: instances[0].type: ", later}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{}
			if c.text != "" {
				files["pool.yml"] = strings.TrimPrefix(c.text, "\n")
			}
			f := failing{dir: folder(t, files)}
			before := contents(t, f.dir)
			f.soon(t).want(t, 1, append(c.want, "nothing is served")...)
			untouched(t, f.dir, before)
			// A type that is known and not built in is no mistake of the file's.
			code, said := 1, c.want[0]
			if c.want[len(c.want)-1] == later {
				code, said = 0, "is "+later
			}
			if check := f.run(t, "check"); check.code != code || !strings.Contains(check.text, said) {
				t.Errorf("check says %d:\n%s", check.code, check.text)
			}
		})
	}
}

// TestNegativeNumbers are warnings, with the value that is used instead; a
// strict check takes them for errors.
func TestNegativeNumbers(t *testing.T) {
	t.Parallel()
	text := "instances:\n  - name: p\n    type: noop\n    pool: -1\n    limit: -2\n    spec: {}\n"
	want := []string{"pool.yml:4:11: instances[0].pool: -1 is negative, pool is taken as 0", "pool.yml:5:12: instances[0].limit: -2 is negative, limit is taken as 100"}
	wantWarnings := []string{"pool.yml:4:11: warning: instances[0].pool: -1 is negative, pool is taken as 0", "pool.yml:5:12: warning: instances[0].limit: -2 is negative, limit is taken as 100"}
	f := failing{dir: folder(t, map[string]string{"pool.yml": text})}
	f.run(t, "check").want(t, 0, wantWarnings...)
	f.run(t, "check", "--strict").want(t, 1, want...)

	r := newRunner(t, text)
	r.start()
	var pools struct {
		Pools []struct{ Min, Max int } `json:"pools"`
	}
	if err := r.get("/v1/pools", &pools); err != nil {
		t.Fatal(err)
	}
	if len(pools.Pools) != 1 || pools.Pools[0].Min != 0 || pools.Pools[0].Max != 100 {
		t.Errorf("pools as served: %+v", pools.Pools)
	}
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, w := range wantWarnings {
		if !strings.Contains(r.log.String(), w) {
			t.Errorf("%q is not in the log", w)
		}
	}
}

// used is a data directory with a database in which machines' keys are sealed,
// which no runner serves any more.
func used(t *testing.T) (dir string) {
	t.Helper()
	r := newPretend(t, pretend)
	r.start()
	r.waitWarm(1)
	if code := r.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	dir = folder(t, map[string]string{"pool.yml": pretend})
	for _, name := range []string{"database.sqlite3", "seal.key"} {
		text, err := os.ReadFile(filepath.Join(r.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestBadDatabase: whatever is wrong with the file is said within two seconds,
// with the file and the remedy, and every file stays as it was.
func TestBadDatabase(t *testing.T) {
	t.Parallel()
	must := func(t *testing.T, errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	chown := func(t *testing.T, path string) {
		t.Helper()
		if os.Getuid() == 0 {
			must(t, os.Chown(path, nobody, nobody))
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, f *failing, path string)
		want  []string
	}{
		{
			"read-only file",
			func(t *testing.T, f *failing, path string) {
				f.binary, f.nobody = openRunner(t), true
				chown(t, f.dir)
				chown(t, filepath.Join(f.dir, "seal.key"))
				must(t, os.Chmod(path, 0o444))
			},
			[]string{"database.sqlite3", "let this user (uid"},
		},
		{
			"read-only directory",
			func(t *testing.T, f *failing, path string) {
				f.binary, f.nobody = openRunner(t), true
				chown(t, path)
				chown(t, filepath.Join(f.dir, "seal.key"))
				must(t, os.Chmod(f.dir, 0o555))
				t.Cleanup(func() { must(t, os.Chmod(f.dir, 0o755)) })
			},
			[]string{"permission denied", "--data-dir"},
		},
		{
			"file of somebody else",
			func(t *testing.T, f *failing, path string) {
				f.binary, f.nobody = openRunner(t), true
				chown(t, f.dir)
				must(t, os.Chmod(path, 0o000))
			},
			[]string{"database.sqlite3", "uid"},
		},
		{
			"locked by another program",
			func(t *testing.T, f *failing, path string) { holdDatabase(t, path) },
			[]string{"database.sqlite3", "locked"},
		},
		{
			"a damaged page",
			func(t *testing.T, _ *failing, path string) {
				text, err := os.ReadFile(path)
				must(t, err)
				for i := 4096 + 8; i < len(text); i++ {
					text[i] = 0xff
				}
				must(t, os.WriteFile(path, text, 0o600))
			},
			[]string{"database.sqlite3", "damaged"},
		},
		{
			"half a file",
			func(t *testing.T, _ *failing, path string) {
				info, err := os.Stat(path)
				must(t, err, os.Truncate(path, info.Size()/2+100))
			},
			[]string{"database.sqlite3", "damaged"},
		},
		{
			"no database",
			func(t *testing.T, _ *failing, path string) {
				must(t, os.WriteFile(path, []byte(strings.Repeat("These are my photographs, and they must stay. ", 100)), 0o600))
			},
			[]string{"database.sqlite3", "not a"},
		},
		{
			"a directory in its place",
			func(t *testing.T, _ *failing, path string) {
				must(t, os.Remove(path), os.Mkdir(path, 0o755), os.WriteFile(filepath.Join(path, "x"), []byte("x"), 0o600))
			},
			[]string{"database.sqlite3 is a directory; set DRONE_DATABASE_DATASOURCE to a file in it"},
		},
		{
			"a directory that is not there",
			func(_ *testing.T, f *failing, _ string) {
				f.env = []string{"DRONE_DATABASE_DATASOURCE=" + filepath.Join(f.dir, "no", "such", "db.sqlite3")}
			},
			[]string{"no/such/db.sqlite3", "no/such does not exist; make it, or set DRONE_DATABASE_DATASOURCE"},
		},
		{
			"the key is gone",
			func(t *testing.T, f *failing, _ string) { must(t, os.Remove(filepath.Join(f.dir, "seal.key"))) },
			[]string{"the store is sealed with key", "there is no key in", "seal.key; put that key there, or set RUNNER_SEAL_KEY"},
		},
		{
			"another key in the file",
			func(t *testing.T, f *failing, _ string) {
				must(t, os.WriteFile(filepath.Join(f.dir, "seal.key"), []byte(strings.Repeat("0a", 32)+"\n"), 0o600))
			},
			[]string{"the store is sealed with key", "seal.key is ", "use the store's own key"},
		},
		{
			"another key in the environment",
			func(_ *testing.T, f *failing, _ string) {
				f.env = []string{"RUNNER_SEAL_KEY=" + strings.Repeat("0b", 32)}
			},
			[]string{"the store is sealed with key", "the key in RUNNER_SEAL_KEY is"},
		},
		{
			"no key at all in the environment",
			func(_ *testing.T, f *failing, _ string) { f.env = []string{"RUNNER_SEAL_KEY=short"} },
			[]string{"seal key in RUNNER_SEAL_KEY: 5 characters are not 32 bytes", "openssl rand"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := failing{dir: used(t)}
			c.spoil(t, &f, filepath.Join(f.dir, "database.sqlite3"))
			before := contents(t, f.dir)
			f.soon(t).want(t, 1, c.want...)
			untouched(t, f.dir, before)
		})
	}
}

// holdDatabase locks a database file as another SQLite program does that
// writes to it alone. The kernel lets go when the test's process ends.
func holdDatabase(t *testing.T, path string) (release func()) {
	t.Helper()
	// SQLite's pending, reserved and shared bytes.
	return holdBytes(t, path, 0x40000000, 512)
}

// holdBytes locks a range of a file.
func holdBytes(t *testing.T, path string, start, length int64) (release func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: length}
	// Of the open file, not of the process, which loses its locks by closing
	// any other file of the same name.
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // unless released before
	return func() { _ = f.Close() }     // nothing was written
}

// TestSecondRunner: a second runner is refused, and the first does not notice.
func TestSecondRunner(t *testing.T) {
	t.Parallel()
	r := newPretend(t, pretend)
	r.start()
	r.waitWarm(1)
	path := filepath.Join(r.dir, "database.sqlite3")
	for _, c := range []struct {
		name string
		f    failing
		want []string
	}{
		{"same data directory", failing{dir: r.dir}, []string{"a runner already serves", r.dir}},
		{
			"same database from another directory",
			failing{dir: folder(t, map[string]string{"pool.yml": pretend}), env: []string{"DRONE_DATABASE_DATASOURCE=" + path, "RUNNER_SEAL_KEY_FILE=" + filepath.Join(r.dir, "seal.key")}},
			[]string{path + " is in use by another runner (process " + fmt.Sprint(r.cmd.Process.Pid), "stop it"},
		},
		{
			"same port",
			failing{dir: folder(t, map[string]string{"pool.yml": pretend}), env: []string{"DRONE_HTTP_BIND=" + r.addr}},
			[]string{r.addr, "DRONE_HTTP_BIND"},
		},
	} {
		c.f.soon(t).want(t, 1, c.want...)
	}
	r.take("s")
	r.must(200, "/destroy", map[string]string{"id": "s"})
	r.waitWarm(1)
	r.auditPretend()
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	r := newPretend(t, pretend)
	r.start()
	r.waitWarm(1)
	before := r.instances()
	const shapes = `"error_msg":`
	for _, c := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"nothing", "", 400, shapes},
		{"broken", "{bad", 400, "invalid character"},
		{"cut off", `{"id":"x"`, 400, shapes},
		{"a list", "[]", 400, "array"},
		{"a number", "1", 400, "number"},
		{"a text", `"x"`, 400, "string"},
		{"deep", strings.Repeat("[", 200_000), 400, "exceeded max depth"},
		{"deep in a key that is dropped", `{"x":` + strings.Repeat("[", 200_000), 400, "exceeded max depth"},
		{"40 MB", `{"id":"` + strings.Repeat("x", 40<<20) + `"}`, 413, "larger than 32 MiB"},
		{"40 MB of blanks", strings.Repeat(" ", 40<<20), 413, "larger than 32 MiB"},
		{"wrong types", `{"id":7,"stage_runtime_id":7}`, 400, "cannot unmarshal number"},
	} {
		for _, path := range []string{"/setup", "/step", "/destroy", "/suspend"} {
			a, err := r.post(t.Context(), path, c.body)
			if err != nil && c.status == 413 {
				continue // the connection was closed while the rest was being sent
			}
			if err != nil || a.status != c.status || !bytes.Contains(a.body, []byte(c.want)) {
				t.Errorf("%s, %s: %d %s, %v", c.name, path, a.status, a.body, err)
			}
		}
	}
	// null is an empty object.
	for path, field := range map[string]string{"/setup": "id", "/destroy": "stage_runtime_id", "/suspend": "stage_runtime_id"} {
		if a := r.must(400, path, "null"); !bytes.Contains(a.body, []byte("mandatory field '"+field+"' in the request body is empty")) {
			t.Errorf("%s null: %s", path, a.body)
		}
	}
	if a := r.must(400, "/step", "null"); !bytes.Contains(a.body, []byte("either parameter 'id' or 'ip_address' must be provided")) {
		t.Errorf("/step null: %s", a.body)
	}
	if d := cmp.Diff(before, r.instances()); d != "" {
		t.Errorf("bad bodies have changed the machines: %s", d)
	}

	// Keys in odd case count, unknown ones do not.
	r.must(200, "/setup", `{"ID":"odd","Pool_Id":"p","unknown":{"a":[null]},"Setup_Request":{"ENVS":{"A":"b"},"new":1}} trailing`)
	r.must(200, "/step", `{"STAGE_RUNTIME_ID":"odd","start_Step_request":{"ID":"s","run":{"Commands":["true"]},"unknown":{}},"x":1}`)
	r.must(200, "/destroy", `{"Stage_Runtime_Id":"odd","y":[]}`)
	if a := r.must(400, "/setup", map[string]string{"id": "", "pool_id": "p"}); !bytes.Contains(a.body, []byte("mandatory field 'id'")) {
		t.Errorf("an empty id: %s", a.body)
	}
	if a := r.must(400, "/setup", map[string]string{"id": strings.Repeat("x", 1001), "pool_id": "p"}); !bytes.Contains(a.body, []byte("1001 characters, at most 1000")) {
		t.Errorf("an id that is too long: %s", a.body)
	}
	r.waitWarm(1)
	r.auditPretend()
}

// TestIDs are opaque text: alike ones are different stages, and none leads to
// a file.
func TestIDs(t *testing.T) {
	t.Parallel()
	r := newPretend(t, strings.ReplaceAll(pretend, "limit: 3", "limit: 20"))
	r.start()
	outside := filepath.Dir(r.dir)
	list := func() (names []string) {
		for _, dir := range []string{outside, r.dir, filepath.Join(r.dir, "noop"), os.TempDir()} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if dir != os.TempDir() || strings.HasPrefix(e.Name(), "x-e2e") {
					names = append(names, filepath.Join(dir, e.Name()))
				}
			}
		}
		return names
	}
	r.waitWarm(1)
	before := list()
	ids := []string{
		"01", "1", " 1", "1 ", "1.0", "0x1", strings.Repeat("x", 500), strings.Repeat("x", 499) + "y", "ä", "a\u0308", "設定-🙂", "\u202e",
		"../x-e2e", "../../../../tmp/x-e2e", "/tmp/x-e2e", `..\x-e2e`, "a/b", "%2e%2e%2f", "'; DROP TABLE leases; --", "a\nb", ".", "..",
	}
	machines := map[string]string{}
	for _, id := range ids[:12] {
		got := r.take(id)
		if other, ok := machines[got.InstanceID]; ok {
			t.Errorf("%q and %q have one machine", id, other)
		}
		machines[got.InstanceID] = id
	}
	for _, id := range ids[:12] {
		r.must(200, "/destroy", map[string]string{"id": id})
	}
	for _, id := range ids[12:] {
		r.take(id)
		// The step's id meets the files of the machine's agent.
		if a, err := r.post(t.Context(), "/step", stepBody(id, id, "true", nil)); err != nil || a.status != 200 {
			t.Errorf("step %q: %d %s %v", id, a.status, a.body, err)
		}
		r.must(200, "/destroy", map[string]string{"id": id})
		r.must(200, "/destroy", map[string]string{"id": id + "-never-seen"})
	}
	for _, pool := range []string{"../p", "p/../p", "P", " p"} {
		if a := r.must(500, "/setup", map[string]string{"id": "s", "pool_id": pool}); !bytes.Contains(a.body, []byte("could not find pool: "+pool)) {
			t.Errorf("pool %q: %s", pool, a.body)
		}
	}
	if d := cmp.Diff(before, list()); d != "" {
		t.Errorf("files have come or gone: %s", d)
	}
	r.waitWarm(1)
	r.auditPretend()
}

// take is setup in the pool of pretend machines.
func (r *runner) take(id string) setupAnswer {
	r.t.Helper()
	body := buildSetup(id)
	body["pool_id"] = "p"
	var out setupAnswer
	r.must(200, "/setup", body).json(r.t, &out)
	return out
}

func TestUnknownPoolNamesAllPools(t *testing.T) {
	t.Parallel()
	r := newPretend(t, pretend)
	r.start()
	a := r.must(500, "/setup", map[string]any{"id": "s", "pool_id": "nosuch", "fallback_pool_ids": []string{"neither", "nosuch"}})
	for _, want := range []string{"could not find pool: nosuch", "could not find pool: neither"} {
		if bytes.Count(a.body, []byte(want)) != 1 {
			t.Errorf("%q is not said once: %s", want, a.body)
		}
	}
	// One that exists is enough.
	r.must(200, "/setup", map[string]any{"id": "s", "pool_id": "nosuch", "fallback_pool_ids": []string{"p"}})
	r.must(200, "/destroy", map[string]string{"id": "s"})
	r.waitWarm(1)
	r.auditPretend()
}

func TestPoolAtItsLimit(t *testing.T) {
	t.Parallel()
	r := newPretend(t, strings.ReplaceAll(pretend, "limit: 3", "limit: 1"))
	r.start()
	r.waitWarm(1)
	r.take("a")
	began := time.Now()
	a := r.must(500, "/setup", map[string]string{"id": "b", "pool_id": "p"})
	if took := time.Since(began); took < 900*time.Millisecond || !bytes.Contains(a.body, []byte("pool p is at its limit (1 of 1 machines)")) {
		t.Errorf("after %s: %s", took, a.body)
	}
	r.must(200, "/destroy", map[string]string{"id": "a"})
	r.take("b")
	r.must(200, "/destroy", map[string]string{"id": "b"})
	r.waitWarm(1)
	r.auditPretend()
}

// TestPoolsDoNotNeedEachOther: without QEMU its pool says which package to
// install, and the others work.
func TestPoolsDoNotNeedEachOther(t *testing.T) {
	t.Parallel()
	r := newPretend(t, pretend+"  - {name: vm, type: qemu, pool: 1, limit: 2, wait: 1s, platform: {os: linux}, spec: {image: tiny, address_range: RANGE}}\n")
	r.env = append(r.env, "PATH="+folder(t, nil))
	r.launch()
	var body string
	r.eventually(20*time.Second, "readyz says what is missing", func() error {
		res, err := http.Get("http://" + r.addr + "/readyz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		body = string(text)
		if err == nil && (res.StatusCode == 200 || !strings.Contains(body, "qemu-system-x86")) {
			err = fmt.Errorf("%d %s", res.StatusCode, body)
		}
		return err
	})
	if !strings.Contains(body, "apt-get install") || !strings.Contains(body, "vm") {
		t.Errorf("readyz: %s", body)
	}
	r.waitWarm(1)
	r.take("s")
	if a := r.must(500, "/setup", map[string]string{"id": "v", "pool_id": "vm"}); !bytes.Contains(a.body, []byte("qemu-system-x86")) {
		t.Errorf("a request to the pool without QEMU: %s", a.body)
	}
	r.must(200, "/destroy", map[string]string{"id": "s"})
	r.waitWarm(1)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

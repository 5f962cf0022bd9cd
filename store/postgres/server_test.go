package postgres_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/vm-runner/drone-runner-aws/internal/testhost"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
	"github.com/vm-runner/drone-runner-aws/store/storetest"
)

// dsnEnv names a server to use; without it the tests start one of their own.
const dsnEnv = "TEST_POSTGRES_DSN"

// server is the data source of the server of this run, or why there is none.
var server struct {
	dsn string
	err error
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	server.dsn = os.Getenv(dsnEnv)
	if server.dsn == "" {
		var stop func()
		server.dsn, stop, server.err = startServer()
		if stop != nil {
			defer stop()
		}
	}
	return m.Run()
}

// startServer starts a private server from the newest installed binaries, on a
// loopback port with its data in a temporary directory.
func startServer() (dsn string, stop func(), err error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", nil, errors.New("no Postgres to test with: install the package postgresql, or set " + dsnEnv)
	}
	slices.Sort(found)
	bin := filepath.Dir(found[len(found)-1])
	dir, err := os.MkdirTemp("", "postgres-test-")
	if err != nil {
		return "", nil, err
	}
	clean := func() { _ = os.RemoveAll(dir) }

	// The server refuses to run as root.
	as := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			u, err = user.Lookup("nobody")
		}
		if err != nil {
			return "", clean, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			return "", clean, err
		}
	}
	command := func(name string, args ...string) error {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, as
		out := &bytes.Buffer{}
		if name == "initdb" {
			cmd.Stdout, cmd.Stderr = out, out
		}
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		return nil
	}
	data := filepath.Join(dir, "data")
	if err := command("initdb", "-D", data, "-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"); err != nil {
		return "", clean, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", clean, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close() // the server takes it over
	options := fmt.Sprintf("-p %d -k %s -c listen_addresses=127.0.0.1 -c max_connections=400 -c fsync=on -c deadlock_timeout=100ms", port, dir)
	if err := command("pg_ctl", "-D", data, "-w", "-l", filepath.Join(dir, "log"), "-o", options, "start"); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		return "", clean, fmt.Errorf("%w: %s", err, log)
	}
	stop = func() {
		if err := command("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"); err != nil {
			fmt.Fprintln(os.Stderr, "stop test server:", err)
		}
		clean()
	}
	return fmt.Sprintf("postgres://test@127.0.0.1:%d/postgres?sslmode=disable", port), stop, nil
}

// schemas numbers the schemas of a run.
var schemas atomic.Int64

// schemaDSN makes an empty schema and returns the data source that uses it.
func schemaDSN(t testing.TB) string {
	t.Helper()
	if server.err != nil {
		testhost.Lacks(t, "%v", server.err)
	}
	db, err := sql.Open("pgx", server.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), schemas.Add(1))
	if _, err := db.ExecContext(t.Context(), `CREATE SCHEMA `+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		db, err := sql.Open("pgx", server.dsn)
		if err != nil {
			t.Error(err)
			return
		}
		defer db.Close()
		if _, err := db.Exec(`DROP SCHEMA ` + name + ` CASCADE`); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(server.dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String()
}

func testKey(t testing.TB, b byte) *store.Sealer {
	t.Helper()
	s, err := store.NewSealer(bytes.Repeat([]byte{b}, store.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func opened(t testing.TB, dsn string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Options{
		DSN: dsn, Seal: testKey(t, 1), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t testing.TB) pool.Store { return opened(t, schemaDSN(t)) })
}

func BenchmarkStore(b *testing.B) {
	storetest.Bench(b, func(b testing.TB) pool.Store { return opened(b, schemaDSN(b)) })
}

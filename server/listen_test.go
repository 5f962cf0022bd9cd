package server_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/server"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// shortDir is a temporary directory whose path fits into a socket address.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vmr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestTheAdminSocketServesItsOwner(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	l, err := server.ListenAdmin(t.Context(), dir, server.AdminSocket)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, server.AdminSocket)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := newServer(t, server.Config{Service: v1Fake()})
	go func() { ended <- s.Serve(ctx, nil, l) }()

	c, err := client.New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	if pools, err := c.Pools(t.Context()); err != nil || len(pools) != 2 {
		t.Errorf("%v, %v", pools, err)
	}
	if _, err := server.ListenAdmin(t.Context(), dir, server.AdminSocket); !errors.Is(err, server.ErrServed) {
		t.Errorf("a second runner got the socket: %v", err)
	}
	c.Close()
	stop()
	if err := within(t, ended, "end"); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestAStaleAdminSocketIsReplaced(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	path := filepath.Join(dir, server.AdminSocket)
	dead, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := server.ListenAdmin(t.Context(), dir, server.AdminSocket)
	if err != nil {
		t.Fatal(err)
	}
	// Another runner's socket in its place is not removed with ours.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("a file that is not ours was removed: %v", err)
	}
}

func TestWhatIsNoSocketIsNotReplaced(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	path := filepath.Join(dir, server.AdminSocket)
	if err := os.WriteFile(path, []byte("precious"), fs.FileMode(0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.ListenAdmin(t.Context(), dir, server.AdminSocket); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names the file", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("now it is %q", b)
	}
	if _, err := server.ListenAdmin(t.Context(), filepath.Join(dir, strings.Repeat("d", 120)), server.AdminSocket); err == nil {
		t.Error("a directory that is missing: want an error")
	}
	long := filepath.Join(dir, strings.Repeat("d", 120))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := server.ListenAdmin(t.Context(), long, server.AdminSocket); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("got %v, want an error that says the path is too long", err)
	}
}

// A runner killed between fork and exec of a machine leaves its socket open in
// the child for a moment: whoever connects then is hung up on without a word.
func TestAnAdminSocketThatOnlyHangsUpIsStale(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	left, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, server.AdminSocket))
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	gone := make(chan error, 1)
	go func() {
		conn, err := left.Accept() // as long as this one waits, the child has not become the machine
		if err == nil {
			err = conn.Close()
		}
		gone <- errors.Join(err, left.Close())
	}()
	l, err := server.ListenAdmin(t.Context(), dir, server.AdminSocket)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(within(t, gone, "hang up"), l.Close()); err != nil {
		t.Error(err)
	}
}

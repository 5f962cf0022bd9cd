//go:build linux

package qemu_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

// patience bounds every wait on a real machine: ten times what a whole Debian takes, emulated,
// on a quiet host.
const patience = 5 * time.Minute

// heavy bounds the tests that have machines at the same time: a core emulates
// one busy machine.
var heavy = make(chan struct{}, max(2, min(8, runtime.NumCPU())))

// shared is what the tests of this package have in common: the folder that
// everything of theirs is in, a loopback network, the image and the templates
// made from it. The packages the image is made of stay in a cache of the
// user's, so that they are fetched once.
var shared struct {
	root    string
	network int // 127.network.0.0/16 is ours
	folders atomic.Int32

	once sync.Once
	err  error
}

func TestMain(m *testing.M) {
	switch role := os.Getenv("QEMU_TEST_CHILD"); role {
	case "":
		os.Exit(runTests(m))
	case "guard":
		os.Exit(guard(os.Getenv("QEMU_TEST_DIR")))
	default:
		os.Exit(child(role))
	}
}

// runTests runs the tests beside a process that ends what they leave running.
func runTests(m *testing.M) int {
	root, err := os.MkdirTemp("", "qemu-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared.root = root
	end, err := startGuard(root)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	network, release, err := claimNetwork()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared.network = network
	code := m.Run()
	if err := errors.Join(release(), end()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// claimNetwork finds a loopback network that no other test process on this host
// uses: an address of it is listened on for as long as this one lives.
func claimNetwork() (network int, release func() error, err error) {
	for n := 100; n < 250; n++ {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.%d.255.254:9078", n)); err == nil {
			return n, l.Close, nil
		}
	}
	return 0, nil, fmt.Errorf("no loopback network is free: %w", err)
}

// sharedDir makes image and agent once, on a host that has QEMU.
func sharedDir(tb testing.TB) string {
	tb.Helper()
	testhost.Program(tb, binary(), "qemu-system-x86 (or qemu-system-arm)")
	shared.once.Do(func() { shared.err = makeShared(shared.root, tb.Logf) })
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.root
}

func binary() string {
	return map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[runtime.GOARCH]
}

func makeShared(dir string, logf func(string, ...any)) error {
	cache := os.Getenv("TEST_IMAGE_DIR")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		cache = filepath.Join(user, "drone-runner-aws-test")
	}
	images := filepath.Join(dir, "images")
	for _, d := range []string{filepath.Join(cache, "packages"), images, filepath.Join(dir, "templates")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink(filepath.Join(cache, "packages"), filepath.Join(images, ".cache")); err != nil {
		return err
	}
	agent, err := buildAgent(dir)
	if err != nil {
		return err
	}
	_, err = image.Build(context.Background(), image.Options{
		Dir: images, AgentPath: agent, AgentVersion: "test",
		Progress: func(step string, _, _ int64) { logf("%s", step) },
	})
	return err
}

// buildAgent compiles the agent, or takes one that is there: for users who may
// not build here.
func buildAgent(dir string) (string, error) {
	if agent := os.Getenv("TEST_RUNNER_AGENT"); agent != "" {
		return agent, nil
	}
	agent := filepath.Join(dir, "runner-agent")
	build := exec.Command("go", "build", "-tags=urfave_cli_no_docs", "-trimpath", "-ldflags=-s -w", "-o", agent, "github.com/vm-runner/drone-runner-aws/cmd/runner-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return agent, nil
}

// emptyDir is a new data directory without anything, gone after the test.
func emptyDir(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(shared.root, strconv.Itoa(int(shared.folders.Add(1))))
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// dataDir is a new data directory with the shared image and templates.
func dataDir(tb testing.TB) string {
	tb.Helper()
	dir := emptyDir(tb)
	for _, name := range []string{"images", "templates"} {
		if err := os.Symlink(filepath.Join(sharedDir(tb), name), filepath.Join(dir, name)); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// addressRange is the network of one data directory; its number is the
// folder's name.
func addressRange(dir string) string {
	n, err := strconv.Atoi(filepath.Base(dir))
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("127.%d.%d.0/24", shared.network, n%250)
}

// open makes a driver on a data directory, as a started runner would.
func open(tb testing.TB, dir string, change ...func(*qemu.Config)) *qemu.Driver {
	tb.Helper()
	cfg := qemu.NewConfig()
	cfg.AddressRange = addressRange(dir)
	for _, f := range change {
		f(cfg)
	}
	d, err := qemu.New(options(dir, cfg, tb.Output()))
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func options(dir string, cfg *qemu.Config, log io.Writer) drivers.Options {
	return drivers.Options{
		Pool: "test", Config: cfg, DataDir: dir, Limit: 10,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// fresh is a driver on a data directory of its own, emptied after the test. It
// waits for its turn to have machines.
func fresh(tb testing.TB, change ...func(*qemu.Config)) (*qemu.Driver, string) {
	tb.Helper()
	takeTurn(tb)
	dir := dataDir(tb)
	d := open(tb, dir, change...)
	tb.Cleanup(func() { cleanUp(tb, d, dir) })
	return d, dir
}

// takeTurn waits until the host has room for one more test with machines, and
// keeps the place until the test has ended.
func takeTurn(tb testing.TB) {
	tb.Helper()
	heavy <- struct{}{}
	tb.Cleanup(func() { <-heavy })
}

// cleanUp destroys all machines and finds that nothing of them is left.
func cleanUp(tb testing.TB, d *qemu.Driver, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := d.List(ctx, drivers.Query{})
	if err != nil {
		tb.Error(err)
	}
	var refs []drivers.Ref
	for _, i := range l.Instances {
		refs = append(refs, i.Ref)
	}
	for _, err := range d.Destroy(ctx, refs, drivers.DestroyOptions{}) {
		if err != nil {
			tb.Error(err)
		}
	}
	nothingLeft(tb, dir)
}

// nothingLeft finds neither folders nor processes of machines.
func nothingLeft(tb testing.TB, dir string) {
	tb.Helper()
	if left := folders(tb, dir); len(left) != 0 {
		tb.Errorf("folders left: %v", left)
	}
	if left := qemusIn(dir + "/machines/"); len(left) != 0 {
		tb.Errorf("processes left: %v", left)
	}
}

// folders are the names in a data directory's machines folder.
func folders(tb testing.TB, dir string) []string {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "machines"))
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// processes finds the QEMUs of a machine. Others on this host may have machines
// of the same name.
func processes(dir, name string) []int { return qemusIn(filepath.Join(dir, "machines", name) + "/") }

// bounded is the test's context with an end.
func bounded(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	tb.Cleanup(cancel)
	return ctx
}

func specOf(name string) drivers.Spec {
	return drivers.Spec{Name: name, Tags: drivers.Tags{
		Controller: "c1", Pool: "test", Instance: "i-" + name, Kind: "build",
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Labels: map[string]string{"team": "a"},
	}}
}

// guest is a machine the test talks to.
type guest struct {
	tb     testing.TB
	ref    drivers.Ref
	id     drivers.Identity
	addr   string
	client *http.Client
	setUp  bool // steps can be run
}

// created is a machine that runs and has no identity, for tests that need a
// process and no agent.
func created(tb testing.TB, d *qemu.Driver, name string) drivers.Ref {
	tb.Helper()
	ref, err := d.Create(bounded(tb), specOf(name))
	if err != nil {
		tb.Fatal(err)
	}
	return ref
}

// machine creates and identifies one and proves that it answers.
func machine(tb testing.TB, d *qemu.Driver, name string) *guest {
	tb.Helper()
	g := &guest{tb: tb, ref: created(tb, d, name), id: identityOf(tb, name)}
	if err := d.Identify(bounded(tb), g.ref, g.id); err != nil {
		tb.Fatal(err)
	}
	g.at(find(tb, d, name))
	g.healthy()
	return g
}

// find is a machine as List shows it.
func find(tb testing.TB, d *qemu.Driver, name string) drivers.Instance {
	tb.Helper()
	l, err := d.List(bounded(tb), drivers.Query{})
	if err != nil {
		tb.Fatal(err)
	}
	if !l.Complete {
		tb.Error("the listing is not complete")
	}
	for _, i := range l.Instances {
		if i.Name == name {
			return i
		}
	}
	tb.Fatalf("%s is not listed: %+v", name, l.Instances)
	return drivers.Instance{}
}

// at makes a new client for the machine's address.
func (g *guest) at(i drivers.Instance) {
	g.tb.Helper()
	g.addr = net.JoinHostPort(i.Address, strconv.Itoa(i.Port))
	pair, err := tls.X509KeyPair(g.id.Cert, g.id.Key)
	if err != nil {
		g.tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(g.id.CACert)
	g.client = &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: g.id.ServerName},
	}}
	g.tb.Cleanup(g.client.CloseIdleConnections)
}

// call makes one request; the first dial must succeed, nothing is retried.
func (g *guest) call(method, path, body string) (string, error) {
	ctx := bounded(g.tb)
	req, err := http.NewRequestWithContext(ctx, method, "https://"+g.addr+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	res, err := g.client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, res.Status, raw)
	}
	return string(raw), err
}

func (g *guest) healthy() {
	g.tb.Helper()
	if body, err := g.call(http.MethodGet, "/healthz", ""); err != nil {
		g.tb.Fatalf("healthz: %v %s", err, body)
	}
}

// steps numbers steps, whose ids must differ on a machine.
var steps struct {
	sync.Mutex
	n int
}

// run runs a command in the machine and returns what it wrote to $OUT.
func (g *guest) run(command string) string {
	g.tb.Helper()
	steps.Lock()
	steps.n++
	id := fmt.Sprintf("step%d", steps.n)
	steps.Unlock()
	if !g.setUp {
		if _, err := g.call(http.MethodPost, "/setup", `{"network":{"id":"n"},"mount_docker_socket":false,"log_config":{},"ti_config":{}}`); err != nil {
			g.tb.Fatal(err)
		}
		g.setUp = true
	}
	raw, err := json.Marshal(map[string]any{
		"id": id, "name": id, "kind": "Run", "log_key": id, "mount_docker_socket": false, "output_vars": []string{"OUT"},
		"environment": map[string]string{"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
		"run":         map[string]any{"entrypoint": []string{"/bin/sh", "-c"}, "commands": []string{command}}, "timeout": 60,
	})
	if err != nil {
		g.tb.Fatal(err)
	}
	if _, err := g.call(http.MethodPost, "/start_step", string(raw)); err != nil {
		g.tb.Fatal(err)
	}
	body, err := g.call(http.MethodPost, "/poll_step", `{"id":"`+id+`"}`)
	if err != nil {
		g.tb.Fatal(err)
	}
	var result struct {
		Exited   bool              `json:"exited"`
		ExitCode int               `json:"exit_code"`
		Error    string            `json:"error"`
		Outputs  map[string]string `json:"outputs"`
	}
	if err := json.Unmarshal([]byte(body), &result); err != nil {
		g.tb.Fatal(err)
	}
	if !result.Exited || result.ExitCode != 0 {
		g.tb.Fatalf("step %q: %s", command, body)
	}
	return result.Outputs["OUT"]
}

// identityOf makes a CA and a leaf for one machine.
func identityOf(tb testing.TB, name string) drivers.Identity {
	tb.Helper()
	check := func(err error) {
		if err != nil {
			tb.Helper()
			tb.Fatal(err)
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name + " ca"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-5 * time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"runner-test"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	check(err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	check(err)
	caKeyDER, err := x509.MarshalECPrivateKey(caKey)
	check(err)
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	return drivers.Identity{
		Machine: "i-" + name, Hostname: name, ServerName: "runner-test", CAKey: block("EC PRIVATE KEY", caKeyDER), CACert: block("CERTIFICATE", caDER),
		Key: block("EC PRIVATE KEY", keyDER), Cert: block("CERTIFICATE", leafDER),
	}
}

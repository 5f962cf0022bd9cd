//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkStart is the agent as it is published, from starting its process to
// the first answer of /healthz over mutual TLS; the memory it has then for
// itself, and the size of its file. p50-ms is the median.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	program := filepath.Join(dir, "runner-agent")
	build := exec.CommandContext(b.Context(), "go", "build", "-tags", "urfave_cli_no_docs", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		b.Fatal(err)
	}
	if err := writeCerts(filepath.Join(dir, "certs"), defaultServerName); err != nil {
		b.Fatal(err)
	}
	var took []float64
	var memory int
	for b.Loop() {
		ms, kB := startOnce(b, program, dir)
		took, memory = append(took, ms), max(memory, kB)
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2], "p50-ms")
	b.ReportMetric(float64(memory)/1e3, "RssAnon-MB")
	b.ReportMetric(float64(info.Size())/1e6, "file-MB")
}

// startOnce starts the agent, waits until it is healthy and stops it.
func startOnce(b *testing.B, program, dir string) (ms float64, kB int) {
	addr := freeAddress(b)
	file := filepath.Join(dir, "env")
	text := fmt.Sprintf("HTTPS_BIND=%[2]s\nSERVER_CERT_FILE=%[1]s/certs/server-cert.pem\nSERVER_KEY_FILE=%[1]s/certs/server-key.pem\n"+
		"CLIENT_CERT_FILE=%[1]s/certs/ca-cert.pem\nHARNESS_WORKDIR=%[1]s\nRUNNER_AGENT_STATE_DIR=%[1]s/state\n", dir, addr)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	client := certsClient(b, filepath.Join(dir, "certs"))
	defer client.CloseIdleConnections()
	var log bytes.Buffer
	cmd := exec.CommandContext(b.Context(), program, "server", "--env-file", file)
	cmd.Stderr = &log
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	for tick := time.Tick(500 * time.Microsecond); ; <-tick {
		if time.Since(begun) > time.Minute {
			b.Fatalf("not healthy in a minute:\n%s", &log)
		}
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "https://"+addr+"/healthz", nil)
		if err != nil {
			b.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			continue // it does not listen yet
		}
		if err := res.Body.Close(); err != nil {
			b.Fatal(err)
		}
		if res.StatusCode == http.StatusOK {
			break
		}
	}
	ms = time.Since(begun).Seconds() * 1e3
	kB = anonymous(b, cmd.Process.Pid)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%v\n%s", err, &log)
	}
	return ms, kB
}

// freeAddress is a loopback address nobody listened on a moment ago.
func freeAddress(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// anonymous is the memory a process has for itself, in kB.
func anonymous(b *testing.B, pid int) int {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "RssAnon:" {
			kB, err := strconv.Atoi(fields[1])
			if err != nil {
				b.Fatal(err)
			}
			return kB
		}
	}
	b.Fatal("no RssAnon in /proc")
	return 0
}

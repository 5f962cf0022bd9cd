package userdata

import (
	_ "embed"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

//go:embed scripts/macos.sh
var macScript string

//go:embed scripts/windows.ps1
var windowsScript string

// errLinuxOnly refuses what only linux machines have here.
var errLinuxOnly = errors.New("persistent disks, scratch space and init scripts are for linux machines only")

func onlyLinux(b pool.BootRequest) error {
	if len(b.Disks) > 0 || len(b.Options.Scratch) > 0 || b.InitScript != "" {
		return errLinuxOnly
	}
	return nil
}

// macOS makes a shell script: variables, then what is the same everywhere.
func (r *Renderer) macOS(b pool.BootRequest) (string, error) {
	if err := onlyLinux(b); err != nil {
		return "", err
	}
	if b.Proxy != "" {
		return "", errors.New("a proxy as the only way out is for linux and windows machines only")
	}
	c := conf{
		{"DRIVER", b.Driver},
		{"URLS", strings.Join(r.urls(), " ")},
		{"SHA256_AMD64", r.cfg.SHA256[asset("darwin", "amd64")]},
		{"SHA256_ARM64", r.cfg.SHA256[asset("darwin", "arm64")]},
		{"CA_CERT", trimmed(b.Identity.CACert)},
		{"CERT", trimmed(b.Identity.Cert)},
		{"KEY", trimmed(b.Identity.Key)},
	}
	deadline := ""
	if !b.Deadline.IsZero() {
		deadline = strconv.FormatInt(b.Deadline.Unix(), 10)
	}
	c.set("DEADLINE", deadline)
	return "#!/bin/sh\n# Brings the agent onto this machine and starts it as a service.\nset -eu\n" + c.shell() + "\n" + macScript, nil
}

// windows makes a PowerShell script: variables, then what is the same
// everywhere.
func (r *Renderer) windows(b pool.BootRequest) (string, error) {
	if err := onlyLinux(b); err != nil {
		return "", err
	}
	deadline := ""
	if !b.Deadline.IsZero() {
		deadline = b.Deadline.UTC().Format(time.RFC3339)
	}
	noProxy, authority := "", ""
	if b.Proxy != "" {
		noProxy, authority = r.cfg.Helpers.EgressNoProxy, r.cfg.Helpers.EgressCACert
	}
	urls := r.urls()
	for i := range urls {
		urls[i] = quotePowerShell(urls[i])
	}
	var out strings.Builder
	out.WriteString(`# Brings the agent onto this machine and starts it as a service.
Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
[Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
`)
	for _, v := range [][2]string{
		{"driver", quotePowerShell(b.Driver)},
		{"urls", "@(" + strings.Join(urls, ", ") + ")"},
		{"sha256Amd64", quotePowerShell(r.cfg.SHA256[asset("windows", "amd64")])},
		{"sha256Arm64", quotePowerShell(r.cfg.SHA256[asset("windows", "arm64")])},
		{"deadline", quotePowerShell(deadline)},
		{"egressProxy", quotePowerShell(b.Proxy)},
		{"egressNoProxy", quotePowerShell(noProxy)},
		{"egressCA", quotePowerShell(authority)},
		{"caCert", quotePowerShell(string(b.Identity.CACert))},
		{"cert", quotePowerShell(string(b.Identity.Cert))},
		{"key", quotePowerShell(string(b.Identity.Key))},
	} {
		out.WriteString("$" + v[0] + " = " + v[1] + "\n")
	}
	out.WriteString("\n" + windowsScript)
	if b.Options.PowerShellTags {
		return "<powershell>\n" + out.String() + "</powershell>\n", nil
	}
	return out.String(), nil
}

// quotePowerShell writes a literal; it may span lines.
func quotePowerShell(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func trimmed(pem []byte) string { return strings.TrimSpace(string(pem)) }

package userdata_test

import (
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/amazon"
	"github.com/vm-runner/drone-runner-aws/drivers/google"
	"github.com/vm-runner/drone-runner-aws/internal/userdata"
	"github.com/vm-runner/drone-runner-aws/pool"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	agentURL    = "https://releases.example.com/agent/v1/"
	fallbackURL = "https://mirror.example.com/agent/v1"
	sumAMD64    = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	secretKey   = "-----BEGIN EC PRIVATE KEY-----\nno-real-key\n-----END EC PRIVATE KEY-----\n"
)

// authority is a certificate, made once for these tests.
const authority = `-----BEGIN CERTIFICATE-----
MIIBiTCCAS+gAwIBAgIUN7SvisC4GZ2gFbKCOWe7iWDOwqQwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOUHJveHkgb2YgdGVzdHMwIBcNMjYxMTIyMTEyMzQxWhgPMjEy
NjEwMjkxMTIzNDFaMBkxFzAVBgNVBAMMDlByb3h5IG9mIHRlc3RzMFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAE/LHDq4cjYTdVO2TwmlZBuUuq40PUDkMGK67DYpc3
TqWzE/Nz/f3rvc5nd8BFI/W/k9pYri/br0XnTW0fjogbv6NTMFEwHQYDVR0OBBYE
FDLILJb8an34V86hNHwNP/neZZZbMB8GA1UdIwQYMBaAFDLILJb8an34V86hNHwN
P/neZZZbMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIga+K/5eKO
zCLpYEoYjbQLmDuk715eQzNla+ioUp9j67sCIQC9+JblgP7r7xsHJBK/L/oYxPqu
EQAVcsNV75fCVJmHcw==
-----END CERTIFICATE-----
`

func identity() drivers.Identity {
	return drivers.Identity{
		Machine: "i1", Hostname: "m1", ServerName: "runner",
		CACert: []byte("-----BEGIN CERTIFICATE-----\nca\n-----END CERTIFICATE-----\n"),
		Cert:   []byte("-----BEGIN CERTIFICATE-----\nleaf\n-----END CERTIFICATE-----\n"),
		Key:    []byte(secretKey), CAKey: []byte("never sent"),
	}
}

func renderer(t *testing.T) *userdata.Renderer {
	t.Helper()
	r, err := userdata.New(userdata.Config{
		AgentURL: agentURL, FallbackURL: fallbackURL,
		SHA256: map[string]string{"lite-engine-linux-amd64": sumAMD64},
		Helpers: userdata.Helpers{
			Plugin: "https://plugins.example.com/", TmateEnabled: true, TmateHost: "tmate.example.com",
			EgressNoProxy: "localhost,.example.com", EgressCACert: strings.ReplaceAll(authority, "\n", `\n`),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// options of a pool of a type, whose spec change may alter.
func googleOptions(t *testing.T, change func(*google.Spec)) drivers.BootOptions {
	t.Helper()
	s := google.Registration.NewConfig().(*google.Spec)
	if change != nil {
		change(s)
	}
	return optionsOf(t, s)
}

func amazonOptions(t *testing.T, change func(*amazon.Spec)) drivers.BootOptions {
	t.Helper()
	s := amazon.Registration.NewConfig().(*amazon.Spec)
	if change != nil {
		change(s)
	}
	return optionsOf(t, s)
}

func optionsOf(t *testing.T, s drivers.Booted) drivers.BootOptions {
	t.Helper()
	o, err := s.BootOptions()
	if err != nil {
		t.Fatal(err)
	}
	o.Gzip = false // readable
	return o
}

// requests are one machine of each kind there is a golden file for.
func requests(t *testing.T) map[string]pool.BootRequest {
	t.Helper()
	deadline := time.Date(2026, 11, 26, 4, 30, 0, 0, time.UTC)
	build := func(driver string, p drivers.Platform, o drivers.BootOptions) pool.BootRequest {
		return pool.BootRequest{Pool: "p", Driver: driver, Kind: pool.Build, Platform: p, Identity: identity(), Deadline: deadline, Options: o}
	}
	linux := drivers.Platform{OS: "linux", Arch: "amd64"}
	gitspace := build("google", linux, googleOptions(t, nil))
	gitspace.Kind, gitspace.Deadline = pool.Gitspace, time.Time{}
	gitspace.InitScript = "echo \"it's a secret: hunter2\"\n"
	gitspace.Disks = []drivers.DiskSpec{{Name: "demo-x1y2-disk", SizeGiB: 50, Type: "pd-balanced"}, {Name: "second"}}
	onAmazon := gitspace
	onAmazon.Driver, onAmazon.Options, onAmazon.Disks, onAmazon.InitScript = "amazon", amazonOptions(t, nil), gitspace.Disks[:1], ""
	return map[string]pool.BootRequest{
		"ubuntu on google":         build("google", linux, googleOptions(t, nil)),
		"debian on google":         build("google", drivers.Platform{OS: "linux", Arch: "arm64", OSName: "debian"}, googleOptions(t, nil)),
		"amazon linux":             build("amazon", drivers.Platform{OS: "linux", Arch: "amd64", OSName: "amazon-linux"}, amazonOptions(t, nil)),
		"scratch space on amazon":  build("amazon", linux, amazonOptions(t, func(s *amazon.Spec) { s.EnableC4D = true })),
		"scratch space on google":  build("google", linux, googleOptions(t, func(s *google.Spec) { s.EnableC4D = true })),
		"gitspace on google":       gitspace,
		"gitspace on amazon":       onAmazon,
		"behind a proxy on google": behind(build("google", linux, googleOptions(t, nil))),
		"windows behind a proxy":   behind(build("google", drivers.Platform{OS: "windows", Arch: "amd64"}, googleOptions(t, nil))),
		"windows on google":        build("google", drivers.Platform{OS: "windows", Arch: "amd64"}, googleOptions(t, nil)),
		"windows on amazon":        build("amazon", drivers.Platform{OS: "windows", Arch: "amd64"}, amazonOptions(t, nil)),
		"macos on amazon":          build("amazon", drivers.Platform{OS: "darwin", Arch: "arm64"}, amazonOptions(t, nil)),
		"macos without a deadline": {Driver: "anka", Platform: drivers.Platform{OS: "darwin"}, Identity: identity()},
	}
}

func behind(b pool.BootRequest) pool.BootRequest {
	b.Proxy = "http://proxy.example.com:3128"
	return b
}

func TestBootScripts(t *testing.T) {
	t.Parallel()
	r := renderer(t)
	for name, b := range requests(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.Options.MaxBytes = 0
			got, err := r.Render(b)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".golden")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got; write it with -update):\n%s", golden, diff)
			}
			if bytes.Contains(got, []byte("never sent")) {
				t.Error("the key of the CA is sent to the machine")
			}
			for _, bad := range []string{"777", "0666", "--insecure", "-k ", "http://"} {
				if bad == "http://" && (b.Platform.OS == "darwin" || b.Proxy != "") {
					continue // the name of a document type, and a proxy
				}
				if bytes.Contains(got, []byte(bad)) && bad != "777" || bytes.Contains(bytes.ReplaceAll(got, []byte("1777"), nil), []byte(bad)) && bad == "777" {
					t.Errorf("%q stands in it", bad)
				}
			}
		})
	}
}

func TestEveryScriptFitsItsCloud(t *testing.T) {
	t.Parallel()
	r := renderer(t)
	for name, b := range requests(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.Options.Gzip = b.Driver == "amazon"
			// What real certificates take, and a long init script.
			for _, p := range []*[]byte{&b.Identity.CACert, &b.Identity.Cert, &b.Identity.Key} {
				*p = append(*p, bytes.Repeat([]byte("Zm9v1"), 200)...)
			}
			got, err := r.Render(b)
			if err != nil {
				t.Fatal(err)
			}
			if b.Options.MaxBytes > 0 && len(got) > b.Options.MaxBytes {
				t.Errorf("%d bytes", len(got))
			}
		})
	}
}

func TestAScriptThatIsTooLong(t *testing.T) {
	t.Parallel()
	r := renderer(t)
	b := requests(t)["amazon linux"]
	b.Options.Gzip = true

	b.Options.Template, b.Options.TemplateName = "#!/bin/sh\n"+strings.Repeat("echo a\n", 4000), "setup.sh"
	got, err := r.Render(b)
	if err != nil {
		t.Fatalf("one that packs well: %v", err)
	}
	z, err := gzip.NewReader(bytes.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(z); err != nil || string(text) != b.Options.Template {
		t.Errorf("unpacked: %.40q, %v", text, err)
	}

	noise := make([]byte, 30000)
	for i := range noise {
		noise[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[(i*i*7919+i*104729>>3)%64]
	}
	b.Options.Template = "#!/bin/sh\n# " + string(noise) + string(noise)
	b.Options.Gzip = false
	_, err = r.Render(b)
	if err == nil || !strings.Contains(err.Error(), "setup.sh has ") || !strings.Contains(err.Error(), "amazon takes 16384") {
		t.Errorf("got %v", err)
	}
	g := requests(t)["gitspace on google"]
	g.InitScript = strings.Repeat("x", 300<<10)
	_, err = r.Render(g)
	if err == nil || !strings.Contains(err.Error(), "the init script 307200") || !strings.Contains(err.Error(), "google takes 262144") {
		t.Errorf("got %v", err)
	}
}

func TestWhatCannotBeRendered(t *testing.T) {
	t.Parallel()
	disks := []drivers.DiskSpec{{Name: "d"}}
	for name, c := range map[string]struct {
		cfg  userdata.Config
		b    pool.BootRequest
		want string
	}{
		"no address of the agent":     {userdata.Config{}, pool.BootRequest{Platform: drivers.Platform{OS: "linux"}}, "DRONE_LITE_ENGINE_PATH"},
		"an operating system unknown": {userdata.Config{AgentURL: agentURL}, pool.BootRequest{Platform: drivers.Platform{OS: "plan9"}}, `"plan9"`},
		"disks on windows":            {userdata.Config{AgentURL: agentURL}, pool.BootRequest{Platform: drivers.Platform{OS: "windows"}, Disks: disks}, "linux machines only"},
		"a proxy on macOS":            {userdata.Config{AgentURL: agentURL}, pool.BootRequest{Platform: drivers.Platform{OS: "darwin"}, Proxy: "http://p"}, "linux and windows machines only"},
		"disks of a type without":     {userdata.Config{AgentURL: agentURL}, pool.BootRequest{Driver: "azure", Disks: disks}, "type azure cannot have persistent disks"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := userdata.New(c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Render(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  userdata.Config
		want string
	}{
		"a folder":                        {userdata.Config{AgentURL: "/srv/agents"}, `"/srv/agents" is no address`},
		"an address with a quote":         {userdata.Config{AgentURL: "https://x.example.com/a'b"}, "is no address"},
		"an address with a command":       {userdata.Config{FallbackURL: "https://x.example.com/$(id)"}, "is no address"},
		"a sum that is too short":         {userdata.Config{SHA256: map[string]string{"lite-engine-linux-amd64": "abc"}}, "no SHA-256 of lite-engine-linux-amd64"},
		"no certificate":                  {userdata.Config{Helpers: userdata.Helpers{EgressCACert: "/etc/ca.pem"}}, "DRONE_EGRESS_PROXY_CA_CERT has no certificate; give the PEM itself"},
		"a key for a certificate":         {userdata.Config{Helpers: userdata.Helpers{EgressCACert: secretKey}}, "DRONE_EGRESS_PROXY_CA_CERT has "},
		"a sum with letters beyond the f": {userdata.Config{SHA256: map[string]string{"x": strings.Repeat("g", 64)}}, "no SHA-256"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := userdata.New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one with %q", err, c.want)
			}
		})
	}
}

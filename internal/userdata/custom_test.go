package userdata_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/google"
	"github.com/vm-runner/drone-runner-aws/internal/userdata"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func TestUsersTemplates(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		template, want, problem string
	}{
		"plain text":                {"#!/bin/sh\necho hi\n", "#!/bin/sh\necho hi\n", ""},
		"the agent's address":       {"curl {{ .LiteEnginePath }}/lite-engine-{{ .Platform.OS }}-{{ .Platform.Arch }}", "curl https://releases.example.com/agent/v1/lite-engine-linux-amd64", ""},
		"certificates in base64":    {"{{ .CACert | base64 }}", "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCmNhCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K", ""},
		"a key without its newline": {"[{{ .TLSKey | trim }}]", "[" + strings.TrimSpace(secretKey) + "]", ""},
		"where certificates go":     {"{{ .CertsDirectory }} {{ .CaCertPath }} {{ .CertPath }} {{ .KeyPath }} {{ .LiteEngineLogsPath }}", "/tmp/certs/ /tmp/certs/ca-cert.pem /tmp/certs/server-cert.pem /tmp/certs/server-key.pem /var/log/lite-engine.log", ""},
		"the init script as it was": {"{{ .GitspaceAgentConfig.VMInitScript }}", "ZWNobyBoaQ==", ""},
		"the proxy":                 {"{{ if .EgressControl }}{{ .EgressProxyURL }} {{ .EgressNoProxy }} {{ .EgressCACert | trim | len }}{{ end }}", "http://proxy.example.com:3128 localhost,.example.com 594", ""},
		"a branch":                  {"{{ if .Tmate.Enabled }}{{ .Tmate.Server }}{{ else }}none{{ end }}", "tmate.example.com", ""},
		"a helper's address":        {"{{ .PluginBinaryURI }}/plugin", "https://plugins.example.com/plugin", ""},
		"disks and driver":          {"{{ .StorageConfig.Identifier }} {{ .StorageConfig.Size }} {{ .DriverName }}", "a,b 10 google", ""},
		"another dot in a range":    {"{{ range .GitspaceAgentConfig.Ports }}{{ . }}{{ end }}{{ with .Tmate }}{{ .Server }}{{ end }}", "tmate.example.com", ""},

		"a variable that is misspelt": {"#!/bin/sh\necho {{ .LiteEngnePath }}\n", "", `boot.sh:2:8: there is no variable .LiteEngnePath; did you mean ".LiteEnginePath"?`},
		"one in a branch not taken":   {"{{ if .IsHosted }}{{ .Nope }}{{ end }}", "", "boot.sh:1:21: there is no variable .Nope"},
		"a part that is not there":    {"{{ .Platform.Flavour }}", "", "boot.sh:1:12: there is no variable .Platform.Flavour"},
		"through the root's name":     {"{{ range .GitspaceAgentConfig.Ports }}{{ $.Zork }}{{ end }}", "", "boot.sh:1:42: there is no variable .Zork"},
		"two of them":                 {"{{ .AAA }}\n{{ .BBB }}", "", "boot.sh:2:3: there is no variable .BBB"},
		"a syntax error":              {"a\n{{ if }}\n", "", "boot.sh:2: missing value for if"},
		"a function that is none":     {"{{ .CACert | b64enc }}", "", `boot.sh:1: function "b64enc" not defined`},
		"a part of a text":            {"{{ .CACert.Length }}", "", "can't evaluate field Length"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := renderer(t).Render(pool.BootRequest{
				Driver: "google", Platform: drivers.Platform{OS: "linux", Arch: "amd64"}, Identity: identity(), InitScript: "echo hi",
				Proxy:   "http://proxy.example.com:3128",
				Disks:   []drivers.DiskSpec{{Name: "a", SizeGiB: 10}, {Name: "b"}},
				Options: drivers.BootOptions{Template: c.template, TemplateName: "boot.sh"},
			})
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) {
					t.Fatalf("got %v, want %q", err, c.problem)
				}
				if strings.Contains(err.Error(), "no-real-key") {
					t.Error("the error has the key")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestTemplatesFromAFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "boot.sh")
	if err := os.WriteFile(name, []byte("{{ .Wrong }}"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := googleOptions(t, func(s *google.Spec) { s.UserDataPath = name })
	_, err := renderer(t).Render(pool.BootRequest{Options: o})
	if err == nil || !strings.HasPrefix(err.Error(), name+":1:3: there is no variable .Wrong") {
		t.Errorf("got %v", err)
	}
	s := google.Registration.NewConfig().(*google.Spec)
	s.UserDataPath = name + ".none"
	if _, err := s.BootOptions(); err == nil || !strings.Contains(err.Error(), "user_data_path") {
		t.Errorf("a file that is gone: %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("{{ if .IsHosted }}{{ .Nope }}{{ end }}")
	f.Add("{{ define \"a\" }}{{ .x }}{{ end }}{{ template \"a\" . }}")
	f.Add("{{ with $x := .Tmate }}{{ $x.Server }}{{ break }}{{ end }}")
	r, err := userdata.New(userdata.Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if text == "" {
			return
		}
		if strings.Contains(text, "range") || strings.Contains(text, "template") || strings.Contains(text, "block") || strings.Contains(text, "printf") {
			// Such a one may go on for ever, or fill the memory; checking alone does not.
			_ = userdata.Check("t", text)
			return
		}
		if err := userdata.Check("t", text); err != nil {
			if _, rerr := r.Render(pool.BootRequest{Options: drivers.BootOptions{Template: text, TemplateName: "t"}}); rerr == nil {
				t.Errorf("%q: rendered, though %v", text, err)
			}
		}
	})
}

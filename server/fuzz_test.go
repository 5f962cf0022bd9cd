package server_test

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/peers"
	"github.com/vm-runner/drone-runner-aws/server"
)

// FuzzSettings: the settings an operator writes never panic; what is accepted
// can be used, what is not is an error that names its variable.
func FuzzSettings(f *testing.F) {
	for _, seed := range []string{
		"", "10.0.0.0/8,127.0.0.1", "::ffff:1.2.3.4/96", "fe80::1%eth0", "/a:/b:ro,c", ":", "a:b:c:d",
		`acct={"a":"b"};x={}`, "acct=", ";;=", "0.0.0.0/0",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		items := strings.Split(text, ",")
		if networks, err := peers.Parse(items); err == nil {
			a := server.NewAllowList(server.AllowConfig{Extra: networks, Interfaces: func() ([]peers.Interface, error) { return nil, nil }})
			for _, n := range networks {
				addr := n.Addr()
				machine := netip.MustParsePrefix("127.77.0.0/16").Contains(addr) || netip.MustParsePrefix("127.78.0.0/16").Contains(addr)
				if err := a.Check(addr); (err == nil) == machine {
					t.Errorf("%s is named in %q: %v", addr, text, err)
				}
			}
		} else if !strings.Contains(err.Error(), "DRONE_HTTP_ALLOW") {
			t.Errorf("%v names no variable", err)
		}
		volumes, warnings := server.ParseVolumes(items)
		if len(volumes)+len(warnings) != len(items) {
			t.Errorf("%q: %d volumes and %d warnings", items, len(volumes), len(warnings))
		}
		if out, err := (server.Edits{Volumes: volumes}).Setup(nil); err != nil || !json.Valid(out) {
			t.Errorf("%q: %s, %v", items, out, err)
		}
		if m, err := server.ParsePoolMap(text); err == nil {
			_ = m.Rename(text, text)
		} else if !strings.Contains(err.Error(), "DLITE_POOL_MAP_BY_ACCOUNT_ID") {
			t.Errorf("%v names no variable", err)
		}
	})
}

// FuzzV1: any path and query below /v1 is answered with JSON, or with a log.
func FuzzV1(f *testing.F) {
	for _, seed := range []string{
		"pools", "instances?state=warm,,&limit=-1", "leases/%2e%2e/steps", "leases/a/steps/b/log?offset=99999999999999999999",
		"events?after=1&after=2", "leases/%00", "../v1", "//", "leases/x?%zz", "version;a=b",
	} {
		f.Add(seed)
	}
	s := server.New(server.Config{Service: v1Fake()})
	f.Fuzz(func(t *testing.T, rest string) {
		u, err := url.Parse("/v1/" + rest)
		if err != nil || !strings.HasPrefix(u.EscapedPath(), "/v1/") || strings.ContainsAny(u.String(), " \r\n") {
			return
		}
		resp := exchange(t, s.AdminHandler(), "GET", u.RequestURI(), "")
		body := bodyOf(t, resp)
		switch {
		case strings.Contains(body, "internal error"):
			t.Fatalf("%q: %s", rest, body)
		case strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") && !json.Valid([]byte(body)):
			t.Fatalf("%q: not JSON: %s", rest, body)
		case resp.StatusCode/100 == 3:
			t.Fatalf("%q: redirected to %s", rest, resp.Header.Get("Location"))
		}
	})
}

//go:build unix

package service

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhereAServiceGoesAndWhoIsTold(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, goos string
		uid        int
		home       string
		path, in   string
		install    []string
		removal    []string
	}{
		{
			"root on Linux", "linux", 0, "/root", "/etc/systemd/system/r.service", "WantedBy=multi-user.target",
			[]string{"systemctl daemon-reload", "systemctl enable --now r"},
			[]string{"systemctl disable --now r", "systemctl daemon-reload"},
		},
		{
			"a user on Linux", "linux", 1000, "/home/u", "/home/u/.config/systemd/user/r.service", "WantedBy=default.target",
			[]string{"systemctl --user daemon-reload", "systemctl --user enable --now r"},
			[]string{"systemctl --user disable --now r", "systemctl --user daemon-reload"},
		},
		{
			"root on macOS", "darwin", 0, "", "/Library/LaunchDaemons/r.plist", "<string>r</string>",
			[]string{"launchctl bootstrap system /Library/LaunchDaemons/r.plist"},
			[]string{"launchctl bootout system/r"},
		},
		{
			"a user on macOS", "darwin", 501, "/var/u", "/var/u/Library/LaunchAgents/r.plist", "<string>r</string>",
			[]string{"launchctl bootstrap gui/501 /var/u/Library/LaunchAgents/r.plist"},
			[]string{"launchctl bootout gui/501/r"},
		},
	}
	lines := func(orders [][]string) (out []string) {
		for _, words := range orders {
			out = append(out, strings.Join(words, " "))
		}
		return out
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := placeOf(Spec{Name: "r", Program: "/p", Log: "/l"}, c.goos, c.uid, c.home)
			if err != nil {
				t.Fatal(err)
			}
			if p.path != c.path || !strings.Contains(string(p.text), c.in) {
				t.Errorf("%s, want %s with %q: %s", p.path, c.path, c.in, p.text)
			}
			if diff := cmp.Diff([][]string{c.install, c.removal}, [][]string{lines(p.install), lines(p.removal)}); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := placeOf(Spec{Name: "r", Program: "/p"}, "linux", 1000, ""); err == nil || !strings.Contains(err.Error(), "home directory") {
		t.Errorf("a user without a home: %v", err)
	}
	if _, err := placeOf(Spec{Name: "../r", Program: "/p"}, "linux", 0, ""); err == nil {
		t.Error("a name that leads elsewhere is taken")
	}
}

package pool_test

import (
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/pool"
)

func TestTheConsoleTellsTheLastBootStep(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ console, want string }{
		"nothing on it":               {"", ""},
		"a console without a script":  {"[    1.0] Linux version\r\nlogin: ", ""},
		"a step that hangs":           {"[    9.1] cloud-init[812]: runner-boot: step 2/4 download agent\r\n[   11.0] systemd: x\r\n", "2/4 download agent"},
		"a step that failed":          {"runner-boot: step 1/4 check\nrunner-boot: step 2/4 download agent\nrunner-boot: step 2/4 download agent: failed: no answer from https://x/\n", "2/4 download agent: failed: no answer from https://x/"},
		"a script at its end":         {"runner-boot: step 4/4 start agent\nrunner-boot: done\n", ""},
		"a second boot after the end": {"runner-boot: done\nrunner-boot: step 1/4 check\n", "1/4 check"},
		"a mark cut at its beginning": {"oot: step 2/4 download agent\nx\n", ""},
		"text that is no number":      {"runner-boot: step two of four\n", ""},
		"a step of endless length":    {"runner-boot: step 1/4 " + strings.Repeat("é", 5000), "1/4 " + strings.Repeat("é", 296) + "…"},
		"bytes that are no text":      {"runner-boot: step 1/4 che\xffck\n", "1/4 check"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := pool.LastBootStep(c.console); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestACauseNamesTheBootStep(t *testing.T) {
	t.Parallel()
	c := pool.Cause{Pool: "p", Phase: "boot", Message: "not ready after 3m0s", Step: "2/4 download agent", Console: "login:"}
	if got, want := c.String(), `p: boot: not ready after 3m0s (boot script at step 2/4 download agent) (console tail: "login:")`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzLastBootStep(f *testing.F) {
	f.Add("runner-boot: step 2/4 download agent: failed: x\r\n")
	f.Fuzz(func(t *testing.T, console string) {
		if got := pool.LastBootStep(console); strings.ContainsAny(got, "\r\n") || len([]rune(got)) > 301 {
			t.Errorf("%q gives %q", console, got)
		}
	})
}

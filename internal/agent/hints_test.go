package agent

import (
	"strings"
	"testing"
)

func TestHintsAreGivenForTheLastLinesOnly(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, out string
		want      []string // one word of each hint
	}{
		{"nothing known", "make: *** [all] Error 1\n", nil},
		{"nothing at all", "", nil},
		{"killed", "sh: line 1:  42 Killed  ./build\n", []string{"out of memory"}},
		{"killed, without a newline", "child killed", []string{"out of memory"}},
		{"an untrusted certificate", "fatal: unable to access 'https://git.test/x.git/': SSL certificate problem: unable to get local issuer certificate\n", []string{"trust store"}},
		{"another program's", "curl: SSL certificate problem of a digit\n", nil},
		{"no Docker", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.\n", []string{"mount_docker_socket"}},
		{"two at once", "Killed\nCannot connect to the Docker daemon\n", []string{"out of memory", "mount_docker_socket"}},
		{"the tenth line from the end", "Killed\n" + strings.Repeat("x\n", 9), []string{"out of memory"}},
		{"the eleventh", "Killed\n" + strings.Repeat("x\n", 10), nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := hintsFor([]byte(c.out))
			if len(got) != len(c.want) {
				t.Fatalf("hints %q, want %d", got, len(c.want))
			}
			for i, w := range c.want {
				if !strings.Contains(got[i], w) {
					t.Errorf("hint %q, want one with %q", got[i], w)
				}
			}
		})
	}
}

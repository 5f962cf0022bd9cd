// Package testhost says what a test needs of its host. Only tests import it.
//
// A test that lacks it is skipped, and says what is missing; where the variable
// CI is set it fails, so that nothing is left out unseen. make test installs
// what tests need, and sets CI.
package testhost

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Lacks ends the test, for the host lacks what the text says.
func Lacks(tb testing.TB, format string, args ...any) {
	tb.Helper()
	text := fmt.Sprintf(format, args...)
	if os.Getenv("CI") != "" {
		tb.Fatal(text)
	}
	tb.Skip(text)
}

// Program is the path of a program that Debian has in pkg. The test ends if
// the host has it not.
func Program(tb testing.TB, name, pkg string) string {
	tb.Helper()
	found, err := exec.LookPath(name)
	if err != nil {
		Lacks(tb, "%s is missing: run make test, which installs it, or apt-get install %s", name, pkg)
	}
	return found
}

// Root ends the test of another user than root, who cannot do what.
func Root(tb testing.TB, what string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		Lacks(tb, "only root can %s: run the tests as root", what)
	}
}

package rehearsal_test

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/boot"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/rehearsal"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

func TestMain(m *testing.M) {
	boot.Main()
	os.Exit(m.Run())
}

func ground(t *testing.T, o rehearsal.Options) *rehearsal.Ground {
	t.Helper()
	o.Network, o.Log = netip.MustParsePrefix("127.90.0.0/24"), slog.New(slog.DiscardHandler)
	g, err := rehearsal.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func TestAddressesAreGivenOnceAndRunOut(t *testing.T) {
	t.Parallel()
	g := ground(t, rehearsal.Options{})
	a, b := g.Address("a"), g.Address("b")
	if a == b || g.Address("a") != a || a.String() != "127.90.0.1" {
		t.Errorf("a has %s and then %s, b %s", a, g.Address("a"), b)
	}
	for n := range 260 {
		a = g.Address("other" + strings.Repeat("x", n))
	}
	if a.IsValid() {
		t.Errorf("the 262nd machine of 255 addresses has %s", a)
	}
}

func TestOnlyLoopbackNetworksAreTaken(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"10.0.0.0/16", "127.0.0.1/32", "::1/128"} {
		if _, err := rehearsal.New(rehearsal.Options{Network: netip.MustParsePrefix(network)}); err == nil || !strings.Contains(err.Error(), "127.88.0.0/16") {
			t.Errorf("%s: %v", network, err)
		}
	}
}

// script counts, on its console, how often it was booted and how long it runs.
const script = `#!/bin/sh
echo booted >/dev/console
while :; do echo tick >/dev/console; sleep 0.05; done
`

// sandboxes skips a test where none can be made.
func sandboxes(t *testing.T) {
	t.Helper()
	if m, err := boot.Start(t.Context(), boot.Options{UserData: []byte("#!/bin/sh\n")}); errors.Is(err, boot.ErrUnsupported) {
		testhost.Lacks(t, "namespaces are missing: %v", err)
	} else if err == nil {
		_ = m.Stop() // it was only a trial
	}
}

func TestAMachineSleepsHaltsAndGoesAsItsCloudSays(t *testing.T) {
	t.Parallel()
	sandboxes(t)
	ended := make(chan string, 1)
	g := ground(t, rehearsal.Options{Ended: func(key string) { ended <- key }})
	ticks := func() int { return strings.Count(g.Console("m"), "tick") }
	grows := func() bool {
		before := ticks()
		for end := time.Now().Add(time.Minute); time.Now().Before(end); pause(t) {
			if ticks() > before {
				return true
			}
		}
		return false
	}
	g.Boot(rehearsal.Machine{Key: "m", UserData: []byte(script)})
	if !grows() {
		t.Fatalf("the machine does not run:\n%s", g.Console("m"))
	}
	g.Sleep("m")
	asleep := ticks() // after the order before it
	for range 10 {
		pause(t)
	}
	// What lay in the console's pipe may have come yet.
	if got := ticks(); got > asleep+2 {
		t.Errorf("asleep it went on from %d to %d", asleep, got)
	}
	g.Wake("m")
	if !grows() {
		t.Error("it does not wake")
	}
	g.Halt("m")
	off := ticks()
	for range 5 {
		pause(t)
	}
	if got := ticks(); got != off {
		t.Errorf("switched off it went on from %d to %d", off, got)
	}
	g.Gone("m")
	if text := g.Console("m"); text != "" {
		t.Errorf("gone, it has a console: %q", text)
	}
	select {
	case key := <-ended:
		t.Errorf("%s is said to have ended by itself", key)
	default:
	}

	g.Boot(rehearsal.Machine{Key: "n", UserData: []byte("#!/bin/sh\nshutdown -h now\n")})
	select {
	case key := <-ended:
		if key != "n" {
			t.Errorf("%s is said to have ended", key)
		}
	case <-time.After(time.Minute):
		t.Error("nobody is told of a machine that shut itself down")
	}
}

func pause(t *testing.T) {
	t.Helper()
	tick := time.NewTimer(50 * time.Millisecond)
	defer tick.Stop()
	<-tick.C
}

// plugged says, on its console, when a disk has come, and what is on it: the
// first time it makes a file system, and writes.
const plugged = `#!/bin/sh
while ! [ -e /dev/sdf ]; do sleep 0.05; done
blkid -p /dev/sdf >/dev/null 2>&1 || mkfs.ext4 -q /dev/sdf
mkdir -p /disk && mount "$(readlink -f /dev/sdf)" /disk
echo "found $(cat /disk/file)" >/dev/console
echo precious >/disk/file
`

func TestADiskMayBePluggedInWhileAMachineRuns(t *testing.T) {
	t.Parallel()
	sandboxes(t)
	g := ground(t, rehearsal.Options{})
	disk := rehearsal.Disk{ID: "vol-1", Device: "/dev/sdf"}
	for _, turn := range []struct{ key, want string }{{"m", "found \n"}, {"n", "found precious\n"}} {
		g.Boot(rehearsal.Machine{Key: turn.key, UserData: []byte(plugged)})
		if strings.Contains(g.Console(turn.key), "found") {
			t.Errorf("%s has found a disk that it was not given", turn.key)
		}
		g.Attach(turn.key, disk)
		g.Attach(turn.key, disk) // again is no error
		for end := time.Now().Add(time.Minute); !strings.Contains(g.Console(turn.key), turn.want); pause(t) {
			if time.Now().After(end) {
				t.Fatalf("%s says %q, want %q", turn.key, g.Console(turn.key), turn.want)
			}
		}
		g.Gone(turn.key)
	}
}

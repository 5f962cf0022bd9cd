//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// The guest's end of QEMU's user-mode network, which is the same in each.
const guestAddress = "10.0.2.15/24"

const (
	// wakePatience is how long a machine that continues may take to put its
	// clock right; measured 5 ms, emulated on a quiet host.
	wakePatience = 10 * time.Second
	// attention is how long a machine that is to be stopped may take to answer
	// before it is stopped anyway.
	attention = 250 * time.Millisecond
	// identifyAgain is how long an answer to an identity is waited for on one
	// connection; a machine that boots, or runs a long script, takes several.
	identifyAgain = 15 * time.Second
	// listenPatience is how long one that did not answer may take to say what it
	// is doing.
	listenPatience = 2 * time.Second
	// monitorPatience is how long QEMU may take to answer a command.
	monitorPatience = 10 * time.Second
)

// errNoAnswer ends one try of Identify.
var errNoAnswer = errors.New("the machine did not answer")

// errDead is wrapped when a machine has ended by itself.
var errDead = errors.New("machine has ended")

// Identify gives a machine its identity over its private channel and waits for
// its agent. It needs no network and no polling.
func (d *Driver) Identify(ctx context.Context, ref drivers.Ref, id drivers.Identity) error {
	if err := d.identify(ctx, ref, id); err != nil {
		return fmt.Errorf("identify %s: %w", ref.Name, err)
	}
	return nil
}

func (d *Driver) identify(ctx context.Context, ref drivers.Ref, id drivers.Identity) error {
	m, err := d.open(ref.Name)
	if err != nil {
		return err
	}
	st, err := m.status()
	if err != nil {
		return err
	}
	if st == statusPaused || st == statusSuspended {
		return fmt.Errorf("it is %s; continue it first", st)
	}
	userData, err := os.ReadFile(m.file(userDataName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// No gateway: the network leads nowhere.
	message := guestlink.Identity{
		Machine: id.Machine, Hostname: id.Hostname, ServerName: id.ServerName,
		CACert: id.CACert, Cert: id.Cert, Key: id.Key, Address: guestAddress, UserData: string(userData),
		Disks: m.guestDisks(),
	}
	if err := m.mark(); err != nil {
		return err
	}
	var heard *guestlink.Response
	for {
		// Again on a new connection if no answer comes: a message that arrives
		// while the agent replaces itself can be lost, and repeating is harmless.
		try, cancel := context.WithTimeoutCause(ctx, identifyAgain, errNoAnswer)
		err := d.talk(try, m, func(link *guestlink.Host) error {
			_, err := link.Identify(try, message)
			return err
		})
		cancel()
		switch {
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("%w: %s", err, whyUnidentified(heard, m.Image, len(m.Disks)))
		case !errors.Is(err, errNoAnswer):
			return err
		}
		if res, ok := d.listen(ctx, m); ok {
			heard = &res
		}
	}
}

// listen asks a machine that did not answer to its identity what it is doing;
// false if it does not answer to that either.
func (d *Driver) listen(ctx context.Context, m *machine) (res guestlink.Response, ok bool) {
	ctx, cancel := context.WithTimeoutCause(ctx, listenPatience, errNoAnswer)
	defer cancel()
	err := d.talk(ctx, m, func(link *guestlink.Host) (err error) {
		res, err = link.Ping(ctx)
		return err
	})
	return res, err == nil
}

// whyUnidentified says what a machine whose time is over was last heard to do,
// nil being nothing, and what can be done about it.
func whyUnidentified(heard *guestlink.Response, image string, disks int) string {
	switch {
	case heard == nil:
		return fmt.Sprintf("nothing was heard on its identity channel: it still boots, or image %s has no agent that knows the channel; "+
			"its console shows which, and drone-runner-aws image build or import brings this runner's agent into the image", image)
	case heard.State == guestlink.StateStarting:
		return fmt.Sprintf("its agent (version %q) has the identity and is still starting; user_data may take too long", heard.Version)
	case disks > 0:
		return fmt.Sprintf("its agent (version %q) answers, but does not take an identity with %d persistent disks: it is too old for disks; "+
			"make image %s anew with drone-runner-aws image build or import, then set the gitspace up again", heard.Version, disks, image)
	default:
		return fmt.Sprintf("its agent (version %q) answers, but does not take its identity: it is of another time than this runner; "+
			"make image %s anew with drone-runner-aws image build or import", heard.Version, image)
	}
}

// talk has one conversation on a machine's identity port.
func (d *Driver) talk(ctx context.Context, m *machine, f func(*guestlink.Host) error) error {
	unlock, err := m.lockLink(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.mustLive(m); err != nil {
		return err
	}
	link, err := m.link(ctx)
	if err == nil {
		err = f(link)
		_ = link.Close() // the answer is there, or the error
	}
	if err == nil {
		return nil
	}
	if dead := d.mustLive(m); dead != nil {
		return dead // why the channel broke
	}
	return err
}

// mustLive is an error that says how the machine has ended, if it has.
func (d *Driver) mustLive(m *machine) error {
	alive, err := m.alive()
	if err != nil || alive {
		return err
	}
	if m.hasState() {
		return errors.New("it is suspended; resume it first")
	}
	return fmt.Errorf("%w: %s", errDead, d.reasonOf(m))
}

// reasonOf says in words why a machine is dead.
func (d *Driver) reasonOf(m *machine) string {
	reason := d.endOfDead(m.Name).text
	words := m.lastWords()
	switch {
	case reason != "" && words != "":
		return reason + "; " + words
	case reason != "":
		return reason
	case words != "":
		return "QEMU has ended; " + words
	default:
		return "QEMU has ended"
	}
}

// wake puts clock and entropy right after the CPUs have stood still.
func (d *Driver) wake(ctx context.Context, m *machine) error {
	return d.toWake(ctx, m, func(ctx context.Context, link *guestlink.Host) error {
		_, err := link.Wake(ctx)
		return err
	})
}

// toWake is talk with the time a machine has to wake up.
func (d *Driver) toWake(ctx context.Context, m *machine, f func(context.Context, *guestlink.Host) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, wakePatience, fmt.Errorf("no answer to clock and entropy within %s", wakePatience))
	defer cancel()
	return d.talk(ctx, m, func(link *guestlink.Host) error { return f(ctx, link) })
}

// Pause stops a machine's CPUs; it stays in memory and uses no CPU.
func (d *Driver) Pause(ctx context.Context, ref drivers.Ref) error {
	if err := d.pause(ctx, ref); err != nil {
		return fmt.Errorf("pause %s: %w", ref.Name, err)
	}
	return nil
}

func (d *Driver) pause(ctx context.Context, ref drivers.Ref) error {
	m, unlock, err := d.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.mustLive(m); err != nil {
		return err
	}
	st, err := m.status()
	if err != nil {
		return err
	}
	stop := func() error { return d.command(ctx, m, "stop") }
	if st == statusPaused {
		err = stop() // nobody would answer
	} else {
		err = d.attentively(ctx, m, stop)
	}
	if err != nil {
		return err
	}
	return m.setStatus(statusPaused)
}

// attentively runs f, which stops the CPUs, while the machine's agent waits for
// words on its identity port. An agent nobody is connected to looks for one
// every 10 ms; stopped in between, it does so after it continues. Stopped while
// it waits, it has the next message at once. An agent that does not answer is
// no reason not to stop the machine.
func (d *Driver) attentively(ctx context.Context, m *machine, f func() error) error {
	var done bool
	var err error
	soon, cancel := context.WithTimeout(ctx, attention)
	defer cancel()
	terr := d.talk(soon, m, func(link *guestlink.Host) error {
		if _, err := link.Ping(soon); err != nil {
			return err
		}
		done, err = true, f()
		return err
	})
	if done {
		return err
	}
	d.log.Debug("agent is stopped in the middle of something", "driver", "qemu", "instance", m.Name, "err", terr)
	return f()
}

// Unpause lets a machine run again, with the right clock and fresh entropy.
func (d *Driver) Unpause(ctx context.Context, ref drivers.Ref) error {
	if err := d.unpause(ctx, ref); err != nil {
		return fmt.Errorf("unpause %s: %w", ref.Name, err)
	}
	return nil
}

func (d *Driver) unpause(ctx context.Context, ref drivers.Ref) error {
	m, unlock, err := d.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	return d.revive(ctx, m, unlock)
}

// revive lets a machine's CPUs run and puts clock and entropy right. It hangs on
// before the CPUs run, so that the machine never sees the port without a host;
// see attentively. unlock is called when they run: a machine that does not
// answer must not be kept from its destroy.
func (d *Driver) revive(ctx context.Context, m *machine, unlock func()) error {
	return d.toWake(ctx, m, func(ctx context.Context, link *guestlink.Host) error {
		if err := d.cont(ctx, m); err != nil {
			return err
		}
		unlock()
		_, err := link.Wake(ctx)
		return err
	})
}

// cont lets the CPUs run. What was saved of the machine is old from then on,
// so it goes first.
func (d *Driver) cont(ctx context.Context, m *machine) error {
	if err := d.mustLive(m); err != nil {
		return err
	}
	if err := m.dropState(); err != nil {
		return err
	}
	if err := m.setStatus(statusRunning); err != nil {
		return err
	}
	return d.command(ctx, m, "cont")
}

// command runs one command without arguments on a machine's monitor, over a
// connection of its own: that takes half a millisecond, greeting included, and
// a connection that was kept would keep every other runner out.
func (d *Driver) command(ctx context.Context, m *machine, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, monitorPatience, fmt.Errorf("QEMU did not answer within %s", monitorPatience))
	defer cancel()
	mon, err := m.monitor(ctx)
	if err != nil {
		return err
	}
	defer mon.Close()
	return mon.Execute(ctx, name, nil, nil)
}

// errHalfMade is a machine whose Create has not ended.
var errHalfMade = errors.New("it is half made: create it again, or destroy it")

// hold reads a machine that was made and waits for the right to change it.
func (d *Driver) hold(ctx context.Context, ref drivers.Ref) (*machine, func(), error) {
	m, err := d.open(ref.Name)
	if err != nil {
		return nil, nil, err
	}
	unlock, err := m.lockOp(ctx)
	if err != nil {
		return nil, nil, err
	}
	st, err := m.status()
	if err == nil && st == statusNew {
		err = errHalfMade
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return m, unlock, nil
}

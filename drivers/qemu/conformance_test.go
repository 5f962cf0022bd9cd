//go:build linux

package qemu_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
)

func TestConformance(t *testing.T) {
	sharedDir(t) // not in the time of the first test
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		takeTurn(t)
		c := &cloud{dir: dataDir(t)}
		return drivertest.Harness{
			Open: c.open,
			Spec: func(tb testing.TB) drivers.Spec {
				name := "m-" + strings.ToLower(rand.Text())
				return drivers.Spec{Name: name, Identity: identityOf(tb, name)}
			},
			Existing:     c.existing,
			FailDestroy:  c.hold,
			FailCreate:   func(testing.TB, error) { c.failCreate.Store(true) },
			LoseAnswer:   func(testing.TB) { c.loseAnswer.Store(true) },
			HideFromList: func(testing.TB) { c.hide.Store(true) },
			Kill: func(tb testing.TB, ref drivers.Ref) {
				tb.Helper()
				c.kill(tb, ref.Name)
			},
			Full: func(tb testing.TB) drivers.Driver {
				d := open(tb, c.dir)
				d.SetHost(8<<30, 100<<20, 1<<40)
				return d
			},
			Invalid: func(testing.TB) drivers.Spec {
				return drivers.Spec{Name: "m-invalid", Image: "debian"}
			},
			Patience: patience,
			Heavy:    true,
		}
	})
}

func (c *cloud) kill(tb testing.TB, name string) {
	tb.Helper()
	for _, pid := range processes(c.dir, name) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			tb.Error(err)
		}
	}
}

// cloud is one data directory and the faults that are due in it.
type cloud struct {
	dir                          string
	failCreate, loseAnswer, hide atomic.Bool
	// held: a machine is held by somebody who will not let go.
	held atomic.Bool
}

// troubled is a driver to which the faults of its cloud happen.
type troubled struct {
	*qemu.Driver
	c *cloud
}

func (c *cloud) open(tb testing.TB) drivers.Driver {
	tb.Helper()
	d := open(tb, c.dir)
	d.SetDiskRoom(1 << 50) // nothing is written to the disks
	if c.held.Load() {
		d.SetDestroyPatience(50*time.Millisecond, 50*time.Millisecond)
	}
	d.SetHook(func(phase string) {
		if phase == qemu.PhaseLoaded && c.failCreate.Swap(false) {
			for _, name := range folders(tb, c.dir) {
				c.kill(tb, name)
			}
		}
	})
	return &troubled{d, c}
}

func (d *troubled) Create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	ref, err := d.Driver.Create(ctx, spec)
	if err == nil && d.c.loseAnswer.Swap(false) {
		return drivers.Ref{}, errors.New("the answer was lost")
	}
	return ref, err
}

// List reads a record that is broken for as long as it reads.
func (d *troubled) List(ctx context.Context, q drivers.Query) (drivers.Listing, error) {
	if !d.c.hide.Swap(false) {
		return d.Driver.List(ctx, q)
	}
	records, err := filepath.Glob(filepath.Join(d.c.dir, "machines", "*", "meta.json"))
	if err != nil || len(records) == 0 {
		return drivers.Listing{}, errors.Join(err, errors.New("nothing to hide"))
	}
	away := records[0] + ".away"
	if err := os.Rename(records[0], away); err != nil {
		return drivers.Listing{}, err
	}
	l, err := d.Driver.List(ctx, q)
	return l, errors.Join(err, os.Rename(away, records[0]))
}

// existing is all that is there, whatever the driver says.
func (c *cloud) existing(tb testing.TB) []string {
	tb.Helper()
	names := folders(tb, c.dir)
	found := names
	kept, err := filepath.Glob(filepath.Join(c.dir, "disks", "[^.]*"))
	if err != nil {
		tb.Error(err)
	}
	for _, path := range kept {
		found = append(found, "disk "+filepath.Base(path))
	}
	for _, name := range names {
		for range processes(c.dir, name) {
			found = append(found, "QEMU of "+name)
		}
	}
	return found
}

// hold keeps everybody from working on a machine.
func (c *cloud) hold(tb testing.TB, ref drivers.Ref) func() {
	tb.Helper()
	f, err := os.OpenFile(filepath.Join(c.dir, "machines", ref.Name, "op.lock"), os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		tb.Fatal(err)
	}
	c.held.Store(true)
	return func() {
		c.held.Store(false)
		if err := f.Close(); err != nil {
			tb.Error(err)
		}
	}
}

//go:build linux

package qemu_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
)

// crowder is what a machine runs that writes more than the host has room for:
// 60 MB, and says when they are on its disk.
const crowder = `#!/bin/sh
cd ` + firstFolder + `
(head -c 60000000 /dev/zero >junk && sync && echo "junk has $(wc -c <junk) bytes" >/dev/console) </dev/null >/dev/null 2>&1 &
`

// onCrowdedDisk has disks on 24 MB, which a machine fills, and then on more.
func onCrowdedDisk(ctx context.Context, d *qemu.Driver, _ string) error {
	folder := filepath.Join(os.Getenv("QEMU_TEST_DIR"), "disks")
	if err := onOwnMount(folder, "size=24m,mode=700"); err != nil {
		return err
	}
	d.SetHost(8<<30, 8<<30, 1<<40) // the check before says that there is room
	var id drivers.Identity
	if err := gob.NewDecoder(os.Stdin).Decode(&id); err != nil {
		return err
	}
	ref, err := d.Create(ctx, withDisks("one", "home"))
	if err != nil {
		return err
	}
	destroy := func() error {
		return d.Destroy(ctx, []drivers.Ref{ref}, drivers.DestroyOptions{Disks: drivers.Delete})[0]
	}
	defer destroy() // again at the end, where it counts
	if err := d.Identify(ctx, ref, id); err != nil {
		return err
	}
	if err := until(ctx, func() (bool, error) {
		state, err := d.AskMonitor(ctx, ref.Name)
		return state == "io-error", err
	}); err != nil {
		return fmt.Errorf("wait for the machine to stop: %w", err)
	}
	// A driver that has not looked at it yet: what others know may be older.
	cfg := qemu.NewConfig()
	cfg.AddressRange = os.Getenv("QEMU_TEST_RANGE")
	fresh, err := qemu.New(options(os.Getenv("QEMU_TEST_DIR"), cfg, os.Stderr))
	if err != nil {
		return err
	}
	l, err := fresh.List(ctx, drivers.Query{})
	if err != nil || len(l.Instances) != 1 || l.Instances[0].Status != drivers.StatusDead || !strings.Contains(l.Instances[0].Reason, "make room") {
		return fmt.Errorf("on a full disk it is listed as %+v, %w, want dead with what to do", l.Instances, err)
	}
	if err := syscall.Mount("tmpfs", folder, "tmpfs", syscall.MS_REMOUNT, "size=200m"); err != nil {
		return fmt.Errorf("make room: %w", err)
	}
	if _, err := d.Resume(ctx, ref); err != nil {
		return err
	}
	if err := until(ctx, func() (bool, error) {
		var said bytes.Buffer
		err := d.Console(ctx, ref, &said, 64<<10)
		return bytes.Contains(said.Bytes(), []byte("junk has 60000000 bytes")), err
	}); err != nil {
		return fmt.Errorf("wait for the machine to go on: %w", err)
	}
	return destroy()
}

// until asks every 20 ms until it is so.
func until(ctx context.Context, so func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := so(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func TestAMachineOnAFullDiskOfTheHostStopsAndGoesOnWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	_, dir := fresh(t)
	cmd, stderr := asRunner(t, dir, "crowd")
	ownMounts(cmd)
	cmd.Env = append(cmd.Env, "QEMU_TEST_USER_DATA="+crowder)
	var stdin bytes.Buffer
	if err := gob.NewEncoder(&stdin).Encode(identityOf(t, "one")); err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = &stdin
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
}

//go:build linux

package qemu

import (
	"context"
	"fmt"
	"os"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu/qmp"
)

// The name under which QEMU knows the file a state goes to or comes from.
const migrationFD = "mig"

// migrationBandwidth is no limit at all, in bytes a second: QEMU's own is made
// for networks and would slow down a save.
const migrationBandwidth = 64 << 30

// save writes the state of a stopped machine to f: without its memory if that
// lies in a shared file (a template), else with it.
func save(ctx context.Context, m *qmp.Client, f *os.File, withoutMemory bool) error {
	if err := prepare(ctx, m, f, withoutMemory); err != nil {
		return err
	}
	limit := map[string]any{"max-bandwidth": int64(migrationBandwidth)}
	if err := m.Execute(ctx, "migrate-set-parameters", limit, nil); err != nil {
		return err
	}
	if err := m.Execute(ctx, "migrate", map[string]any{"uri": "fd:" + migrationFD}, nil); err != nil {
		return err
	}
	return migrated(ctx, m)
}

// load reads a state from f into a QEMU that was started to wait for one. The
// machine is stopped afterwards. A state that does not fit ends QEMU.
func load(ctx context.Context, m *qmp.Client, f *os.File, withoutMemory bool) error {
	if err := prepare(ctx, m, f, withoutMemory); err != nil {
		return err
	}
	if err := m.Execute(ctx, "migrate-incoming", map[string]any{"uri": "fd:" + migrationFD}, nil); err != nil {
		return err
	}
	return migrated(ctx, m)
}

func prepare(ctx context.Context, m *qmp.Client, f *os.File, withoutMemory bool) error {
	capability := map[string]any{"capability": "x-ignore-shared", "state": withoutMemory}
	args := map[string]any{"capabilities": []any{capability}}
	if err := m.Execute(ctx, "migrate-set-capabilities", args, nil); err != nil {
		return err
	}
	return m.SendFile(ctx, migrationFD, f)
}

// migration is what QEMU says of a save or a load.
type migration struct {
	Status string `json:"status"`
	Desc   string `json:"error-desc"`
}

func queryMigration(ctx context.Context, m *qmp.Client) (migration, error) {
	var info migration
	err := m.Execute(ctx, "query-migrate", nil, &info)
	return info, err
}

// migrated waits for the end of a save or a load.
func migrated(ctx context.Context, m *qmp.Client) error {
	return poll(ctx, func() (bool, error) {
		info, err := queryMigration(ctx, m)
		if err != nil {
			return false, err
		}
		switch info.Status {
		case "completed":
			return true, nil
		case "failed", "cancelled":
			return false, fmt.Errorf("migration %s: %s", info.Status, info.Desc)
		default:
			return false, nil
		}
	})
}

// abandon ends a save, whatever has become of it, and returns when the CPUs may
// run again. One that is still going on would stop them at its end; after one
// that failed QEMU has to clean up and refuses "cont" until it has.
func abandon(ctx context.Context, m *qmp.Client) error {
	if err := m.Execute(ctx, "migrate_cancel", nil, nil); err != nil {
		return err
	}
	return poll(ctx, func() (bool, error) {
		info, err := queryMigration(ctx, m)
		if err != nil {
			return false, err
		}
		switch info.Status {
		case "", "none", "completed", "failed", "cancelled":
		default:
			return false, nil
		}
		state, err := runState(ctx, m)
		return state != "finish-migrate", err
	})
}

// runState asks whether the CPUs run.
func runState(ctx context.Context, m *qmp.Client) (string, error) {
	var info struct {
		Status string `json:"status"`
	}
	err := m.Execute(ctx, "query-status", nil, &info)
	return info.Status, err
}

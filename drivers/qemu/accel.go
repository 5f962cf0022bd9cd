//go:build linux

package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// trialPatience is how long the trial boot under KVM may take: where KVM truly
// works it takes a second, where it only seems to it takes for ever.
const trialPatience = 10 * time.Second

// Verdict is which accelerator machines of an image get, and why.
type Verdict struct {
	// Accel is "kvm" or "tcg".
	Accel string `json:"accelerator"`
	// Reason says in words for a person why it is not KVM; "" if it is, or if
	// the configuration asks for emulation.
	Reason string `json:"reason,omitempty"`
	// Boot, Image and QEMU are what it was found with; another of one of them
	// is another verdict.
	Boot  string `json:"boot,omitempty"`
	Image string `json:"image,omitempty"`
	QEMU  string `json:"qemu,omitempty"`
}

// Accelerator finds the accelerator for the pool's image, by a trial boot if
// need be, and says why. The answer is kept in the data directory for as long
// as host boot, image and QEMU stay the same.
func (d *Driver) Accelerator(ctx context.Context) (Verdict, error) {
	r, err := d.baseRecipe(ctx, d.cfg.Image)
	if err != nil {
		return Verdict{}, err
	}
	return d.accelerator(ctx, r)
}

func (d *Driver) accelerator(ctx context.Context, r recipe) (Verdict, error) {
	if d.cfg.Accelerator == AccelTCG {
		return Verdict{Accel: AccelTCG}, nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Verdict{}, fmt.Errorf("qemu: accelerator: %w", err)
	}
	v := Verdict{Boot: strings.TrimSpace(string(boot)), Image: r.img.Hash(), QEMU: r.qemu.text}
	lock, err := lockFile(ctx, filepath.Join(d.dir, "accelerator.lock"), os.O_CREATE)
	if err != nil {
		return Verdict{}, fmt.Errorf("qemu: accelerator: %w", err)
	}
	defer lock.Close()
	file := filepath.Join(d.dir, "accelerator.json")
	if known, ok := readVerdict(file); ok && known.Boot == v.Boot && known.Image == v.Image && known.QEMU == v.QEMU {
		v = known
	} else {
		v.Accel, v.Reason = AccelKVM, ""
		if err := d.tryKVM(ctx, r); err != nil {
			if ctx.Err() != nil {
				return Verdict{}, context.Cause(ctx) // says nothing about KVM
			}
			v.Accel, v.Reason = AccelTCG, err.Error()
		}
		d.log.Info("accelerator chosen", "driver", "qemu", "accelerator", v.Accel, "reason", v.Reason)
		raw, err := json.MarshalIndent(v, "", "  ")
		if err == nil {
			err = writeSynced(file, append(raw, '\n'))
		}
		if err != nil {
			return Verdict{}, fmt.Errorf("qemu: accelerator: %w", err)
		}
	}
	if d.cfg.Accelerator == AccelKVM && v.Accel != AccelKVM {
		return v, fmt.Errorf("%w: qemu: accelerator is kvm, but %s; with auto or tcg machines are emulated", drivers.ErrInvalid, v.Reason)
	}
	return v, nil
}

func readVerdict(file string) (Verdict, bool) {
	var v Verdict
	raw, err := os.ReadFile(file)
	return v, err == nil && json.Unmarshal(raw, &v) == nil
}

// tryKVM finds out whether the image boots under KVM. That /dev/kvm opens, or
// that QEMU starts, is not enough: nested and para-virtual KVMs do both and
// then stand still.
func (d *Driver) tryKVM(ctx context.Context, r recipe) error {
	if d.arch.binary == architectures["amd64"].binary {
		flags, err := cpuFlags()
		if err != nil {
			return err
		}
		if !hasVirtualisation(flags) {
			return errors.New("no svm or vmx among the CPU's flags: this host has no hardware virtualisation")
		}
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("KVM is not usable: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	r.accel = AccelKVM
	if r.boot != nil {
		if err := d.tryDisk(ctx, r); err != nil {
			return fmt.Errorf("a trial boot under KVM failed: %w", err)
		}
		return nil
	}
	b, err := d.boot(ctx, r, trialPatience)
	if err != nil {
		return fmt.Errorf("a trial boot under KVM failed: %w", err)
	}
	return b.end(ctx)
}

// cpuFlags is the list of the first CPU's abilities; "" where there is none.
func cpuFlags() (string, error) {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	return parseCPUFlags(raw), nil
}

func parseCPUFlags(raw []byte) string {
	s := bufio.NewScanner(bytes.NewReader(raw))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), ":")
		if k := strings.TrimSpace(key); k == "flags" || k == "Features" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func hasVirtualisation(flags string) bool {
	words := strings.Fields(flags)
	return slices.Contains(words, "svm") || slices.Contains(words, "vmx")
}

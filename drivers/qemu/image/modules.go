package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"slices"
	"strings"
)

// wantedModules are what a machine needs: the bus, a network card, a disk, a
// source of entropy and the port its identity comes through. What they depend
// on is read from the modules themselves.
var wantedModules = []string{"virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "virtio_console"}

// moduleFolders are where those and their dependencies live, below
// lib/modules/<release>/kernel/. Others are not read into memory.
var moduleFolders = []string{"drivers/virtio", "drivers/net", "drivers/block", "drivers/char", "drivers/char/hw_random", "net/core", "lib", "lib/dim"}

// module is one kernel module, uncompressed.
type module struct {
	path string // in the package, without compression suffix
	data []byte
}

// moduleName is a module's name as the kernel and other modules call it.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// isModuleWeMayNeed says whether a file of the kernel package is read.
func isModuleWeMayNeed(file string) bool {
	_, rest, ok := strings.Cut(file, "/kernel/")
	return ok && strings.Contains(path.Base(rest), ".ko") && slices.Contains(moduleFolders, path.Dir(rest))
}

// loadOrder is the wanted modules and all they depend on, dependencies first:
// the agent loads them with finit_module, which resolves nothing. What is built
// into the kernel is left out.
func loadOrder(have map[string]module, builtin map[string]bool) ([]module, error) {
	var order []module
	state := map[string]int{} // 1 being visited, 2 done
	var visit func(name, by string) error
	visit = func(name, by string) error {
		if builtin[name] || state[name] == 2 {
			return nil
		}
		if state[name] == 1 {
			return fmt.Errorf("module %s depends on itself", name)
		}
		m, ok := have[name]
		if !ok {
			return fmt.Errorf("the kernel package has no module %s, needed by %s", name, by)
		}
		state[name] = 1
		deps, err := dependsOf(m.data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range deps {
			if err := visit(d, name); err != nil {
				return err
			}
		}
		state[name] = 2
		order = append(order, m)
		return nil
	}
	for _, name := range wantedModules {
		if err := visit(name, "every machine"); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// dependsOf reads the names in a module's "depends=" record.
func dependsOf(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for record := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := strings.CutPrefix(string(record), "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// parseBuiltin reads modules.builtin: one path a line.
func parseBuiltin(data []byte) map[string]bool {
	builtin := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" {
			builtin[moduleName(line)] = true
		}
	}
	return builtin
}

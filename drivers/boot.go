package drivers

import (
	"fmt"
	"os"
)

// Booted is implemented by specs of types whose machines get their agent from a
// boot script. It is asked after Check, once for each machine.
type Booted interface {
	// BootOptions says what the pool wants of the script and what its cloud
	// allows. An error names the key it is about.
	BootOptions() (BootOptions, error)
}

// Proxied is implemented by specs of types whose machines may have a proxy as
// their only way out. It is asked after Check.
type Proxied interface {
	// Proxy is the address of the proxy of the machine of a name that is to be in
	// one of the zones, none being the spec's own; "" for a machine that goes out
	// by itself. It is that of the network the driver's Create takes for such a
	// machine.
	Proxy(name string, zones []string) string
	// Proxies are all addresses Proxy may give, none if machines have no proxy.
	Proxies() []string
}

// BootOptions are a pool's wishes for its boot script, and its cloud's rules.
// The zero value is the built-in script without extras or bounds.
type BootOptions struct {
	// Template is the user's own boot script, which replaces the built-in one;
	// "" is the built-in one. TemplateName is how messages call it: the path of
	// a file, or the key.
	Template, TemplateName string
	// MaxBytes is how long the script may be as the cloud takes it, before any
	// base64; 0: no bound. Gzip says that linux machines unpack it themselves.
	MaxBytes int
	Gzip     bool
	// PowerShellTags says that the cloud tells PowerShell by a <powershell>
	// tag around it.
	PowerShellTags bool
	// Scratch are patterns of device paths that only disks match which end with
	// the machine: the largest is made scratch space. Nil: none is wanted.
	Scratch []string
	// Disks gives the paths under which the machine sees the i-th of its
	// persistent disks, the surest first; nil for clouds without such disks.
	Disks func(i int) []string
	// SoleDisk is a pattern of the device paths of all disks that outlive a
	// machine and of its root disk, for a machine with a single persistent disk
	// that shows under none of the paths of Disks; "" for none.
	SoleDisk string
}

// Script reads the user's own boot script and says how messages call it; both
// are empty if there is none.
func (u UserData) Script() (text, name string, err error) {
	if u.UserDataPath == "" {
		if u.UserData == "" {
			return "", "", nil
		}
		return u.UserData, "user_data", nil
	}
	raw, err := os.ReadFile(u.UserDataPath)
	if err != nil {
		return "", "", fmt.Errorf("user_data_path: %w", err)
	}
	return string(raw), u.UserDataPath, nil
}

// Package qemu runs real virtual machines on this host: with KVM where it
// truly works, else by pure emulation, through one code path. It needs no
// account, no cloud and no root.
//
// A machine is a folder below the data directory. The folder is written before
// QEMU is started and removed after QEMU has ended, so it is the row of this
// "cloud": its tags and its address are in meta.json, a lock file that QEMU
// inherits tells whether it lives, and two sockets (monitor and identity) are
// bound by the runner and passed on as descriptors. Nothing is kept in memory
// that another process could need: a runner that was killed, or a second one
// on the same data directory, finds every machine again.
//
// A new machine is a copy-on-write clone of a template: one machine that was
// booted until its agent waited for an identity, its memory kept in one file.
// No secret exists in image, template or folder; a machine gets its identity
// over a private channel (internal/guestlink) when it is already running.
//
// The package knows QEMU, Linux and package drivers. It does not know pools,
// leases, or what an agent does with its identity.
package qemu

// Package image makes and keeps the images local machines boot from: a kernel,
// an initramfs and a manifest that says what they were made of.
//
// There is one kind today, "tiny": the distribution's kernel for virtual
// machines and an initramfs with the agent as init, busybox for a shell and the
// few virtio modules a machine needs. [Build] fetches the packages of Debian or
// Ubuntu (through apt where it is there, else from a mirror with a checksum),
// unpacks them and writes the archive itself, without root. The same inputs
// give the same bytes.
//
// The package knows files and packages only: no QEMU, no pool, no command line.
package image

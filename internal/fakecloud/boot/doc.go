// Package boot applies a machine's boot data in a sandbox of this host, the
// second layer of the fake clouds: a boot script that is wrong fails here, not
// in a cloud.
//
// A [Machine] has namespaces, a root and a first process of its own. That first
// process applies the keys of cloud-init's format that boot scripts of ours use,
// keeps systemd units (what is started really runs) and the way to the agent's
// port; the programs of the host are there to be used, but cannot be changed.
// What would reach out of the machine or change the host is a stub that notes
// its calls: package managers, firewalls, mount, and curl and wget, which serve
// what the test gives them.
//
// The first process and the stubs are the program that starts the machine, run
// again: its main, or TestMain, calls [Main] first. Linux only, as root or where
// users may have namespaces of their own.
package boot

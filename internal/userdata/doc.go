// Package userdata makes what a machine in a cloud runs at its first boot: it
// brings the agent, gives it its certificates and makes it a service that
// survives reboots and resumes. There is one built-in form for each operating
// system (cloud-init for linux, PowerShell for Windows, a shell script for
// macOS), and users may bring templates of their own.
//
// What a script does it says on the machine's console, one line a step, in the
// form that [pool.LastBootStep] reads. Secrets reach a machine as contents of
// files of mode 0600 and stand on no command line and in no log.
//
// The package knows no cloud: what one allows is told to it by the spec of its
// driver, see [drivers.BootOptions].
package userdata

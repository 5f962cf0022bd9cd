// Package guestlink is the private channel between a host and the local
// virtual machine it runs: a virtio-serial port on which the machine gets its
// identity, entropy and clock before its agent opens a listener, and fresh
// entropy and the right clock each time it continues.
//
// The wire is lines of JSON, both ways, one message a line. The host begins
// every connection with an empty line, so that half a message of a host that
// died cannot spoil the next one; the guest drops what is not JSON. Every
// request has a number which its answer repeats; an answer with another number
// is stale (left over from a connection of before) and is dropped.
//
// The package knows neither QEMU nor the agent: host.go is used by the driver,
// guest.go by the agent. Nothing here is ever written to a disk or a log.
package guestlink

import "time"

// PortName is the virtio-serial port, as found in
// /sys/class/virtio-ports/*/name inside the guest.
const PortName = "org.vmrunner.identity"

// AgentPort is where a guest's agent listens.
const AgentPort = 9079

// MaxMessage bounds one line in bytes. Larger ones are refused.
const MaxMessage = 1 << 20

// The operations of a Request.
const (
	// OpIdentify gives the machine its identity. The answer comes when the
	// agent listens. With an identity the machine already has, it answers at
	// once; a different one is refused.
	OpIdentify = "identify"
	// OpWake puts clock and entropy right. Answered when both are done.
	OpWake = "wake"
	// OpPing only answers with the state.
	OpPing = "ping"
	// OpFlush has the machine write to its disks what it keeps in memory of
	// their files. Answered when that is done.
	OpFlush = "flush"
)

// The states a guest reports.
const (
	// StateWaiting: booted, no identity yet. Templates are saved here.
	StateWaiting = "waiting"
	// StateStarting: identity received, listener not yet open.
	StateStarting = "starting"
	// StateReady: the agent listens.
	StateReady = "ready"
)

// Request goes from host to guest.
type Request struct {
	// Seq is chosen by the host, unique on the machine (random start).
	Seq uint64 `json:"seq"`
	Op  string `json:"op"`
	// Now is the host's clock, for OpIdentify and OpWake.
	Now time.Time `json:"now"`
	// Entropy is 64 random bytes, for OpIdentify and OpWake.
	Entropy []byte `json:"entropy,omitempty"`
	// Identity is set for OpIdentify.
	Identity *Identity `json:"identity,omitempty"`
}

// Identity is what makes a guest one machine and no other. All PEM.
type Identity struct {
	Machine    string `json:"machine"`
	Hostname   string `json:"hostname"`
	ServerName string `json:"server_name"`
	CACert     []byte `json:"ca_cert"`
	Cert       []byte `json:"cert"`
	Key        []byte `json:"key"`
	// Address is the guest's own address on its network, with prefix length
	// ("10.0.2.15/24"), Gateway the way out, empty if there is none.
	Address string `json:"address"`
	Gateway string `json:"gateway,omitempty"`
	// UserData is a script to run once before the machine is ready, "" if none.
	UserData string `json:"user_data,omitempty"`
	// Disks are mounted before anything of the machine's user runs; if one cannot
	// be, the identity is refused.
	Disks []Disk `json:"disks,omitempty"`
}

// Disk is a persistent disk of a machine. It has a file system (ext4) already.
type Disk struct {
	// Serial is how the machine tells it from others: /sys/block/*/serial.
	Serial string `json:"serial"`
	// Folder is where it is mounted, an absolute path.
	Folder string `json:"folder"`
}

// Response goes from guest to host.
type Response struct {
	Seq   uint64 `json:"seq"`
	State string `json:"state"`
	// Machine is the identity the guest has, "" while waiting.
	Machine string `json:"machine,omitempty"`
	// Version is the agent's.
	Version string `json:"version,omitempty"`
	// Disks is how many of its identity's disks a machine that is ready has
	// mounted. An agent that knows nothing of disks says 0.
	Disks int `json:"disks,omitempty"`
	// Error is set when the request was refused or failed.
	Error string `json:"error,omitempty"`
}

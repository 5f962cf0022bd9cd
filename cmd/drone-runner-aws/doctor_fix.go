package main

import (
	"errors"
	"strings"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// failed notes an error: what it says, and what to do about it.
func (c *check) failed(driver, phase string, err error) {
	c.OK, c.Kind, c.Detail = false, drivers.Kind(err), err.Error()
	if last, ok := lastCause(err); ok {
		c.Kind, c.Detail, c.Console = last.Kind, last.Message, last.Console
	}
	c.Fix = fixFor(driver, phase, c.Kind, c.Detail)
}

func lastCause(err error) (pool.Cause, bool) {
	var s *pool.SetupError
	if !errors.As(err, &s) || len(s.Causes) == 0 {
		return pool.Cause{}, false
	}
	return s.Causes[len(s.Causes)-1], true
}

// phaseOf is how far a setup came: "claim", "create", "boot", "health" or
// "setup"; "" if nobody knows.
func phaseOf(err error) string {
	last, _ := lastCause(err)
	return last.Phase
}

// remedy is what to do about a kind of failure. Empty fields match everything;
// the first that matches is taken.
type remedy struct {
	driver, phase, kind string
	// text is part of the message.
	text string
	fix  string
}

// remedies come from the questions people ask of such runners: a missing default
// network, a closed port, an image that was withdrawn or does not boot as
// cloud images do.
var remedies = []remedy{
	{driver: "qemu", phase: "ping", fix: "install QEMU (Debian and Ubuntu: qemu-system-x86 or qemu-system-arm, and qemu-utils), 7.2 or later"},
	{driver: "qemu", phase: "create", kind: "not_found", fix: "make the image: drone-runner-aws image build tiny"},
	{driver: "qemu", phase: "create", kind: "invalid", fix: "make the image (drone-runner-aws image build tiny; drone-runner-aws image ls shows what is there) or name another"},
	{driver: "qemu", phase: "create", kind: "capacity", fix: "free memory or disk on this host, or give machines less (spec.memory_mb)"},

	{driver: "google", kind: "auth", text: "iam.serviceaccounts", fix: "let the runner's account use the machines' service account (roles/iam.serviceAccountUser), or set spec.account.no_service_account: true"},
	{driver: "google", kind: "auth", text: "access to service account", fix: "let the runner's account use the machines' service account (roles/iam.serviceAccountUser), or set spec.account.no_service_account: true"},
	{driver: "google", kind: "auth", fix: "give the account of spec.account.json_path, or of this host, the rights in docs/drivers.md (roles/compute.instanceAdmin.v1 has them), and see that the Compute Engine API is enabled in the project"},
	{driver: "google", phase: "ping", kind: "invalid", fix: "spec.account.project_id must be the id of a project this account can see, not its name or number, and spec.zone zones of it"},
	{driver: "google", phase: "ping", kind: "not_found", fix: "spec.account.project_id names no project this account can see; write its id, not its name or number"},
	{driver: "google", kind: "quota", fix: "ask for more quota in the region (Console: IAM & Admin, Quotas), name a smaller machine_type, or lower limit"},
	{driver: "google", kind: "capacity", fix: "name more zones in spec.zone, or another machine_type"},
	{driver: "google", phase: "create", kind: "not_found", fix: "look at spec.image, spec.network, spec.subnetwork and spec.zone: one of them is not there; an image of another project is written projects/P/global/images/I"},
	{driver: "google", phase: "create", kind: "invalid", fix: "look at the key the message names; the machine type must exist in the zone, and the disk be at least as large as the image"},

	{driver: "amazon", kind: "auth", text: "expired", fix: "the session token has expired: give a new one, or use an instance profile"},
	{driver: "amazon", kind: "auth", fix: "give the runner the rights in docs/drivers.md; keys come from spec.account, AMAZON_ACCESS_KEY_ID, or what AWS's own programs use (AWS_PROFILE, instance profile)"},
	{driver: "amazon", text: "default vpc", fix: "there is no default VPC: name a subnet in spec.network.subnet_id or spec.network.zone_details"},
	{driver: "amazon", kind: "quota", fix: "ask for more vCPUs of this instance family (Service Quotas, EC2), name a smaller spec.size, or lower limit"},
	{driver: "amazon", kind: "capacity", fix: "name more zones in spec.network.zone_details, or a second type in spec.size_alt"},
	{driver: "amazon", phase: "create", kind: "not_found", fix: "look at spec.ami (images are withdrawn every few months; a name or an SSM parameter finds the newest), subnet, security groups and key pair: one of them is not in this region"},
	{driver: "amazon", phase: "create", kind: "invalid", fix: "look at the key the message names; the instance type must exist in the zone and fit the image's architecture"},

	{driver: "noop", fix: "this is a pretend machine: its delays, failures and capacity are what the pool file says"},

	{phase: "ping", kind: "auth", fix: "look at the credentials in spec.account"},
	{phase: "ping", fix: "see that this host reaches the cloud's API (DNS, HTTPS_PROXY, firewall)"},
	{kind: "rate_limited", fix: "too many calls: wait a minute; lower guards.creates_per_minute if it happens when serving"},
	{phase: "claim", kind: "limit", fix: "the pool's limit is reached"},
	{phase: "boot", text: "does not list it", fix: "the machine vanished at once: look at the cloud's own log of it"},
	{phase: "boot", text: "agent not healthy", fix: portFix},
	{phase: "health", fix: portFix},
	{phase: "boot", text: "ended by itself", fix: "the machine stopped while it booted: its console above says why"},
	{phase: "boot", fix: "the machine got no address or did not come up in time: look at its console, its subnet and, with private_ip: false, at who may have public addresses"},
	{phase: "setup", fix: "the agent refused: its own words are above; a machine for container steps needs Docker in its image"},
	{phase: "step", fix: "the machine and its agent work, a step does not: its shell or its disk; the words above are the agent's"},
}

const portFix = "the machine runs, but its agent does not answer. Either this host cannot reach port 9079 of it " +
	"(a firewall rule or security group must let this host in, with private_ip: true this host must be in its network; test: nc -vz ADDRESS 9079), " +
	"or its boot script failed (its console above names the last step that worked: an image without cloud-init shows none, " +
	"and the agent is downloaded from DRONE_LITE_ENGINE_PATH, which the machine must reach)"

// fixFor is what to do about a failure.
func fixFor(driver, phase, kind, message string) string {
	message = strings.ToLower(message)
	for _, r := range remedies {
		if (r.driver == "" || r.driver == driver) && (r.phase == "" || r.phase == phase) &&
			(r.kind == "" || r.kind == kind) && strings.Contains(message, r.text) {
			return r.fix
		}
	}
	return ""
}

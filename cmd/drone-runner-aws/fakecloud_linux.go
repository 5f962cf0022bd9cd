package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/boot"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/rehearsal"
)

// sandboxed makes this process a machine's first process, or one of the programs
// in it, if that is what it was started as.
func sandboxed() { boot.Main() }

// rehearse makes a fake cloud whose machines run here.
func rehearse(name string, network netip.Prefix, served map[string]string, realTimes bool, log *slog.Logger) (rehearsed, error) {
	switch name {
	case "gce":
		return rehearseGCE(network, served, realTimes, log)
	case "ec2":
		return rehearseEC2(network, served, realTimes, log)
	}
	return rehearsed{}, fmt.Errorf("there is no fake of %q", name)
}

// roll is which machines are on, by the ground's key.
type roll struct {
	mu    sync.Mutex
	names map[string]string
	said  map[string]int // bytes of the console that the cloud has
}

func newRoll() *roll { return &roll{names: map[string]string{}, said: map[string]int{}} }

func (r *roll) note(key, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names[key] = name
}

func (r *roll) forget(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.names, key)
	delete(r.said, key)
}

func (r *roll) name(key string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names[key]
}

// consoles hands what machines have written to the cloud.
func (r *roll) consoles(g *rehearsal.Ground, tell func(name, text string) error) {
	r.mu.Lock()
	keys := make([]string, 0, len(r.names))
	for key := range r.names {
		keys = append(keys, key)
	}
	r.mu.Unlock()
	for _, key := range keys {
		text := g.Console(key)
		r.mu.Lock()
		name, had := r.names[key], r.said[key]
		if name != "" && len(text) > had {
			r.said[key] = len(text)
		}
		r.mu.Unlock()
		if name != "" && len(text) > had {
			_ = tell(name, text[had:]) // the machine may be gone by now
		}
	}
}

// aSecond is how long things take that are not to be waited for.
const aSecond = time.Second

func rehearseGCE(network netip.Prefix, served map[string]string, realTimes bool, log *slog.Logger) (rehearsed, error) {
	var cloud *gce.Cloud
	roll := newRoll()
	ground, err := rehearsal.New(rehearsal.Options{
		Network: network, Served: served, Log: log,
		Ended: func(key string) { _ = cloud.Shutdown(roll.name(key)) }, // or it is gone
	})
	if err != nil {
		return rehearsed{}, err
	}
	o := gce.Options{
		Projects: []string{"rehearsal"}, PageSize: 100,
		Boots: func(m gce.Machine) {
			roll.note(m.ID, m.Name)
			ground.Boot(rehearsal.Machine{Key: m.ID, UserData: []byte(m.Metadata["user-data"]), Disks: gceDisks(m)})
		},
		Halts: func(m gce.Machine) {
			if m.Status == "SUSPENDED" {
				ground.Sleep(m.ID)
				return
			}
			ground.Halt(m.ID)
		},
		Wakes: func(m gce.Machine) { ground.Wake(m.ID) },
		Gone:  func(m gce.Machine) { ground.Gone(m.ID); roll.forget(m.ID) },
		Address: func(m gce.Machine) (internal, external netip.Addr) {
			address := ground.Address(m.ID)
			return address, address
		},
	}
	if !realTimes {
		soon := gce.Range{Least: aSecond / 5, Most: aSecond}
		o.Durations = gce.Durations{
			Provisioning: soon, Staging: soon, Stopping: soon, Deleting: soon, Suspending: soon, Resuming: soon,
			Repairing: soon, Preempting: soon, Disk: soon, Other: soon, Accepting: soon,
		}
	}
	cloud = gce.New(o)
	last := time.Now()
	return rehearsed{
		handler: cloud, books: &cloud.Books, close: ground.Close,
		look: func() {
			cloud.Look()
			if time.Since(last) > aSecond {
				last = time.Now()
				roll.consoles(ground, cloud.Console)
			}
		},
		variables: []string{"RUNNER_GOOGLE_ENDPOINT=http://ADDRESS", "GOOGLE_PROJECT_ID=rehearsal", "GOOGLE_ZONE=us-central1-a"},
	}, nil
}

// gceDisks are a machine's disks beside that it boots from.
func gceDisks(m gce.Machine) []rehearsal.Disk {
	var disks []rehearsal.Disk
	for _, d := range m.Disks {
		if !d.Boot {
			disks = append(disks, rehearsal.Disk{ID: d.ID, Device: "/dev/disk/by-id/google-" + d.Device})
		}
	}
	return disks
}

func rehearseEC2(network netip.Prefix, served map[string]string, realTimes bool, log *slog.Logger) (rehearsed, error) {
	var cloud *ec2.Cloud
	roll := newRoll()
	ground, err := rehearsal.New(rehearsal.Options{
		Network: network, Served: served, Log: log,
		Ended: func(key string) { _ = cloud.GuestShutdown(key) }, // or it is gone
	})
	if err != nil {
		return rehearsed{}, err
	}
	o := ec2.Options{
		Page: 100, Parameters: map[string]string{autoAMI: ec2.DefaultImages()[0].ID},
		Boots: func(m ec2.Machine) {
			roll.note(m.ID, m.ID)
			if m.Resumed {
				ground.Wake(m.ID)
				return
			}
			ground.Boot(rehearsal.Machine{Key: m.ID, UserData: m.UserData, Disks: ec2Disks(m)})
		},
		Attaches: func(m ec2.Machine, v ec2.Volume) { ground.Attach(m.ID, rehearsal.Disk{ID: v.ID, Device: v.Device}) },
		Halts: func(m ec2.Machine) {
			if m.Asleep {
				ground.Sleep(m.ID)
				return
			}
			ground.Halt(m.ID)
		},
		Gone: func(m ec2.Machine) { ground.Gone(m.ID); roll.forget(m.ID) },
		Addresses: func(m ec2.Machine) (public, private string) {
			address := ground.Address(m.ID).String()
			return address, address
		},
	}
	if !realTimes {
		soon := ec2.Range{Least: aSecond / 5, Most: aSecond}
		o.Times = ec2.Times{
			Seen: soon, Pending: soon, Stopping: soon, Hibernating: soon, ShuttingDown: soon,
			HibernateReady: soon, Console: soon, Volume: soon, Respawn: soon,
		}
	}
	cloud = ec2.New(o)
	last := time.Now()
	return rehearsed{
		handler: ssmBeside(cloud), books: &cloud.Books, close: ground.Close,
		look: func() {
			cloud.Settle()
			if time.Since(last) > aSecond {
				last = time.Now()
				roll.consoles(ground, cloud.Console)
			}
		},
		variables: []string{
			"AWS_ENDPOINT_URL=http://ADDRESS", "AWS_ACCESS_KEY_ID=rehearsal", "AWS_SECRET_ACCESS_KEY=rehearsal", "AWS_REGION=us-east-1",
		},
	}, nil
}

// ec2Disks are a machine's volumes beside its root.
func ec2Disks(m ec2.Machine) []rehearsal.Disk {
	var disks []rehearsal.Disk
	for _, v := range m.Volumes {
		disks = append(disks, rehearsal.Disk{ID: v.ID, Device: v.Device})
	}
	return disks
}

// autoAMI is the parameter that names the newest Ubuntu.
const autoAMI = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"

// ssmBeside answers for both services on one address.
func ssmBeside(cloud *ec2.Cloud) http.Handler {
	ssm := cloud.SSM()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("X-Amz-Target"), "AmazonSSM.") {
			ssm.ServeHTTP(w, r)
			return
		}
		cloud.ServeHTTP(w, r)
	})
}

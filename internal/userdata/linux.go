package userdata

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

//go:embed scripts/boot.sh
var bootScript string

//go:embed scripts/disks.sh
var disksScript string

//go:embed scripts/scratch.sh
var scratchScript string

// Where things lie in a linux machine. Gitspaces with an init script have
// their certificates where such scripts expect them.
const (
	confDir       = "/etc/runner-agent"
	libDir        = "/usr/local/lib/runner-agent"
	unitDir       = "/etc/systemd/system"
	certsDir      = confDir + "/certs"
	gitspaceCerts = "/harness/certs"
	// authorityFile is where steps find the certificate of a proxy's authority.
	authorityFile = "/etc/harness-certs/ca.crt"
)

// cloudConfig is the part of cloud-init's format that is used.
type cloudConfig struct {
	Files []writeFile `yaml:"write_files"`
	Run   [][]string  `yaml:"runcmd"`
}

type writeFile struct {
	Path        string `yaml:"path"`
	Owner       string `yaml:"owner"`
	Permissions string `yaml:"permissions"`
	Encoding    string `yaml:"encoding,omitempty"`
	Content     string `yaml:"content"`
}

// linux makes a cloud-config, which Ubuntu, Debian and Amazon Linux take alike:
// what differs between them is found out in the machine.
func (r *Renderer) linux(b pool.BootRequest) (string, error) {
	build := b.Kind != pool.Gitspace
	certs := certsDir
	if b.InitScript != "" {
		certs = gitspaceCerts
	}
	var c cloudConfig
	add := func(mode, path, content string) {
		c.Files = append(c.Files, writeFile{Path: path, Owner: "root:root", Permissions: mode, Content: content})
	}
	add("0600", certs+"/ca-cert.pem", string(b.Identity.CACert))
	add("0600", certs+"/server-cert.pem", string(b.Identity.Cert))
	add("0600", certs+"/server-key.pem", string(b.Identity.Key))

	conf := conf{
		{"DRIVER", b.Driver},
		{"URLS", strings.Join(r.urls(), " ")},
		{"SHA256_AMD64", r.cfg.SHA256[asset("linux", "amd64")]},
		{"SHA256_ARM64", r.cfg.SHA256[asset("linux", "arm64")]},
		{"CERTS", certs},
		{"DOCKER", "yes"},
	}
	agent := unit{after: []string{"network-online.target", "docker.service"}}

	conf.set("EGRESS_PROXY", b.Proxy)
	if b.Proxy != "" {
		conf.set("EGRESS_NO_PROXY", r.cfg.Helpers.EgressNoProxy)
		add("0644", unitDir+"/docker.service.d/egress.conf", dockerProxy(b.Proxy, r.cfg.Helpers.EgressNoProxy))
		if ca := r.cfg.Helpers.EgressCACert; ca != "" {
			add("0644", authorityFile, ca)
		}
	}

	conf.set("DEADLINE", "")
	if !b.Deadline.IsZero() {
		at := b.Deadline.UTC().Truncate(time.Second)
		conf.set("DEADLINE", at.Format(time.RFC3339))
		add("0644", unitDir+"/runner-deadline.timer", deadlineTimer(at))
		add("0644", unitDir+"/runner-deadline.service", deadlineService)
	}

	conf.set("DISKS", "")
	if len(b.Disks) > 0 {
		list, err := diskList(b)
		if err != nil {
			return "", err
		}
		conf.set("DISKS", "yes")
		add("0644", confDir+"/disks", list)
		if b.Options.SoleDisk != "" {
			add("0644", confDir+"/disks.sole", b.Options.SoleDisk+"\n")
		}
		add("0755", libDir+"/disks.sh", disksScript)
		add("0644", unitDir+"/runner-disks.service", disksUnit)
		agent.requires = append(agent.requires, "runner-disks.service")
	}

	conf.set("SCRATCH", "")
	if len(b.Options.Scratch) > 0 && build {
		conf.set("SCRATCH", "yes")
		add("0644", confDir+"/scratch", strings.Join(b.Options.Scratch, " ")+"\n")
		add("0755", libDir+"/scratch.sh", scratchScript)
		add("0644", unitDir+"/runner-scratch.service", scratchUnit)
		agent.after = append(agent.after, "runner-scratch.service")
	}

	conf.set("INIT_SCRIPT", "")
	if b.InitScript != "" {
		conf.set("INIT_SCRIPT", libDir+"/init-script")
		c.Files = append(c.Files, writeFile{
			Path: libDir + "/init-script", Owner: "root:root", Permissions: "0700", Encoding: "b64",
			Content: base64.StdEncoding.EncodeToString([]byte(withShebang(b.InitScript))),
		})
	}
	add("0644", unitDir+"/runner-agent.service", agent.text())
	add("0600", confDir+"/boot.conf", conf.shell())
	add("0755", libDir+"/boot.sh", bootScript)
	c.Run = [][]string{{libDir + "/boot.sh"}}

	var out bytes.Buffer
	out.WriteString("#cloud-config\n")
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return "", fmt.Errorf("write cloud-config: %w", err)
	}
	return out.String(), nil
}

// withShebang makes a program of a script that does not say what runs it.
func withShebang(script string) string {
	if strings.HasPrefix(script, "#!") {
		return script
	}
	return "#!/bin/bash\n" + script
}

// diskList is the machine's table of persistent disks: label, folder, paths.
func diskList(b pool.BootRequest) (string, error) {
	if b.Options.Disks == nil {
		return "", fmt.Errorf("machines of type %s cannot have persistent disks", b.Driver)
	}
	var out strings.Builder
	for i, d := range b.Disks {
		fmt.Fprintf(&out, "%s %s %s\n", drivers.DiskLabel(d.Name), drivers.DiskFolder(i, d.Name), strings.Join(b.Options.Disks(i), " "))
	}
	return out.String(), nil
}

// conf is a list of a script's variables.
type conf [][2]string

func (c *conf) set(name, value string) { *c = append(*c, [2]string{name, value}) }

// shell writes the variables for a shell, quoted.
func (c conf) shell() string {
	var out strings.Builder
	for _, v := range c {
		out.WriteString(v[0] + "=" + quoteShell(v[1]) + "\n")
	}
	return out.String()
}

func quoteShell(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// dockerProxy has docker's service fetch images through a proxy.
func dockerProxy(proxy, noProxy string) string {
	var out strings.Builder
	out.WriteString("[Service]\n")
	for _, v := range [][2]string{{"HTTP_PROXY", proxy}, {"HTTPS_PROXY", proxy}, {"NO_PROXY", noProxy}} {
		fmt.Fprintf(&out, "Environment=\"%s=%s\"\n", v[0], unitQuotes.Replace(v[1]))
	}
	return out.String()
}

// unitQuotes makes a text fit for quotes in a unit.
var unitQuotes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "\n", " ")

// unit is the agent's systemd unit.
type unit struct{ after, requires []string }

// text writes the unit. The agent's end is never final; a step that is killed
// for memory does not take the agent with it; systemd gives steps room.
func (u unit) text() string {
	var out strings.Builder
	out.WriteString("[Unit]\nDescription=Agent of a build machine\nWants=network-online.target\n")
	fmt.Fprintf(&out, "After=%s\n", strings.Join(append(append([]string{}, u.after...), u.requires...), " "))
	if len(u.requires) > 0 {
		fmt.Fprintf(&out, "Requires=%s\n", strings.Join(u.requires, " "))
	}
	out.WriteString(`StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/lite-engine server --env-file /root/.env
WorkingDirectory=/root
Environment=HOME=/root
Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec=20
OOMPolicy=continue
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
StandardOutput=append:/var/log/lite-engine.log
StandardError=append:/var/log/lite-engine.log

[Install]
WantedBy=multi-user.target
`)
	return out.String()
}

// deadlineTimer ends the machine at a time, also if it slept or was off then.
func deadlineTimer(at time.Time) string {
	return `[Unit]
Description=End of this machine, which nothing prolongs

[Timer]
OnCalendar=` + at.Format("2006-01-02 15:04:05") + ` UTC
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
`
}

const deadlineService = `[Unit]
Description=Shut this machine down at its deadline

[Service]
Type=oneshot
ExecStart=/sbin/shutdown -h now
`

const disksUnit = `[Unit]
Description=Mount the disks that outlive this machine
Before=docker.service runner-agent.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/runner-agent/disks.sh

[Install]
WantedBy=multi-user.target
`

const scratchUnit = `[Unit]
Description=Make scratch space of a disk that ends with this machine
Before=docker.service runner-agent.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/runner-agent/scratch.sh

[Install]
WantedBy=multi-user.target
`

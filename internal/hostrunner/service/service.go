// Package service writes what makes a program a service of the system: a unit
// of systemd, a property list of launchd, or an entry of the Windows service
// manager.
//
// It knows how services are described and registered, and nothing of what the
// program does.
package service

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"text/template"
	"time"
)

// DefaultName is what the local runner is called as a service.
const DefaultName = "harness-docker-runner"

// Spec is a service.
type Spec struct {
	// Name is the service's, of letters, digits, "-", "_" and dots.
	Name string
	// Description is for people.
	Description string
	// Program is the absolute path of the program, Args what it is called with.
	Program string
	Args    []string
	// User runs it; "" is root, or the user it is installed for.
	User string
	// StopTime is how long it may take to stop.
	StopTime time.Duration
	// Log is the file for what it prints, where the system keeps none.
	Log string
}

// Check says what is wrong with a spec.
func (s Spec) Check() error {
	bad := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
	}
	if s.Name == "" || strings.ContainsFunc(s.Name, bad) || s.Name[0] == '.' || s.Name[0] == '-' {
		return fmt.Errorf("%q is no name for a service; use letters, digits, - and _", s.Name)
	}
	if s.Program == "" {
		return errors.New("the service has no program")
	}
	for _, text := range append([]string{s.Description, s.Program, s.User, s.Log}, s.Args...) {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
			return fmt.Errorf("%q has a control character, which no service file can hold", text)
		}
	}
	return nil
}

// seconds is the stop time in whole ones.
func (s Spec) seconds() int { return int((s.StopTime + time.Second - 1) / time.Second) }

const systemdUnit = `# Written by: {{.Command}}
[Unit]
Description={{.Description}}
{{- if .System}}
After=network-online.target docker.service podman.socket
Wants=network-online.target
{{- end}}

[Service]
ExecStart={{.Line}}
{{- if .User}}
User={{.User}}
{{- end}}
Restart=always
RestartSec=2
# Stages go on while the program drains; only what is left then is killed.
KillMode=mixed
TimeoutStopSec={{.Seconds}}
LimitNOFILE=1048576
# A container daemon's children are not this service's to count.
TasksMax=infinity

[Install]
WantedBy={{.Target}}
`

// Systemd is the unit of a service, of the whole system or of one user.
func Systemd(s Spec, ofUser bool) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	words := []string{systemdQuote(s.Program)}
	for _, a := range s.Args {
		words = append(words, systemdQuote(a))
	}
	target := "multi-user.target"
	if ofUser {
		target, s.User = "default.target", ""
	}
	return render(systemdUnit, map[string]any{
		"Command": "runner-agent host install", "Description": systemdPlain(s.Description),
		"Line": strings.Join(words, " "), "User": s.User, "Seconds": s.seconds(), "Target": target, "System": !ofUser,
	})
}

// systemdPlain keeps specifiers from being expanded.
func systemdPlain(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// systemdQuote is one word of a command line.
func systemdQuote(word string) string {
	word = strings.NewReplacer("%", "%%", "$", "$$").Replace(word)
	if word != "" && !strings.ContainsAny(word, " \"'\\;") {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(word) + `"`
}

const launchdList = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Written by: runner-agent host install -->
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>{{xml .Name}}</string>
	<key>ProgramArguments</key>
	<array>
{{- range .Words}}
		<string>{{xml .}}</string>
{{- end}}
	</array>
{{- if .User}}
	<key>UserName</key>
	<string>{{xml .User}}</string>
{{- end}}
	<key>EnvironmentVariables</key>
	<dict>
		<key>PATH</key>
		<string>/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin</string>
	</dict>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<true/>
	<key>ExitTimeOut</key>
	<integer>{{.Seconds}}</integer>
	<key>StandardOutPath</key>
	<string>{{xml .Log}}</string>
	<key>StandardErrorPath</key>
	<string>{{xml .Log}}</string>
</dict>
</plist>
`

// Launchd is the property list of a service.
func Launchd(s Spec) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	return render(launchdList, map[string]any{
		"Name": s.Name, "Words": append([]string{s.Program}, s.Args...), "User": s.User, "Seconds": s.seconds(), "Log": s.Log,
	})
}

func render(text string, data any) ([]byte, error) {
	t, err := template.New("service").Funcs(template.FuncMap{"xml": strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace}).Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.Bytes(), err
}

// Windows is what `sc.exe create` would be told, for people to read: the
// service manager itself takes no file.
func Windows(s Spec) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	words := []string{windowsQuote(s.Program)}
	for _, a := range s.Args {
		words = append(words, windowsQuote(a))
	}
	return fmt.Appendf(nil, "sc.exe create %s start= auto DisplayName= %s binPath= %s\nsc.exe failure %s reset= 60 actions= restart/2000\n",
		s.Name, windowsQuote(s.Description), windowsQuote(strings.Join(words, " ")), s.Name), nil
}

// windowsQuote is one argument as Windows programs read their command lines.
func windowsQuote(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\"") {
		return word
	}
	var b strings.Builder
	b.WriteByte('"')
	slashes := 0
	for _, c := range word {
		switch c {
		case '\\':
			slashes++
			continue
		case '"':
			b.WriteString(strings.Repeat(`\`, 2*slashes+1))
		default:
			b.WriteString(strings.Repeat(`\`, slashes))
		}
		slashes = 0
		b.WriteRune(c)
	}
	b.WriteString(strings.Repeat(`\`, 2*slashes))
	b.WriteByte('"')
	return b.String()
}

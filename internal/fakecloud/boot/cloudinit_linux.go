package boot

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// cloudConfig is what is understood of cloud-init's format; another key is an
// error, as it would be without effect here.
type cloudConfig struct {
	BootCommands []command   `yaml:"bootcmd"`
	Files        []writeFile `yaml:"write_files"`
	Commands     []command   `yaml:"runcmd"`
}

type writeFile struct {
	Path        string `yaml:"path"`
	Owner       string `yaml:"owner"`
	Permissions string `yaml:"permissions"`
	Encoding    string `yaml:"encoding"`
	Content     string `yaml:"content"`
	Append      bool   `yaml:"append"`
}

// command is a line for a shell, or words that no shell looks into.
type command struct{ line string }

// UnmarshalYAML takes either form.
func (c *command) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&c.line)
	}
	var words []string
	if err := n.Decode(&words); err != nil {
		return err
	}
	for i, w := range words {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	c.line = strings.Join(words, " ")
	return nil
}

// read understands user data.
func read(data []byte) (c cloudConfig, script []byte, err error) {
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return c, nil, fmt.Errorf("user data: %w", err)
		}
		if data, err = io.ReadAll(io.LimitReader(z, 10<<20)); err != nil {
			return c, nil, fmt.Errorf("user data: %w", err)
		}
	}
	switch {
	case len(data) == 0:
		return c, nil, nil
	case bytes.HasPrefix(data, []byte("#!")):
		return c, data, nil
	case !bytes.HasPrefix(data, []byte("#cloud-config\n")):
		return c, nil, fmt.Errorf("user data begins with %.20q, which is neither #cloud-config nor a script", data)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, nil, fmt.Errorf("user data: %w", err)
	}
	return c, nil, nil
}

// bootUp is one boot: what each boot does, then, at the first, what is done
// once, in cloud-init's order.
func bootUp(m *manager) error {
	data, err := os.ReadFile(filepath.Join(insideDir, userDataName))
	if err != nil {
		return err
	}
	c, script, err := read(data)
	if err != nil {
		say("cloud-init: %v", err)
		return err
	}
	var errs []error
	if len(c.BootCommands) > 0 {
		errs = append(errs, runShell("bootcmd", c.BootCommands))
	}
	done := filepath.Join(insideDir, "instance-done")
	if _, err := os.Stat(done); err == nil {
		m.startEnabled()
		return errors.Join(errs...)
	}
	if err := os.WriteFile(done, nil, 0o600); err != nil {
		return err
	}
	for _, f := range c.Files {
		if err := f.write(); err != nil {
			err = fmt.Errorf("write_files: %s: %w", f.Path, err)
			say("cloud-init: %v", err)
			return errors.Join(append(errs, err)...)
		}
	}
	if len(c.Commands) > 0 {
		errs = append(errs, runShell("runcmd", c.Commands))
	}
	if script != nil {
		name := "/var/lib/cloud-script"
		if err := os.WriteFile(name, script, 0o700); err != nil {
			return err
		}
		errs = append(errs, runProgram("script", name))
	}
	return errors.Join(errs...)
}

func (f writeFile) write() error {
	content := []byte(f.Content)
	switch f.Encoding {
	case "", "text/plain":
	case "b64", "base64":
		raw, err := base64.StdEncoding.DecodeString(f.Content)
		if err != nil {
			return err
		}
		content = raw
	default:
		return fmt.Errorf("encoding %q is not understood here", f.Encoding)
	}
	mode := uint64(0o644)
	if f.Permissions != "" {
		var err error
		if mode, err = strconv.ParseUint(f.Permissions, 8, 32); err != nil {
			return err
		}
	}
	if !filepath.IsAbs(f.Path) {
		return errors.New("not an absolute path")
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	if f.Append {
		flags = os.O_CREATE | os.O_WRONLY | os.O_APPEND
	}
	out, err := os.OpenFile(f.Path, flags, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(content)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err := os.Chmod(f.Path, os.FileMode(mode)); err != nil {
		return err
	}
	owner, _, _ := strings.Cut(f.Owner, ":")
	if owner == "" || owner == "root" {
		return nil
	}
	u, err := user.Lookup(owner)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	return os.Chown(f.Path, uid, -1)
}

// runShell runs commands as cloud-init does: one script, which goes on after a
// command that failed.
func runShell(what string, commands []command) error {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for _, c := range commands {
		b.WriteString(c.line + "\n")
	}
	name := "/var/lib/cloud-" + what
	if err := os.WriteFile(name, []byte(b.String()), 0o700); err != nil {
		return err
	}
	return runProgram(what, name)
}

// runProgram runs a script with its output on the console and in cloud-init's
// log.
func runProgram(what, name string) error {
	out, err := os.OpenFile("/var/log/cloud-init-output.log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	cmd := exec.Command(name)
	cmd.Env = []string{"PATH=" + searchPath, "HOME=/root"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
		say("cloud-init: %v", err)
	}
	return err
}

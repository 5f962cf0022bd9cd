package agent

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// writeFiles makes the files and folders of a setup or step. An existing file
// is rewritten; the mode is the one given, 0644 or 0755 if none is.
func writeFiles(files []agentapi.File) error {
	for _, f := range files {
		if err := writeFile(f); err != nil {
			return fmt.Errorf("file %s: %w", f.Path, err)
		}
	}
	return nil
}

func writeFile(f agentapi.File) error {
	if f.Path == "" {
		return errors.New("has no path")
	}
	path := hostPath(f.Path)
	mode := fs.FileMode(f.Mode) & 0o7777
	if f.IsDir {
		if err := os.MkdirAll(path, 0o777); err != nil {
			return err
		}
		return chmod(path, mode, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	// Nobody else reads it before it has its final mode.
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(f.Data)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return chmod(path, mode, 0o644)
}

func chmod(path string, mode, fallback fs.FileMode) error {
	if mode == 0 {
		mode = fallback
	}
	set := mode.Perm()
	for bit, m := range map[fs.FileMode]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			set |= m
		}
	}
	return os.Chmod(path, set)
}

// makeShared makes the folder steps share, open to all users as /tmp is,
// since steps may run as another user than the agent. One that exists is left
// as it is.
func makeShared(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("shared folder: %w", err)
	}
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
		return fmt.Errorf("shared folder: %w", err)
	}
	return nil
}

// makeVolumes makes the host folders of a setup that are missing. They are
// open to everybody, since containers use them under ids of their own; what
// exists already is left as it is.
func makeVolumes(volumes []agentapi.Volume) error {
	for _, v := range volumes {
		if v.Host == nil {
			continue // the container daemon makes it
		}
		if isDevice(v.Host.Path) {
			continue // there or not, it is not ours to make
		}
		path := hostPath(v.Host.Path)
		if path == "" {
			return fmt.Errorf("volume %s: has no path", v.Host.Name)
		}
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := os.MkdirAll(path, 0o777); err != nil {
			return fmt.Errorf("volume %s: %w", v.Host.Name, err)
		}
		if err := os.Chmod(path, 0o777); err != nil {
			return fmt.Errorf("volume %s: %w", v.Host.Name, err)
		}
	}
	return nil
}

// isDevice says whether a volume is a device or a pipe of the machine.
func isDevice(path string) bool {
	return strings.HasPrefix(path, "/dev/") || strings.HasPrefix(path, `\\.\pipe\`)
}

// removablePaths are the host folders a destroy removes. A root folder is
// never one of them.
func removablePaths(volumes []agentapi.Volume) []string {
	var paths []string
	for _, v := range volumes {
		if v.Host == nil || !v.Host.Remove || v.Host.Path == "" {
			continue
		}
		path := filepath.Clean(hostPath(v.Host.Path))
		if filepath.IsAbs(path) && filepath.Dir(path) != path {
			paths = append(paths, path)
		}
	}
	return paths
}

// writeClientPair writes the stage's client certificate and key where services
// expect them.
func writeClientPair(c agentapi.MTLSConfig) error {
	if c.ClientCertDirPath == "" || c.ClientCert == "" || c.ClientCertKey == "" {
		return nil
	}
	dir := hostPath(c.ClientCertDirPath)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("mtls_config: %w", err)
	}
	for name, text := range map[string]string{"client.crt": c.ClientCert, "client.key": c.ClientCertKey} {
		plain, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return fmt.Errorf("mtls_config: %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), plain, 0o600); err != nil {
			return fmt.Errorf("mtls_config: %w", err)
		}
	}
	return nil
}

// ReplaceJSON replaces a file as a whole, also over a power cut: whoever reads
// it finds the old value or the new one. The file is for this user alone.
func ReplaceJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

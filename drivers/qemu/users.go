package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ImageUsers are the names of the machines below a data directory that were
// made of an image, sorted; none if there never was a machine. A machine whose
// record cannot be read is an error: it might be one.
func ImageUsers(dataDir, imageName string) ([]string, error) {
	dir := filepath.Join(dataDir, "machines")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("machines of image %s: %w", imageName, err)
	}
	var users []string
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, e.Name(), "meta.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // destroyed meanwhile
		}
		var m struct {
			Image string `json:"image"`
		}
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		if err != nil {
			return nil, fmt.Errorf("machine %s: %w", e.Name(), err)
		}
		if m.Image == imageName {
			users = append(users, e.Name())
		}
	}
	return users, nil
}

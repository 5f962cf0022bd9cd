package hostrunner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode"
)

// Mount is one entry of CI_MOUNT_VOLUMES: a file or folder of the host that
// every container step gets.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	// Create says that a missing source is made as a folder.
	Create bool
}

// MountsVariable is the variable the entries come from.
const MountsVariable = "CI_MOUNT_VOLUMES"

// MountError is what is wrong with an entry, and where it stands.
type MountError struct {
	// Entry counts from 1, Column is where it begins, in bytes from 1.
	Entry, Column int
	Text, Reason  string
}

func (e *MountError) Error() string {
	return fmt.Sprintf("%s: entry %d (column %d) %q: %s", MountsVariable, e.Entry, e.Column, e.Text, e.Reason)
}

// ParseMounts reads CI_MOUNT_VOLUMES: entries separated by commas, each
// "source;target", or "source:target" where that has one meaning, with the
// options "ro" and "create" as further parts. Spaces around parts do no harm,
// empty entries neither. A drive letter's colon separates nothing. All bad
// entries are named at once.
func ParseMounts(text string) ([]Mount, error) {
	var mounts []Mount
	var bad []error
	column, number := 1, 0
	targets := make(map[string]int)
	for entry := range strings.SplitSeq(text, ",") {
		at := column + len(entry) - len(strings.TrimLeftFunc(entry, unicode.IsSpace))
		column += len(entry) + 1
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		number++
		m, err := parseMount(entry)
		if err == nil {
			if first := targets[m.Target]; first != 0 {
				err = fmt.Errorf("entry %d has the target %s already", first, m.Target)
			}
			targets[m.Target] = number
		}
		if err != nil {
			bad = append(bad, &MountError{Entry: number, Column: at, Text: entry, Reason: err.Error()})
			continue
		}
		mounts = append(mounts, m)
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	return mounts, nil
}

func parseMount(entry string) (Mount, error) {
	parts := strings.Split(entry, ";")
	if len(parts) == 1 {
		parts = splitColons(entry)
	}
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	if len(parts) < 2 {
		return Mount{}, errors.New("has no target; write source;target")
	}
	m := Mount{Source: parts[0], Target: parts[1]}
	for _, option := range parts[2:] {
		switch option {
		case "ro":
			m.ReadOnly = true
		case "create":
			m.Create = true
		default:
			return Mount{}, fmt.Errorf("%q is no option; known are ro and create", option)
		}
	}
	for _, path := range parts[:2] {
		if !isAbsolute(path) {
			return Mount{}, fmt.Errorf("%q is no absolute path; write source;target", path)
		}
		if strings.ContainsRune(path, 0) {
			return Mount{}, errors.New("a path has a zero byte")
		}
	}
	return m, nil
}

// splitColons splits at colons that are not those of drive letters.
func splitColons(entry string) []string {
	var parts []string
	begin := 0
	for i := range len(entry) {
		if entry[i] != ':' || isDrive(entry[begin:i]) && i+1 < len(entry) && (entry[i+1] == '\\' || entry[i+1] == '/') {
			continue
		}
		parts = append(parts, entry[begin:i])
		begin = i + 1
	}
	return append(parts, entry[begin:])
}

// isDrive says whether text is a single letter, with spaces around it perhaps.
func isDrive(text string) bool {
	text = strings.TrimSpace(text)
	return len(text) == 1 && ('a' <= text[0]|0x20 && text[0]|0x20 <= 'z')
}

// isAbsolute says whether a path is absolute on unix or on Windows: targets are
// paths of containers, whatever the host is.
func isAbsolute(path string) bool {
	return strings.HasPrefix(path, "/") || strings.HasPrefix(path, `\\`) ||
		len(path) > 2 && isDrive(path[:1]) && path[1] == ':' && (path[2] == '\\' || path[2] == '/')
}

// CheckMounts looks at the sources: one that is missing is an error that names
// it, unless it is to be made. onWindows adds warnings about what cannot be
// mounted there.
func CheckMounts(mounts []Mount, onWindows bool) (warnings []string, err error) {
	var bad []error
	for _, m := range mounts {
		info, err := os.Stat(m.Source)
		switch {
		case errors.Is(err, fs.ErrNotExist) && m.Create:
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				bad = append(bad, fmt.Errorf("%s: make %s: %w", MountsVariable, m.Source, err))
			}
		case errors.Is(err, fs.ErrNotExist):
			bad = append(bad, fmt.Errorf("%s: the source %s does not exist; make it, or add ;create if it is to be an empty folder", MountsVariable, m.Source))
		case err != nil:
			bad = append(bad, fmt.Errorf("%s: %w", MountsVariable, err))
		case onWindows && !info.IsDir():
			warnings = append(warnings, fmt.Sprintf("%s: %s is a file; Windows containers mount folders to folders only", MountsVariable, m.Source))
		}
	}
	return warnings, errors.Join(bad...)
}

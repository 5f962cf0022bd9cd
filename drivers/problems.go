package drivers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Problems collects what a type's check finds. The zero value is empty.
type Problems []Problem

// Errorf adds a problem that keeps a server from starting.
func (p *Problems) Errorf(path, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

// Warnf adds a problem that does not.
func (p *Problems) Warnf(path, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Message: fmt.Sprintf(format, args...), Warning: true})
}

// Platform fills in the operating system and the architecture that pf leaves
// open, which are the first of systems and of archs, and refuses those that
// are not in the lists. An empty list allows all and fills in nothing.
func (p *Problems) Platform(pf *Platform, systems, archs []string) {
	p.word("platform.os", &pf.OS, systems)
	p.word("platform.arch", &pf.Arch, archs)
}

func (p *Problems) word(path string, value *string, allowed []string) {
	switch {
	case len(allowed) == 0:
	case *value == "":
		*value = allowed[0]
	case !slices.Contains(allowed, *value):
		if near := Nearest(*value, allowed); near != "" {
			p.Errorf(path, "%s is none of %s; did you mean %q?", show(*value), strings.Join(allowed, ", "), near)
			return
		}
		p.Errorf(path, "%s is not what machines of this type are; write %s", show(*value), strings.Join(allowed, " or "))
	}
}

// UserData are the two keys of a spec for a boot script of one's own.
type UserData struct {
	UserData     string `spec:"user_data" doc:"Boot script that replaces the built-in one."`
	UserDataPath string `spec:"user_data_path" file:"true" doc:"File with such a script."`
}

// UserData checks that at most one of the two is given and that the file can
// be read.
func (p *Problems) UserData(u UserData) {
	if u.UserDataPath == "" {
		return
	}
	if u.UserData != "" {
		p.Errorf("user_data_path", "give user_data or user_data_path, not both")
		return
	}
	if why := unreadable(u.UserDataPath); why != "" {
		p.Errorf("user_data_path", "%s: %s; give the path of a file that can be read", u.UserDataPath, why)
	}
}

// NoFile warns of a file that is not there: it may be on the host that serves
// and not on the one that checks.
func (p *Problems) NoFile(path, name string) {
	if name == "" {
		return
	}
	if why := unreadable(name); why != "" {
		p.Warnf(path, "%s: %s; it must be there when a server starts", name, why)
	}
}

// unreadable says what keeps a file from being read, "" if nothing does. It
// opens no device or pipe, which could block.
func unreadable(name string) string {
	info, err := os.Stat(name)
	if err != nil {
		return cause(err)
	}
	if !info.Mode().IsRegular() {
		return "is no plain file"
	}
	f, err := os.Open(name)
	if err != nil {
		return cause(err)
	}
	if err := f.Close(); err != nil {
		return cause(err)
	}
	return ""
}

// cause is an error of a file without its path.
func cause(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return err.Error()
}

// CheckOf makes a [Registration.Check] of one that takes its own spec.
func CheckOf[T any](check func(spec *T, p *Platform) Problems) func(any, *Platform) []Problem {
	return func(cfg any, p *Platform) []Problem {
		spec, ok := cfg.(*T)
		if !ok {
			return []Problem{{Message: fmt.Sprintf("spec of type %T, want %T", cfg, spec)}}
		}
		return check(spec, p)
	}
}

// NewOf makes a [Registration.NewConfig] of a spec's type.
func NewOf[T any]() func() any {
	return func() any {
		spec := new(T)
		SetDefaults(spec)
		return spec
	}
}

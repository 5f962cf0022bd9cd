package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2/model"
)

// newModel is what the generated code of aws-sdk-go-v2 says of requests. It has
// no model beside it, but its code is regular.
type newModel struct {
	code    map[string]string // of functions, by what follows "awsEc2query_serialize"
	read    map[string]*newFunction
	enums   map[string][]string
	structs map[string]string // their code
}

// newFunction is one that writes a structure, or a list.
type newFunction struct {
	list    bool
	members map[string]newMember // by their names on the wire
	member  newMember            // a list's
}

type newMember struct {
	name     string // of the Go field
	function string // that writes it, "" for a scalar
	call     string // of the encoder, for a scalar
	owner    string // the Go type that has the field
}

var (
	signatureRE = regexp.MustCompile(`^(\w+)\(v ([^,]+), value query\.Value\) error \{\n`)
	memberRE    = regexp.MustCompile(`(?s)if (?:len\()?v\.(\w+)\)? (?:!=|>) (?:nil|0) \{\s*objectKey := object\.(?:Flat)?Key\("([^"]+)"\)\s*(.*?)\n\t\}`)
	nestedRE    = regexp.MustCompile(`awsEc2query_serialize(\w+)\(`)
	scalarRE    = regexp.MustCompile(`\b(?:objectKey|av)\.(\w+)\(([^\n]*)\)`)
	fieldRE     = regexp.MustCompile(`(?m)^\t(\w+) (\S+)$`)
	quotedRE    = regexp.MustCompile(`"([^"]*)"`)
)

func readNew(dir string) (*newModel, error) {
	n := &newModel{code: map[string]string{}, read: map[string]*newFunction{}, enums: map[string][]string{}, structs: map[string]string{}}
	err := declarations(filepath.Join(dir, "serializers.go"), "func awsEc2query_serialize", func(code string) {
		if m := signatureRE.FindStringSubmatch(code); m != nil {
			n.code[m[1]] = code
		}
	})
	if err != nil {
		return nil, err
	}
	err = declarations(filepath.Join(dir, "types", "enums.go"), "func (", func(code string) {
		name, values, ok := strings.Cut(code, ") Values() ")
		if !ok {
			return
		}
		for _, q := range quotedRE.FindAllStringSubmatch(values, -1) {
			n.enums[name] = append(n.enums[name], q[1])
		}
	})
	if err != nil {
		return nil, err
	}
	files := []string{filepath.Join(dir, "types", "types.go")}
	for _, op := range operations {
		files = append(files, filepath.Join(dir, "api_op_"+op+".go"))
	}
	for _, name := range files {
		err := declarations(name, "type ", func(code string) {
			if name, fields, ok := strings.Cut(code, " struct {\n"); ok {
				n.structs[name] = fields
			}
		})
		if err != nil {
			return nil, err
		}
	}
	for _, op := range operations {
		if f := n.function("OpDocument" + op + "Input"); f == nil || len(f.members) == 0 {
			return nil, fmt.Errorf("serializers.go: found no parameters of %s: its code looks different now", op)
		}
	}
	return n, nil
}

// declarations tells the code of those of a file that begin so, from there on.
func declarations(file, begin string, tell func(code string)) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for _, part := range strings.Split(string(text), "\n"+begin)[1:] {
		code, _, _ := strings.Cut(part, "\n}")
		tell(code + "\n")
	}
	return nil
}

// function is the one that writes a value, nil for none.
func (n *newModel) function(name string) *newFunction {
	if n.read[name] == nil && n.code[name] != "" {
		m := signatureRE.FindStringSubmatch(n.code[name])
		n.read[name] = function(m[2], n.code[name][len(m[0]):])
	}
	return n.read[name]
}

// field is the Go type of a structure's field.
func (n *newModel) field(owner, name string) string {
	for _, f := range fieldRE.FindAllStringSubmatch(n.structs[owner], -1) {
		if f[1] == name {
			return f[2]
		}
	}
	return ""
}

// function reads the body of one that writes a value of a Go type.
func function(goType, body string) *newFunction {
	f := &newFunction{members: map[string]newMember{}}
	owner := strings.TrimPrefix(strings.TrimPrefix(goType, "*"), "types.")
	if strings.HasPrefix(goType, "[]") {
		f.list = true
		f.member = value(body[strings.Index(body, "av := "):])
		f.member.owner = owner
		return f
	}
	for _, m := range memberRE.FindAllStringSubmatch(body, -1) {
		v := value(m[3])
		v.name, v.owner = m[1], owner
		f.members[m[2]] = v
	}
	return f
}

func value(code string) newMember {
	if m := nestedRE.FindStringSubmatch(code); m != nil {
		return newMember{function: m[1]}
	}
	if m := scalarRE.FindStringSubmatch(code); m != nil {
		if strings.Contains(m[2], "smithytime.FormatDateTime") {
			return newMember{call: "Time"}
		}
		return newMember{call: m[1]}
	}
	return newMember{}
}

// scalars are the model's types by the encoder's functions.
var scalars = map[string]string{
	"String": "string", "Boolean": "boolean", "Integer": "integer", "Long": "long", "Double": "double",
	"Base64EncodeBytes": "blob", "Time": "timestamp",
}

// request adds the shape of a member that only the newer SDK has, and says its
// name.
func (n *newModel) request(into map[string]*model.Shape, m newMember) (string, error) {
	if m.function == "" {
		return n.scalar(into, m)
	}
	name := strings.TrimPrefix(m.function, "Document")
	if into[name] != nil {
		return name, nil
	}
	f := n.function(m.function)
	if f == nil {
		return "", fmt.Errorf("serializers.go has no %s", m.function)
	}
	s := &model.Shape{Type: "structure"}
	into[name] = s
	if f.list {
		s.Type = "list"
		of, err := n.request(into, f.member)
		s.Of = of
		return name, err
	}
	for _, wire := range sorted(f.members) {
		shape, err := n.request(into, f.members[wire])
		if err != nil {
			return "", err
		}
		s.Members = append(s.Members, model.Member{Name: f.members[wire].name, Wire: wire, Shape: shape})
	}
	slices.SortFunc(s.Members, func(a, b model.Member) int { return strings.Compare(a.Name, b.Name) })
	return name, nil
}

func (n *newModel) scalar(into map[string]*model.Shape, m newMember) (string, error) {
	kind := scalars[m.call]
	if kind == "" {
		return "", fmt.Errorf("serializers.go writes %s.%s by %q, which is new", m.owner, m.name, m.call)
	}
	goType := n.field(m.owner, m.name)
	if m.name == "" {
		goType = m.owner // a list's
	}
	if enum, ok := strings.CutPrefix(strings.TrimPrefix(goType, "[]"), "types."); ok || n.enums[goType] != nil {
		if !ok {
			enum = goType
		}
		if into[enum] == nil {
			into[enum] = &model.Shape{Type: kind, Enum: union(nil, n.enums[enum])}
		}
		return enum, nil
	}
	name := upper(kind)
	if into[name] == nil {
		into[name] = &model.Shape{Type: kind}
	}
	return name, nil
}

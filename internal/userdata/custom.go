package userdata

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// Where users' own templates expect the certificates.
const (
	customCerts = "/tmp/certs/"
	customLog   = "/var/log/lite-engine.log"
)

// variables are what a user's own template may use; their names are a contract
// with the templates of the existing runner. Addresses have no slash at their
// end.
type variables struct {
	LiteEnginePath, LiteEngineFallbackPath, LiteEngineLogsPath string
	CACert, TLSCert, TLSKey                                    string
	Platform                                                   drivers.Platform
	Architecture, DriverName                                   string
	CertsDirectory, CertDir, CaCertPath, CertPath, KeyPath     string

	HarnessTestBinaryURI, PluginBinaryURI, PluginBinaryFallbackURI string
	AutoInjectionBinaryURI                                         string
	AnnotationsBinaryURI, AnnotationsBinaryFallbackURI             string
	EnvmanBinaryURI, EnvmanBinaryFallbackURI                       string
	TmateBinaryURI, TmateBinaryFallbackURI                         string
	Tmate                                                          tmate

	IsHosted, EgressControl, EnableLEDiagnostics, EnableC4D bool
	EgressProxyURL, EgressNoProxy, EgressCACert             string

	GitspaceAgentConfig gitspaceAgentConfig
	StorageConfig       storageConfig
}

type tmate struct {
	Enabled                           bool
	Image, Server, Port, RSA, ED25519 string
}

// gitspaceAgentConfig has the init script as the caller sent it, in base64.
type gitspaceAgentConfig struct {
	Secret, AccessToken      string
	Ports                    []int
	VMInitScript             string
	GitspaceConfigIdentifier string
}

type storageConfig struct {
	CephPoolIdentifier, Identifier, Size, Type, BootDiskSize, BootDiskType string
}

// functions are those of templates beside the built-in ones.
var functions = template.FuncMap{
	"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"trim":   strings.TrimSpace,
}

// Check says what is wrong with a user's own template without making a machine
// of it: syntax, and variables that do not exist, each with its place.
func Check(name, text string) error {
	_, err := parsed(name, text)
	return err
}

func parsed(name, text string) (*template.Template, error) {
	t, err := template.New(name).Funcs(functions).Parse(text)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: "))
	}
	c := checker{}
	for _, t := range t.Templates() {
		if t.Tree != nil {
			// A template that another one calls has the dot it is given.
			c.tree, c.main = t.Tree, t.Name() == name
			c.list(t.Root, c.main)
		}
	}
	return t, errors.Join(c.found...)
}

func (r *Renderer) custom(b pool.BootRequest) (string, error) {
	t, err := parsed(b.Options.TemplateName, b.Options.Template)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := t.Execute(&out, r.variables(b)); err != nil {
		return "", errors.New(strings.TrimPrefix(err.Error(), "template: "))
	}
	return out.String(), nil
}

func (r *Renderer) variables(b pool.BootRequest) variables {
	h := r.cfg.Helpers
	bare := func(address string) string { return strings.TrimRight(address, "/") }
	v := variables{
		LiteEnginePath: r.cfg.AgentURL, LiteEngineFallbackPath: r.cfg.FallbackURL, LiteEngineLogsPath: customLog,
		CACert: string(b.Identity.CACert), TLSCert: string(b.Identity.Cert), TLSKey: string(b.Identity.Key),
		Platform: b.Platform, Architecture: b.Platform.Arch, DriverName: b.Driver,
		CertsDirectory: customCerts, CertDir: customCerts,
		CaCertPath: customCerts + "ca-cert.pem", CertPath: customCerts + "server-cert.pem", KeyPath: customCerts + "server-key.pem",

		HarnessTestBinaryURI: bare(h.HarnessTest), PluginBinaryURI: bare(h.Plugin), PluginBinaryFallbackURI: bare(h.PluginFallback),
		AutoInjectionBinaryURI: bare(h.AutoInjection),
		AnnotationsBinaryURI:   bare(h.Annotations), AnnotationsBinaryFallbackURI: bare(h.AnnotationsFallback),
		EnvmanBinaryURI: bare(h.Envman), EnvmanBinaryFallbackURI: bare(h.EnvmanFallback),
		TmateBinaryURI: bare(h.Tmate), TmateBinaryFallbackURI: bare(h.TmateFallback),
		Tmate: tmate{
			Enabled: h.TmateEnabled, Image: h.TmateImage, Server: h.TmateHost, Port: h.TmatePort, RSA: h.TmateRSA, ED25519: h.TmateEd25519,
		},
		EnableLEDiagnostics: h.Diagnostics, EnableC4D: len(b.Options.Scratch) > 0,
		EgressControl: b.Proxy != "", EgressProxyURL: b.Proxy, EgressNoProxy: h.EgressNoProxy, EgressCACert: h.EgressCACert,
	}
	if b.Platform.OS == "windows" {
		// What a template expects there below C:.
		v.LiteEngineLogsPath = `C:\Program Files\lite-engine\log.out`
	}
	if b.InitScript != "" {
		v.GitspaceAgentConfig.VMInitScript = base64.StdEncoding.EncodeToString([]byte(b.InitScript))
	}
	names := make([]string, len(b.Disks))
	for i, d := range b.Disks {
		names[i] = d.Name
	}
	if len(b.Disks) > 0 {
		v.StorageConfig.Identifier, v.StorageConfig.Type = strings.Join(names, ","), b.Disks[0].Type
		if b.Disks[0].SizeGiB > 0 {
			v.StorageConfig.Size = strconv.Itoa(b.Disks[0].SizeGiB)
		}
	}
	return v
}

// checker walks a template for variables that do not exist, also in branches
// that this machine does not take.
type checker struct {
	tree  *parse.Tree
	main  bool
	found []error
}

// list and its siblings take whether the dot is still the whole of the
// variables: inside range and with it is something else.
func (c *checker) list(l *parse.ListNode, top bool) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		c.node(n, top)
	}
}

func (c *checker) node(n parse.Node, top bool) {
	switch n := n.(type) {
	case *parse.ActionNode:
		c.pipe(n.Pipe, top)
	case *parse.IfNode:
		c.pipe(n.Pipe, top)
		c.list(n.List, top)
		c.list(n.ElseList, top)
	case *parse.RangeNode:
		c.pipe(n.Pipe, top)
		c.list(n.List, false)
		c.list(n.ElseList, top)
	case *parse.WithNode:
		c.pipe(n.Pipe, top)
		c.list(n.List, false)
		c.list(n.ElseList, top)
	case *parse.TemplateNode:
		c.pipe(n.Pipe, top)
	case *parse.PipeNode:
		c.pipe(n, top)
	case *parse.FieldNode:
		if top {
			c.path(n, n.Ident)
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" && c.main {
			c.path(n, n.Ident[1:])
		}
	case *parse.ChainNode:
		c.node(n.Node, top)
	}
}

func (c *checker) pipe(p *parse.PipeNode, top bool) {
	if p == nil {
		return
	}
	for _, command := range p.Cmds {
		for _, arg := range command.Args {
			c.node(arg, top)
		}
	}
}

func (c *checker) path(n parse.Node, idents []string) {
	t := reflect.TypeFor[variables]()
	for i, ident := range idents {
		if t.Kind() != reflect.Struct {
			return // a value that has no parts: executing says so
		}
		f, ok := t.FieldByName(ident)
		if !ok {
			c.unknown(n, idents[:i+1], t)
			return
		}
		t = f.Type
	}
}

func (c *checker) unknown(n parse.Node, idents []string, in reflect.Type) {
	known := map[string]bool{}
	for i := range in.NumField() {
		known[in.Field(i).Name] = true
	}
	place, _ := c.tree.ErrorContext(n)
	name := "." + strings.Join(idents, ".")
	text := fmt.Sprintf("%s: there is no variable %s", place, name)
	names := slices.Sorted(maps.Keys(known))
	if near := drivers.Nearest(idents[len(idents)-1], names); near != "" {
		text += fmt.Sprintf("; did you mean %q?", strings.TrimSuffix(name, idents[len(idents)-1])+near)
	} else {
		text += "; those there are stand in docs/boot.md"
	}
	c.found = append(c.found, errors.New(text))
}

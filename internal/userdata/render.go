package userdata

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Config is where machines get their agent from. The zero value lacks an
// address.
type Config struct {
	// AgentURL is the base address of the agent's files, which are called
	// lite-engine-<os>-<arch>; FallbackURL is a second one, "" for none.
	AgentURL, FallbackURL string
	// SHA256 are the files' sums in hex, by name; a name that is not there is
	// looked up by the machine in SHA256SUMS, or <file>.sha256, beside the file.
	SHA256 map[string]string
	// Helpers are the addresses that only users' templates use.
	Helpers Helpers
}

// Helpers are the addresses of further programs, for users' own templates: the
// built-in scripts install none of them. EgressNoProxy and EgressCACert, a PEM,
// are for the built-in ones too: who is reached without a machine's proxy, and
// the proxy's authority.
type Helpers struct {
	HarnessTest, Plugin, PluginFallback, AutoInjection       string
	Annotations, AnnotationsFallback                         string
	Envman, EnvmanFallback, Tmate, TmateFallback             string
	TmateEnabled                                             bool
	TmateImage, TmateHost, TmatePort, TmateRSA, TmateEd25519 string
	Diagnostics                                              bool
	EgressNoProxy, EgressCACert                              string
}

// Renderer makes boot scripts; it is the runner's pool.Boot. Its methods are
// safe for concurrent use.
type Renderer struct{ cfg Config }

// New checks where the agent is to come from. An address that is no http or
// https address, or a sum that is none, is an error that names it.
func New(cfg Config) (*Renderer, error) {
	cfg.AgentURL = strings.TrimRight(cfg.AgentURL, "/")
	cfg.FallbackURL = strings.TrimRight(cfg.FallbackURL, "/")
	var errs []error
	for _, base := range []string{cfg.AgentURL, cfg.FallbackURL} {
		if base == "" {
			continue
		}
		u, err := url.Parse(base)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.ContainsAny(base, " \t\r\n'\"`$\\") {
			errs = append(errs, fmt.Errorf("%q is no address of the agent; write http:// or https:// and where it lies", base))
		}
	}
	cfg.SHA256 = maps.Clone(cfg.SHA256)
	for _, name := range slices.Sorted(maps.Keys(cfg.SHA256)) {
		sum := strings.ToLower(cfg.SHA256[name])
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 {
			errs = append(errs, fmt.Errorf("%q is no SHA-256 of %s; write 64 hexadecimal digits", cfg.SHA256[name], name))
		}
		cfg.SHA256[name] = sum
	}
	if ca := cfg.Helpers.EgressCACert; ca != "" {
		var err error
		if cfg.Helpers.EgressCACert, err = authorities(ca); err != nil {
			errs = append(errs, err)
		}
	}
	return &Renderer{cfg: cfg}, errors.Join(errs...)
}

// authorities reads the certificates of a PEM, which may have \n for its line
// ends, as it is written where a variable is one line.
func authorities(text string) (string, error) {
	if !strings.Contains(text, "\n") {
		text = strings.ReplaceAll(text, `\n`, "\n")
	}
	var out bytes.Buffer
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("DRONE_EGRESS_PROXY_CA_CERT has a %s; it goes into machines, so give certificates only", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("DRONE_EGRESS_PROXY_CA_CERT: %w", err)
		}
		if err := pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
			return "", fmt.Errorf("DRONE_EGRESS_PROXY_CA_CERT: %w", err)
		}
	}
	if out.Len() == 0 {
		return "", errors.New("DRONE_EGRESS_PROXY_CA_CERT has no certificate; give the PEM itself, from BEGIN CERTIFICATE to END CERTIFICATE")
	}
	return out.String(), nil
}

// HasAgent says whether an address of the agent is known, without which no
// built-in script can be made.
func (r *Renderer) HasAgent() bool { return r.cfg.AgentURL != "" }

// Render makes the boot data of one machine; see [pool.Boot]. An error says
// which template, which place in it, or which limit is in the way.
func (r *Renderer) Render(b pool.BootRequest) ([]byte, error) {
	var text string
	var err error
	switch {
	case b.Options.Template != "":
		text, err = r.custom(b)
	case r.cfg.AgentURL == "":
		err = errors.New("there is no address of the agent: set DRONE_LITE_ENGINE_PATH")
	case b.Platform.OS == "windows":
		text, err = r.windows(b)
	case b.Platform.OS == "darwin":
		text, err = r.macOS(b)
	case b.Platform.OS == "linux" || b.Platform.OS == "":
		text, err = r.linux(b)
	default:
		err = fmt.Errorf("there is no boot script for %q; give one in user_data", b.Platform.OS)
	}
	if err != nil {
		return nil, err
	}
	return fit([]byte(text), b)
}

// urls are the agent's base addresses, the preferred first.
func (r *Renderer) urls() []string {
	if r.cfg.FallbackURL == "" || r.cfg.FallbackURL == r.cfg.AgentURL {
		return []string{r.cfg.AgentURL}
	}
	return []string{r.cfg.AgentURL, r.cfg.FallbackURL}
}

// asset is the agent's file for a platform.
func asset(os, arch string) string {
	name := "lite-engine-" + os + "-" + arch
	if os == "windows" {
		name += ".exe"
	}
	return name
}

// fit packs a script that is too long for its cloud if that helps, else says
// what is large in it.
func fit(text []byte, b pool.BootRequest) ([]byte, error) {
	limit := b.Options.MaxBytes
	if limit <= 0 || len(text) <= limit {
		return text, nil
	}
	long := fmt.Sprintf("%d bytes", len(text))
	if b.Options.Gzip && (b.Platform.OS == "linux" || b.Platform.OS == "") {
		packed, err := pack(text)
		if err != nil {
			return nil, err
		}
		if len(packed) <= limit {
			return packed, nil
		}
		long = fmt.Sprintf("%d bytes, packed %d", len(text), len(packed))
	}
	what := "the built-in script"
	if b.Options.TemplateName != "" {
		what = b.Options.TemplateName
	}
	return nil, fmt.Errorf("the boot script is too long: %s, and %s takes %d; %s has %d, the init script %d, the certificates %d: make the largest shorter, or let the script fetch the rest",
		long, cloudOf(b.Driver), limit, what, len(text)-len(b.InitScript)-certificatesOf(b), len(b.InitScript), certificatesOf(b))
}

func cloudOf(driver string) string {
	if driver == "" {
		return "the cloud"
	}
	return driver
}

func certificatesOf(b pool.BootRequest) int {
	return len(b.Identity.CACert) + len(b.Identity.Cert) + len(b.Identity.Key)
}

func pack(text []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	if _, err := w.Write(text); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return out.Bytes(), nil
}

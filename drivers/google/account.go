//go:build !no_google

package google

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"

	compute "cloud.google.com/go/compute/apiv1"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	htransport "google.golang.org/api/transport/http"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// account is one project and whose rights it is used with. It is shared by the
// drivers of all pools in it and safe for concurrent use.
type account struct {
	project  string
	jsonPath string
	setup    Setup

	budget     budget
	operations operations
	stockouts  stockouts
	images     images
	// sleepless are the machine types asked about, and why they cannot sleep.
	sleepless answers[string]
	instances finder[*instance]
	disks     finder[*disk]

	mu   sync.Mutex
	open *clients
}

// clients are the vendor's, over one connection.
type clients struct {
	http       *http.Client
	endpoint   string
	instances  *compute.InstancesClient
	disks      *compute.DisksClient
	operations *compute.ZoneOperationsClient
	images     *compute.ImagesClient
	types      *compute.MachineTypesClient
	zones      *compute.ZonesClient
	firewalls  *compute.FirewallsClient
}

func newAccount(project, jsonPath string, s Setup) *account {
	a := &account{project: project, jsonPath: jsonPath, setup: s}
	a.operations.a, a.images.a = a, a
	a.instances.find, a.disks.find = a.findInstances, a.findDisks
	return a
}

// accounts are those of one registration.
type accounts struct {
	setup Setup
	mu    sync.Mutex
	known map[[2]string]*account
}

func (all *accounts) of(project, jsonPath string) *account {
	all.mu.Lock()
	defer all.mu.Unlock()
	key := [2]string{project, jsonPath}
	if all.known == nil {
		all.known = map[[2]string]*account{}
	}
	if all.known[key] == nil {
		all.known[key] = newAccount(project, jsonPath, all.setup)
	}
	return all.known[key]
}

// projectOf is the project a spec means: its own, that of its credentials, or
// that of the environment.
func projectOf(s *Spec) (string, error) {
	if s.Account.ProjectID != "" {
		return s.Account.ProjectID, nil
	}
	for _, file := range []string{s.Account.JSONPath, os.Getenv("GOOGLE_APPLICATION_CREDENTIALS")} {
		if file == "" {
			continue
		}
		key, err := readKey(file)
		if err != nil {
			return "", err
		}
		if key.Project != "" {
			return key.Project, nil
		}
	}
	if project := os.Getenv("GOOGLE_CLOUD_PROJECT"); project != "" {
		return project, nil
	}
	return "", fmt.Errorf("%w: account.project_id: missing, and neither the credentials nor GOOGLE_CLOUD_PROJECT name a project", drivers.ErrInvalid)
}

// key is what a file of credentials says of itself.
type key struct {
	Type    string `json:"type"`
	Project string `json:"project_id"`
}

func readKey(file string) (key, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return key{}, fmt.Errorf("%w: credentials: %w", drivers.ErrAuth, err)
	}
	var k key
	if err := json.Unmarshal(text, &k); err != nil || k.Type == "" {
		return key{}, fmt.Errorf("%w: credentials: %s is no key file of Google: it has no type", drivers.ErrAuth, file)
	}
	return k, nil
}

// clients connects at the first call, so that a runner starts without its cloud.
func (a *account) clients(ctx context.Context) (*clients, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open != nil {
		return a.open, nil
	}
	c := &clients{http: a.setup.HTTP, endpoint: a.setup.Endpoint}
	switch {
	case c.http != nil:
	case c.endpoint != "":
		c.http = &http.Client{}
	default:
		// What is kept of ctx (a source of tokens) outlives this call.
		hc, err := a.connect(context.WithoutCancel(ctx))
		if err != nil {
			return nil, err
		}
		c.http = hc
	}
	if c.endpoint == "" {
		c.endpoint = "https://compute.googleapis.com"
	}
	c.endpoint = strings.TrimSuffix(c.endpoint, "/")
	with := []option.ClientOption{option.WithHTTPClient(c.http), option.WithEndpoint(c.endpoint), option.WithoutAuthentication()}
	var err [7]error
	c.instances, err[0] = compute.NewInstancesRESTClient(ctx, with...)
	c.disks, err[1] = compute.NewDisksRESTClient(ctx, with...)
	c.operations, err[2] = compute.NewZoneOperationsRESTClient(ctx, with...)
	c.images, err[3] = compute.NewImagesRESTClient(ctx, with...)
	c.zones, err[4] = compute.NewZonesRESTClient(ctx, with...)
	c.firewalls, err[5] = compute.NewFirewallsRESTClient(ctx, with...)
	c.types, err[6] = compute.NewMachineTypesRESTClient(ctx, with...)
	if err := errors.Join(err[:]...); err != nil {
		return nil, fmt.Errorf("clients of compute engine: %w", err)
	}
	// Repeating calls is the business of account.call.
	c.instances.CallOptions = &compute.InstancesCallOptions{}
	c.disks.CallOptions = &compute.DisksCallOptions{}
	c.operations.CallOptions = &compute.ZoneOperationsCallOptions{}
	c.images.CallOptions = &compute.ImagesCallOptions{}
	c.zones.CallOptions = &compute.ZonesCallOptions{}
	c.firewalls.CallOptions = &compute.FirewallsCallOptions{}
	c.types.CallOptions = &compute.MachineTypesCallOptions{}
	a.open = c
	return c, nil
}

// connect finds credentials: those of the spec, or Google's default ones.
func (a *account) connect(ctx context.Context) (*http.Client, error) {
	with := []option.ClientOption{option.WithScopes("https://www.googleapis.com/auth/cloud-platform")}
	if a.jsonPath != "" {
		k, err := readKey(a.jsonPath)
		if err != nil {
			return nil, err
		}
		with = append(with, option.WithAuthCredentialsFile(option.CredentialsType(k.Type), a.jsonPath))
	}
	hc, _, err := htransport.NewClient(ctx, with...)
	if err != nil {
		return nil, fmt.Errorf("%w: credentials: %w; name a key file in account.json_path, set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`", drivers.ErrAuth, err)
	}
	return hc, nil
}

// pageSize is the most entries of a page that the API gives.
const pageSize = "500"

// page reads one page of a list. The vendor's client is not used here: its lists
// go on after their context has ended.
func (a *account) page(ctx context.Context, path string, query url.Values, into proto.Message) error {
	query.Set("maxResults", pageSize)
	return a.call(ctx, lists, callPatience, func(ctx context.Context) error {
		c, err := a.clients(ctx)
		if err != nil {
			return err
		}
		at := c.endpoint + "/compute/v1/projects/" + url.PathEscape(a.project) + "/" + path + "?" + query.Encode()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
		if err != nil {
			return err
		}
		resp, err := c.http.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := googleapi.CheckResponse(resp); err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		proto.Reset(into)
		return protojson.UnmarshalOptions{AllowPartial: true, DiscardUnknown: true}.Unmarshal(body, into)
	})
}

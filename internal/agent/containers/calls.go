package containers

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	networktypes "github.com/moby/moby/api/types/network"
)

// made is the daemon's answer to a container.
type made struct {
	ID       string `json:"Id"`
	Warnings []string
}

// createOptions is what a container is made from.
type createOptions struct {
	name string
	body container.CreateRequest
}

func (a *api) createContainer(ctx context.Context, o createOptions) (made, error) {
	var out made
	err := a.call(ctx, http.MethodPost, "/containers/create", a.forPlatform(url.Values{"name": {o.name}}), o.body, &out)
	return out, err
}

func containerAPI(id, what string) string { return "/containers/" + url.PathEscape(id) + what }

func (a *api) startContainer(ctx context.Context, id string) error {
	return a.call(ctx, http.MethodPost, containerAPI(id, "/start"), nil, nil, nil)
}

// attachContainer opens the output from now on.
func (a *api) attachContainer(ctx context.Context, id string) (*hijacked, error) {
	return a.hijack(ctx, containerAPI(id, "/attach"), url.Values{"stream": {"1"}, "stdout": {"1"}, "stderr": {"1"}})
}

// containerLogs opens the output from its beginning, until the container's end.
func (a *api) containerLogs(ctx context.Context, id string) (io.ReadCloser, error) {
	return a.open(ctx, http.MethodGet, containerAPI(id, "/logs"), url.Values{"follow": {"1"}, "stdout": {"1"}, "stderr": {"1"}}, nil)
}

// waitContainer answers when the container does not run, with its code.
func (a *api) waitContainer(ctx context.Context, id string) (int, error) {
	var out struct{ StatusCode int }
	err := a.call(ctx, http.MethodPost, containerAPI(id, "/wait"), url.Values{"condition": {"not-running"}}, nil, &out)
	return out.StatusCode, err
}

// inspected is what is read of a container.
type inspected struct {
	ID     string `json:"Id"`
	Name   string
	Config struct {
		Image  string
		Labels map[string]string
	}
	State *struct {
		Running    bool
		ExitCode   int
		OOMKilled  bool
		Error      string
		FinishedAt time.Time
	}
}

func (a *api) inspectContainer(ctx context.Context, id string) (inspected, error) {
	var out inspected
	err := a.call(ctx, http.MethodGet, containerAPI(id, "/json"), nil, nil, &out)
	return out, err
}

func (a *api) killContainer(ctx context.Context, id, signal string) error {
	return a.call(ctx, http.MethodPost, containerAPI(id, "/kill"), url.Values{"signal": {signal}}, nil, nil)
}

func (a *api) stopContainer(ctx context.Context, id string, seconds int) error {
	return a.call(ctx, http.MethodPost, containerAPI(id, "/stop"), url.Values{"t": {strconv.Itoa(seconds)}}, nil, nil)
}

// removeContainer kills the container if it runs, and removes its anonymous
// volumes too.
func (a *api) removeContainer(ctx context.Context, id string) error {
	return a.call(ctx, http.MethodDelete, containerAPI(id, ""), url.Values{"force": {"1"}, "v": {"1"}}, nil, nil)
}

// filters are conditions an object must all meet: a kind of condition, and for
// each of its values true.
type filters map[string]map[string]bool

func (f filters) add(kind, value string) filters {
	if f[kind] == nil {
		f[kind] = make(map[string]bool)
	}
	f[kind][value] = true
	return f
}

func (f filters) query() (url.Values, error) {
	if len(f) == 0 {
		return url.Values{}, nil
	}
	text, err := json.Marshal(f)
	return url.Values{"filters": {string(text)}}, err
}

// listed is what is read of an object in a list.
type listed struct {
	ID     string `json:"Id"`
	Name   string // of networks and volumes
	Labels map[string]string
}

func (a *api) listContainers(ctx context.Context, f filters) ([]listed, error) {
	query, err := f.query()
	if err != nil {
		return nil, err
	}
	query.Set("all", "1")
	var out []listed
	err = a.call(ctx, http.MethodGet, "/containers/json", query, nil, &out)
	return out, err
}

func (a *api) listNetworks(ctx context.Context, f filters) ([]listed, error) {
	query, err := f.query()
	if err != nil {
		return nil, err
	}
	var out []listed
	err = a.call(ctx, http.MethodGet, "/networks", query, nil, &out)
	return out, err
}

func (a *api) listVolumes(ctx context.Context, f filters) ([]listed, error) {
	query, err := f.query()
	if err != nil {
		return nil, err
	}
	var out struct{ Volumes []listed }
	err = a.call(ctx, http.MethodGet, "/volumes", query, nil, &out)
	return out.Volumes, err
}

func (a *api) inspectNetwork(ctx context.Context, name string) (listed, error) {
	var out listed
	err := a.call(ctx, http.MethodGet, "/networks/"+url.PathEscape(name), nil, nil, &out)
	return out, err
}

func (a *api) createNetwork(ctx context.Context, n networktypes.CreateRequest) error {
	return a.call(ctx, http.MethodPost, "/networks/create", nil, n, nil)
}

func (a *api) connectNetwork(ctx context.Context, name, id string, s *networktypes.EndpointSettings) error {
	return a.call(ctx, http.MethodPost, "/networks/"+url.PathEscape(name)+"/connect", nil, networktypes.ConnectRequest{Container: id, EndpointConfig: s}, nil)
}

func (a *api) removeNetwork(ctx context.Context, id string) error {
	return a.call(ctx, http.MethodDelete, "/networks/"+url.PathEscape(id), nil, nil, nil)
}

// createVolume returns the labels of the volume, which may have been there.
func (a *api) createVolume(ctx context.Context, name string, labels map[string]string) (map[string]string, error) {
	in := struct {
		Name   string
		Labels map[string]string
	}{name, labels}
	var out listed
	err := a.call(ctx, http.MethodPost, "/volumes/create", nil, in, &out)
	return out.Labels, err
}

func (a *api) removeVolume(ctx context.Context, name string) error {
	return a.call(ctx, http.MethodDelete, "/volumes/"+url.PathEscape(name), url.Values{"force": {"1"}}, nil, nil)
}

// pullImage opens the stream of a pull's messages.
func (a *api) pullImage(ctx context.Context, image, auth string) (io.ReadCloser, error) {
	name, tag := splitImage(image)
	header := http.Header{}
	if auth != "" {
		header.Set("X-Registry-Auth", auth)
	}
	return a.open(ctx, http.MethodPost, "/images/create", a.forPlatform(url.Values{"fromImage": {name}, "tag": {tag}}), header)
}

// forPlatform adds the platform to a call, if one was chosen.
func (a *api) forPlatform(query url.Values) url.Values {
	if a.platform != "" {
		query.Set("platform", a.platform)
	}
	return query
}

// splitImage splits an image's name from its digest, or else its tag, which is
// latest where there is neither: without one the daemon would pull them all.
func splitImage(image string) (name, tag string) {
	if name, digest, ok := strings.Cut(image, "@"); ok {
		return name, digest
	}
	slash := strings.LastIndexByte(image, '/') // a registry's port is before it
	if i := strings.LastIndexByte(image, ':'); i > slash {
		return image[:i], image[i+1:]
	}
	return image, "latest"
}

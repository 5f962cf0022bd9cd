package dockertest

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeVersion is the version of the interface the fake speaks, that of Docker
// 20.10.
const fakeVersion = "1.41"

// Fake is a Docker daemon in the test's process. It keeps containers, networks
// and volumes, runs a function for each container, and fails the test at a call
// it does not know. Safe for concurrent use.
type Fake struct {
	tb   testing.TB
	host string
	srv  *http.Server

	mu         sync.Mutex
	nextID     int
	images     map[string]bool
	remote     map[string]bool
	containers map[string]*FakeContainer
	networks   map[string]*fakeNetwork
	volumes    map[string]map[string]string
	hooks      map[string]func(http.ResponseWriter, *http.Request) bool
	calls      []string
	attached   map[net.Conn]bool
	run        func(*FakeContainer) int
	running    sync.WaitGroup
}

type fakeNetwork struct {
	ID, Name string
	Labels   map[string]string
}

// FakeContainer is one of a fake's containers. Its fields are what it was made
// with.
type FakeContainer struct {
	ID, Name string
	Config   struct {
		Image      string
		Entrypoint []string
		Cmd        []string
		Env        []string
		Labels     map[string]string
		Tty        bool
	}
	HostConfig map[string]any
	Networks   []string

	fake       *Fake
	started    chan struct{}
	exited     chan struct{}
	signals    chan string
	code       int
	oom        bool
	runErr     string
	mu         sync.Mutex
	frames     [][]byte // as sent
	changed    chan struct{}
	finished   bool
	finishedAt time.Time
}

// NewFake starts a fake on a socket of its own, until the test ends. Its
// containers print nothing and exit with 0, until Run says otherwise.
func NewFake(tb testing.TB) *Fake {
	tb.Helper()
	dir, err := os.MkdirTemp("", "fd") // a test's own folder may be too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	f := &Fake{
		tb: tb, host: "unix://" + filepath.Join(dir, "docker.sock"),
		images: make(map[string]bool), remote: make(map[string]bool), containers: make(map[string]*FakeContainer),
		networks: make(map[string]*fakeNetwork), volumes: make(map[string]map[string]string),
		hooks:    make(map[string]func(http.ResponseWriter, *http.Request) bool),
		attached: make(map[net.Conn]bool),
		run:      func(*FakeContainer) int { return 0 },
	}
	f.srv = &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	f.listen()
	tb.Cleanup(func() {
		f.Down()
		f.mu.Lock()
		all := slices.Collect(maps.Values(f.containers))
		f.mu.Unlock()
		for _, c := range all {
			c.signal("SIGKILL")
		}
		f.running.Wait()
		_ = os.RemoveAll(dir) // the host's temporary folder
	})
	return f
}

func (f *Fake) listen() {
	ln, err := net.Listen("unix", strings.TrimPrefix(f.host, "unix://"))
	if err != nil {
		f.tb.Fatal(err)
	}
	srv := f.srv
	go func() { _ = srv.Serve(ln) }() // ends with Down
}

// Host is the address for clients.
func (f *Fake) Host() string { return f.host }

// Down stops answering, and cuts what is open. Containers go on.
func (f *Fake) Down() {
	_ = f.srv.Close() // no more than a listener
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.attached {
		_ = conn.Close() // its reader sees it
	}
	clear(f.attached)
}

// Up answers again after Down.
func (f *Fake) Up() {
	f.srv = &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	f.listen()
}

// AddImage makes an image known, here or, if remote, at the registry.
func (f *Fake) AddImage(name string, remote bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if remote {
		f.remote[name] = true
		return
	}
	f.images[name] = true
}

// Run makes every container started from now on do so. The result is its exit
// code. It must return soon after a signal it takes from Signals is SIGKILL.
func (f *Fake) Run(do func(*FakeContainer) int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.run = do
}

// On calls do for each call of the route, such as "POST /containers/create" or
// "POST /containers/{id}/start", before the fake's own answer, which follows if
// it returns false.
func (f *Fake) On(route string, do func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hooks[route] = do
}

// Objects are the containers, networks and volumes there are, by their names.
func (f *Fake) Objects() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, c := range f.containers {
		out = append(out, "container "+c.Name)
	}
	for _, n := range f.networks {
		out = append(out, "network "+n.Name)
	}
	for v := range f.volumes {
		out = append(out, "volume "+v)
	}
	slices.Sort(out)
	return out
}

// Container returns the container of that name, nil if there is none.
func (f *Fake) Container(name string) *FakeContainer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.findLocked(name)
}

// Calls are the routes called so far.
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Fail answers as the daemon does when something is wrong.
func Fail(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": text}) // the client may have gone
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may have gone
}

// fakeRoutes are all there is; {id} stands for one element of the path.
var fakeRoutes = map[string]func(*Fake, http.ResponseWriter, *http.Request, string){
	"HEAD /_ping":                  (*Fake).ping,
	"GET /_ping":                   (*Fake).ping,
	"POST /containers/create":      (*Fake).createContainer,
	"GET /containers/json":         (*Fake).listContainers,
	"GET /containers/{id}/json":    (*Fake).inspectContainer,
	"POST /containers/{id}/attach": (*Fake).attachContainer,
	"POST /containers/{id}/start":  (*Fake).startContainer,
	"POST /containers/{id}/wait":   (*Fake).waitContainer,
	"POST /containers/{id}/kill":   (*Fake).killContainer,
	"POST /containers/{id}/stop":   (*Fake).stopContainer,
	"GET /containers/{id}/logs":    (*Fake).logsContainer,
	"DELETE /containers/{id}":      (*Fake).removeContainer,
	"POST /images/create":          (*Fake).pullImage,
	"GET /networks":                (*Fake).listNetworks,
	"GET /networks/{id}":           (*Fake).inspectNetwork,
	"POST /networks/create":        (*Fake).createNetwork,
	"POST /networks/{id}/connect":  (*Fake).connectNetwork,
	"DELETE /networks/{id}":        (*Fake).removeNetwork,
	"GET /volumes":                 (*Fake).listVolumes,
	"POST /volumes/create":         (*Fake).createVolume,
	"DELETE /volumes/{id}":         (*Fake).removeVolume,
}

var versionPath = regexp.MustCompile(`^/v1\.[0-9]+/`)

// ServeHTTP answers one call.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := versionPath.ReplaceAllString(r.URL.Path, "/")
	route, id := r.Method+" "+path, ""
	if _, ok := fakeRoutes[route]; !ok {
		parts := strings.Split(path, "/")
		if len(parts) >= 3 {
			id, parts[2] = parts[2], "{id}"
		}
		route = r.Method + " " + strings.Join(parts, "/")
	}
	do, ok := fakeRoutes[route]
	if !ok {
		f.tb.Errorf("the fake daemon knows no %s %s", r.Method, r.URL.Path)
		Fail(w, http.StatusNotFound, "page not found")
		return
	}
	f.mu.Lock()
	f.calls = append(f.calls, route)
	hook := f.hooks[route]
	f.mu.Unlock()
	if hook != nil && hook(w, r) {
		return
	}
	do(f, w, r, id)
}

func (f *Fake) ping(w http.ResponseWriter, _ *http.Request, _ string) {
	w.Header().Set("Api-Version", fakeVersion)
	w.Header().Set("Ostype", "linux")
	w.WriteHeader(http.StatusOK)
}

func (f *Fake) newIDLocked() string {
	f.nextID++
	return fmt.Sprintf("%064x", f.nextID)
}

func (f *Fake) findLocked(name string) *FakeContainer {
	if c := f.containers[name]; c != nil {
		return c
	}
	for _, c := range f.containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// labelled says whether labels pass the request's filter.
func labelled(r *http.Request, labels map[string]string) bool {
	var filters map[string]map[string]bool
	if text := r.URL.Query().Get("filters"); text != "" && json.Unmarshal([]byte(text), &filters) != nil {
		return false
	}
	for want := range filters["label"] {
		k, v, _ := strings.Cut(want, "=")
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func (f *Fake) pullImage(w http.ResponseWriter, r *http.Request, _ string) {
	name := strings.TrimPrefix(r.URL.Query().Get("fromImage"), "docker.io/library/") + ":" + r.URL.Query().Get("tag")
	f.mu.Lock()
	known := f.remote[name]
	if known {
		f.images[name] = true
	}
	f.mu.Unlock()
	if !known {
		Fail(w, http.StatusNotFound, "manifest for "+name+" not found: manifest unknown: manifest unknown")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	for _, line := range []string{
		`{"status":"Pulling from ` + name + `","id":"1"}`,
		`{"status":"Pulling fs layer","progressDetail":{},"id":"aa"}`,
		`{"status":"Downloading","progressDetail":{"current":10,"total":20},"progress":"[=>] 10B/20B","id":"aa"}`,
		`{"status":"Pull complete","progressDetail":{},"id":"aa"}`,
		`{"status":"Status: Downloaded newer image for ` + name + `"}`,
	} {
		_, _ = io.WriteString(w, line+"\r\n") // the client may have gone
	}
}

// Credentials decodes the account a pull was made with.
func Credentials(r *http.Request) (map[string]string, error) {
	text, err := base64.URLEncoding.DecodeString(r.Header.Get("X-Registry-Auth"))
	if err != nil {
		return nil, err
	}
	var out map[string]string
	return out, json.Unmarshal(text, &out)
}

func (f *Fake) listNetworks(w http.ResponseWriter, r *http.Request, _ string) {
	f.mu.Lock()
	out := []map[string]any{}
	for _, n := range f.networks {
		if labelled(r, n.Labels) {
			out = append(out, map[string]any{"Id": n.ID, "Name": n.Name, "Labels": n.Labels})
		}
	}
	f.mu.Unlock()
	answer(w, http.StatusOK, out)
}

func (f *Fake) findNetworkLocked(name string) *fakeNetwork {
	if n := f.networks[name]; n != nil {
		return n
	}
	for _, n := range f.networks {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func (f *Fake) inspectNetwork(w http.ResponseWriter, _ *http.Request, id string) {
	f.mu.Lock()
	n := f.findNetworkLocked(id)
	f.mu.Unlock()
	if n == nil {
		Fail(w, http.StatusNotFound, "network "+id+" not found")
		return
	}
	answer(w, http.StatusOK, map[string]any{"Id": n.ID, "Name": n.Name, "Labels": n.Labels})
}

func (f *Fake) createNetwork(w http.ResponseWriter, r *http.Request, _ string) {
	var in struct {
		Name, Driver string
		Labels       map[string]string
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Name == "" {
		Fail(w, http.StatusBadRequest, "bad network")
		return
	}
	f.mu.Lock()
	id := f.newIDLocked()
	f.networks[id] = &fakeNetwork{ID: id, Name: in.Name, Labels: in.Labels}
	f.mu.Unlock()
	answer(w, http.StatusCreated, map[string]string{"Id": id, "Warning": ""})
}

func (f *Fake) connectNetwork(w http.ResponseWriter, r *http.Request, id string) {
	var in struct{ Container string }
	err := json.NewDecoder(r.Body).Decode(&in)
	f.mu.Lock()
	defer f.mu.Unlock()
	c, n := f.findLocked(in.Container), f.findNetworkLocked(id)
	if err != nil || c == nil || n == nil {
		Fail(w, http.StatusNotFound, "network "+id+" not found")
		return
	}
	c.Networks = append(c.Networks, n.Name)
	w.WriteHeader(http.StatusOK)
}

func (f *Fake) removeNetwork(w http.ResponseWriter, _ *http.Request, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.findNetworkLocked(id)
	if n == nil {
		Fail(w, http.StatusNotFound, "network "+id+" not found")
		return
	}
	for _, c := range f.containers {
		if slices.Contains(c.Networks, n.Name) {
			Fail(w, http.StatusForbidden, "error while removing network: network "+n.Name+" id "+n.ID+" has active endpoints")
			return
		}
	}
	delete(f.networks, n.ID)
	w.WriteHeader(http.StatusNoContent)
}

func (f *Fake) listVolumes(w http.ResponseWriter, r *http.Request, _ string) {
	f.mu.Lock()
	out := []map[string]any{}
	for name, labels := range f.volumes {
		if labelled(r, labels) {
			out = append(out, map[string]any{"Name": name, "Labels": labels})
		}
	}
	f.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"Volumes": out})
}

func (f *Fake) createVolume(w http.ResponseWriter, r *http.Request, _ string) {
	var in struct {
		Name   string
		Labels map[string]string
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Name == "" {
		Fail(w, http.StatusBadRequest, "bad volume")
		return
	}
	f.mu.Lock()
	if _, ok := f.volumes[in.Name]; !ok {
		f.volumes[in.Name] = in.Labels
	}
	labels := f.volumes[in.Name]
	f.mu.Unlock()
	answer(w, http.StatusCreated, map[string]any{"Name": in.Name, "Labels": labels})
}

func (f *Fake) removeVolume(w http.ResponseWriter, _ *http.Request, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.volumes[id]; !ok {
		Fail(w, http.StatusNotFound, "get "+id+": no such volume")
		return
	}
	delete(f.volumes, id)
	w.WriteHeader(http.StatusNoContent)
}

// Frame is text of a stream (1 stdout, 2 stderr) as the daemon sends it.
func Frame(stream byte, text string) []byte {
	out := binary.BigEndian.AppendUint32([]byte{stream, 0, 0, 0}, uint32(len(text)))
	return append(out, text...)
}

package dockertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

func (f *Fake) createContainer(w http.ResponseWriter, r *http.Request, _ string) {
	c := &FakeContainer{fake: f, started: make(chan struct{}), exited: make(chan struct{}), signals: make(chan string, 16), changed: make(chan struct{})}
	var in struct {
		HostConfig map[string]any
	}
	var raw json.RawMessage
	err := json.NewDecoder(r.Body).Decode(&raw)
	if err == nil {
		err = json.Unmarshal(raw, &c.Config)
	}
	if err == nil {
		err = json.Unmarshal(raw, &in)
	}
	c.Name, c.HostConfig = r.URL.Query().Get("name"), in.HostConfig
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil:
		Fail(w, http.StatusBadRequest, err.Error())
	case c.Name == "" || len(c.Name) < 2:
		Fail(w, http.StatusBadRequest, "Invalid container name ("+c.Name+"), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
	case f.findLocked(c.Name) != nil:
		Fail(w, http.StatusConflict, fmt.Sprintf("Conflict. The container name \"/%s\" is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", c.Name, f.findLocked(c.Name).ID))
	case !f.images[c.Config.Image]:
		Fail(w, http.StatusNotFound, "No such image: "+c.Config.Image)
	default:
		c.ID = f.newIDLocked()
		if mode, ok := c.HostConfig["NetworkMode"].(string); ok && f.findNetworkLocked(mode) != nil {
			c.Networks = append(c.Networks, mode)
		}
		f.containers[c.ID] = c
		answer(w, http.StatusCreated, map[string]any{"Id": c.ID, "Warnings": []string{}})
	}
}

// of answers 404 for a container that is not there.
func (f *Fake) of(w http.ResponseWriter, id string) *FakeContainer {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.findLocked(id)
	if c == nil {
		Fail(w, http.StatusNotFound, "No such container: "+id)
	}
	return c
}

func (f *Fake) listContainers(w http.ResponseWriter, r *http.Request, _ string) {
	onlyExited := false
	var filters map[string]map[string]bool
	if json.Unmarshal([]byte(r.URL.Query().Get("filters")), &filters) == nil {
		onlyExited = filters["status"]["exited"]
	}
	f.mu.Lock()
	out := []map[string]any{}
	for _, c := range f.containers {
		if labelled(r, c.Config.Labels) && (!onlyExited || c.state() == "exited") {
			out = append(out, map[string]any{"Id": c.ID, "Names": []string{"/" + c.Name}, "Labels": c.Config.Labels, "State": c.state()})
		}
	}
	f.mu.Unlock()
	answer(w, http.StatusOK, out)
}

func (c *FakeContainer) state() string {
	select {
	case <-c.exited:
		return "exited"
	default:
	}
	select {
	case <-c.started:
		return "running"
	default:
		return "created"
	}
}

func (f *Fake) inspectContainer(w http.ResponseWriter, _ *http.Request, id string) {
	c := f.of(w, id)
	if c == nil {
		return
	}
	c.mu.Lock()
	state := map[string]any{"Status": c.state(), "Running": c.state() == "running", "ExitCode": c.code, "OOMKilled": c.oom, "Error": c.runErr, "FinishedAt": c.finishedAt.UTC()}
	c.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"Id": c.ID, "Name": "/" + c.Name, "State": state, "Config": map[string]any{"Image": c.Config.Image, "Labels": c.Config.Labels}})
}

func (f *Fake) startContainer(w http.ResponseWriter, _ *http.Request, id string) {
	c := f.of(w, id)
	if c == nil {
		return
	}
	if c.state() != "created" {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	f.mu.Lock()
	run := f.run
	f.mu.Unlock()
	close(c.started)
	f.running.Go(func() {
		code := run(c)
		c.mu.Lock()
		c.code, c.finished, c.finishedAt = code, true, time.Now()
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
		close(c.exited)
	})
	w.WriteHeader(http.StatusNoContent)
}

func (f *Fake) waitContainer(w http.ResponseWriter, r *http.Request, id string) {
	c := f.of(w, id)
	if c == nil {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush() // the client may have gone
	if c.state() == "running" {
		select {
		case <-c.exited:
		case <-r.Context().Done():
			return
		}
	}
	c.mu.Lock()
	code := c.code
	c.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]int{"StatusCode": code}) // the client may have gone
}

// Signals delivers what the container is sent.
func (c *FakeContainer) Signals() <-chan string { return c.signals }

// Print adds to the container's output.
func (c *FakeContainer) Print(stream byte, text string) {
	data := []byte(text)
	if !c.Config.Tty {
		data = Frame(stream, text)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, data)
	close(c.changed)
	c.changed = make(chan struct{})
}

// Killed marks the container as one that had too little memory.
func (c *FakeContainer) Killed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.oom = true
}

// follow sends the output from the beginning, until the container has ended,
// send fails, or gone is closed.
func (c *FakeContainer) follow(gone <-chan struct{}, send func([]byte) error) {
	for i := 0; ; {
		c.mu.Lock()
		frames, changed, finished := c.frames, c.changed, c.finished
		c.mu.Unlock()
		for ; i < len(frames); i++ {
			if send(frames[i]) != nil {
				return
			}
		}
		if finished {
			return
		}
		select {
		case <-changed:
		case <-gone:
			return
		}
	}
}

func (f *Fake) attachContainer(w http.ResponseWriter, _ *http.Request, id string) {
	c := f.of(w, id)
	if c == nil {
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		f.tb.Errorf("attach: %v", err)
		return
	}
	f.mu.Lock()
	f.attached[conn] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.attached, conn)
		f.mu.Unlock()
		_ = conn.Close() // the client has what there was
	}()
	if _, err := fmt.Fprint(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"); err != nil {
		return
	}
	gone := make(chan struct{})
	go func() { // reads until the client closes
		defer close(gone)
		var b [1]byte
		_, _ = conn.Read(b[:])
	}()
	c.follow(gone, func(p []byte) error {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Minute)) // a hung test ends
		_, err := conn.Write(p)
		return err
	})
}

func (f *Fake) logsContainer(w http.ResponseWriter, r *http.Request, id string) {
	c := f.of(w, id)
	if c == nil {
		return
	}
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	_ = control.Flush() // the client may have gone
	c.follow(r.Context().Done(), func(p []byte) error {
		if _, err := w.Write(p); err != nil {
			return err
		}
		return control.Flush()
	})
}

func (c *FakeContainer) signal(name string) {
	select {
	case c.signals <- name:
	default: // nobody takes them
	}
}

func (f *Fake) killContainer(w http.ResponseWriter, r *http.Request, id string) {
	c := f.of(w, id)
	if c == nil {
		return
	}
	if c.state() != "running" {
		Fail(w, http.StatusConflict, "Cannot kill container: "+id+": Container "+c.ID+" is not running")
		return
	}
	c.signal(r.URL.Query().Get("signal"))
	w.WriteHeader(http.StatusNoContent)
}

// stopContainer sends TERM and waits as long as it is asked to.
func (f *Fake) stopContainer(w http.ResponseWriter, r *http.Request, id string) {
	c := f.of(w, id)
	if c == nil {
		return
	}
	if c.state() == "running" {
		c.signal("SIGTERM")
		select {
		case <-c.exited:
		case <-r.Context().Done():
			return
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (f *Fake) removeContainer(w http.ResponseWriter, r *http.Request, id string) {
	c := f.of(w, id)
	if c == nil {
		return
	}
	if c.state() == "running" {
		if r.URL.Query().Get("force") != "1" {
			Fail(w, http.StatusConflict, "You cannot remove a running container "+c.ID)
			return
		}
		c.signal("SIGKILL")
		select {
		case <-c.exited:
		case <-r.Context().Done():
			return
		}
	}
	f.mu.Lock()
	delete(f.containers, c.ID)
	f.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// Running says whether the container has started and not ended.
func (c *FakeContainer) Running() bool { return c.state() == "running" }

package gce

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// Cloud is a fake Compute Engine. Its methods are safe for concurrent use.
type Cloud struct {
	// Faults are those of calls. Fault.Err is one of this package's errors, such
	// as Stockout; Call.Method is the id of the API's description
	// ("compute.instances.insert").
	Faults fakecloud.Faults
	// Books have instances, disks, firewalls and reservations, and the calls by
	// method id; "unknown" counts those the API does not have. An end is entered
	// when somebody looks: see Living.
	Books fakecloud.Books

	o   Options
	doc *document

	rates map[Group]*fakecloud.Minute

	mu     sync.Mutex
	agenda agenda
	// told are hooks to call once the lock is given back.
	told         []func()
	ids          uint64
	instances    map[string]*instance // by project/zone/name, as are the rest
	disks        map[string]*disk
	reservations map[string]*reservation
	firewalls    map[string]*firewall // by project/name
	operations   map[string]*operation
	opOrder      []*operation
	// requests are the operations begun with a requestId, by project and it.
	requests map[string]*remembered
	spoils   []*activeSpoil
	outs     []stockout
	quotas   map[string]map[string]float64
	away     map[string]time.Time
	taken    map[netip.Addr]*instance
	nextIP   map[string]int
	nextNAT  int
}

// projectNumber is that of every project.
const projectNumber = "123456789012"

// New is a cloud with nothing in it.
func New(o Options) *Cloud {
	c := &Cloud{
		o: o.withDefaults(), doc: theDocument(), rates: map[Group]*fakecloud.Minute{},
		ids: 1 << 52, instances: map[string]*instance{}, disks: map[string]*disk{}, reservations: map[string]*reservation{},
		firewalls: map[string]*firewall{}, operations: map[string]*operation{}, requests: map[string]*remembered{},
		quotas: map[string]map[string]float64{}, away: map[string]time.Time{}, taken: map[netip.Addr]*instance{}, nextIP: map[string]int{},
	}
	for group, rate := range normalRates {
		if r, ok := o.Rates[group]; ok {
			rate = max(r, 0)
		}
		c.rates[group] = &fakecloud.Minute{Most: rate}
	}
	return c
}

// Client reaches this cloud and nothing else.
func (c *Cloud) Client() *http.Client { return fakecloud.Client(c) }

// Endpoint is the address the client's option WithEndpoint takes. Every host
// is answered.
const Endpoint = "https://" + service

// ServeHTTP implements http.Handler.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m, path := c.doc.route(r)
	if m == nil {
		c.Books.Called("unknown")
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		w.WriteHeader(http.StatusNotFound)
		// The page tells no more than this; it is the API's own.
		fmt.Fprintf(w, "<!DOCTYPE html>\n<html lang=en>\n<title>Error 404 (Not Found)!!1</title>\n<p><b>404.</b> <ins>That's an error.</ins>\n<p>The requested URL was not found on this server.  <ins>That's all we know.</ins>\n")
		return
	}
	c.Books.Called(m.id)
	answer, err := c.answer(r.Context(), m, path, r)
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			e = Internal500()
			e.Message = err.Error()
		}
		e.write(w)
		return
	}
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func (c *Cloud) answer(ctx context.Context, m *method, path map[string]string, r *http.Request) (answer object, err error) {
	now := c.o.Now()
	if group := groupOf(m); !c.rates[group].Take(1, now) {
		return nil, RateLimited(group)
	}
	req, err := c.doc.read(m, path, r)
	if err != nil {
		return nil, err
	}
	call := fakecloud.Call{Method: m.id, Name: nameOf(req), Zone: path["zone"], Type: last(text(req.body, "machineType")), At: now}
	err = c.Faults.Around(ctx, call, func() error {
		if err := c.where(path); err != nil {
			return err
		}
		h := handlers[m.id]
		if h.waits != nil {
			answer, err = h.waits(c, ctx, req)
			return err
		}
		return c.look(func(now time.Time) error {
			answer, err = h.at(c, req, call, now)
			return err
		})
	})
	return answer, err
}

// look has do see the cloud as it is now, under the lock, and tells afterwards
// who wanted to know what has happened meanwhile.
func (c *Cloud) look(do func(now time.Time) error) error {
	c.mu.Lock()
	now := c.o.Now()
	c.agenda.run(now)
	err := do(now)
	// What was begun with no duration is done.
	c.agenda.run(now)
	told := c.told
	c.told = nil
	c.mu.Unlock()
	for _, tell := range told {
		tell()
	}
	return err
}

// Look carries out what is due, for those who want the hooks of [Options]
// called while nobody calls the API.
func (c *Cloud) Look() { _ = c.look(func(time.Time) error { return nil }) }

// Living is what exists now, all that costs money: nothing, once everything is
// cleaned up.
func (c *Cloud) Living() []fakecloud.Thing {
	c.Look()
	return c.Books.Living()
}

// Next is when something is going to happen by itself, if anything is.
func (c *Cloud) Next() (at time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.agenda.next()
}

// where checks project, zone and region of a path, and that the zone answers.
func (c *Cloud) where(path map[string]string) error {
	project := path["project"]
	known := false
	for _, p := range c.o.Projects {
		known = known || p == project
	}
	if _, image := path["image"]; !known && !image && path["family"] == "" {
		return &Error{Status: http.StatusNotFound, Reason: "notFound", Message: "Failed to find project " + project}
	}
	if zone, ok := path["zone"]; ok {
		if c.regionOf(zone) == "" {
			return invalid("zone", zone, "Unknown zone.")
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.isAway(zone) {
			return Backend503()
		}
	}
	if region, ok := path["region"]; ok && c.o.Regions[region] == nil {
		return invalid("region", region, "Unknown region.")
	}
	return nil
}

func (c *Cloud) regionOf(zone string) string {
	for region, zones := range c.o.Regions {
		for _, z := range zones {
			if z == zone {
				return region
			}
		}
	}
	return ""
}

// groupOf is the quota group of a method.
func groupOf(m *method) Group {
	verb := m.id[strings.LastIndexByte(m.id, '.')+1:]
	switch {
	case strings.Contains(m.id, "Operations.") && (verb == "get" || verb == "wait"):
		return OperationGets
	case m.HTTPMethod != http.MethodGet:
		return Mutations
	case verb == "list" || verb == "aggregatedList":
		return Lists
	default:
		return Gets
	}
}

// nameOf is the name of the resource that a call is about.
func nameOf(r *request) string {
	for _, key := range []string{"instance", "disk", "operation", "reservation", "firewall", "resource", "image", "family"} {
		if v := r.path[key]; v != "" {
			return v
		}
	}
	return text(r.body, "name")
}

// last is the last part of a URL.
func last(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

func (c *Cloud) id() uint64 { c.ids++; return c.ids }

// draw takes a duration out of a range, by what it is for.
func (c *Cloud) draw(r Range, parts ...string) time.Duration {
	return c.o.dice().Between(r.Least, r.Most, strings.Join(parts, " "))
}

// after has something happen a while after at.
func (c *Cloud) after(at time.Time, d time.Duration, do func(at time.Time)) {
	c.agenda.add(at.Add(d), do)
}

// link is the full address of a resource.
func link(path string) string { return "https://www.googleapis.com/compute/v1/" + path }

// stamp is a time as the API writes it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000-07:00") }

func number(id uint64) string { return strconv.FormatUint(id, 10) }

package gce

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// operation is a change on its way.
type operation struct {
	id                 uint64
	name, kind, user   string
	project, scope     string // scope is "zones/z", "regions/r" or "global"
	target, targetID   string
	request            string
	inserted           time.Time
	started, ended     time.Time
	due                time.Time // when it ends as far as is known
	status             string
	err                *Error
	warnings           []any
	done               chan struct{}
	neverDone, nothing bool
	spoiled            *Error
}

// The states of an operation.
const (
	opPending = "PENDING"
	opRunning = "RUNNING"
	opDone    = "DONE"
)

// keptFor is how long an operation that is done is remembered.
const keptFor = 14 * 24 * time.Hour

// systemUser began what nobody asked for.
const systemUser = "system"

func (op *operation) path() string {
	return "projects/" + op.project + "/" + op.scope + "/operations/" + op.name
}

func (op *operation) json() object {
	o := object{
		"kind": "compute#operation", "id": number(op.id), "name": op.name, "operationType": op.kind, "status": op.status,
		"targetLink": link(op.target), "targetId": op.targetID, "user": op.user, "selfLink": link(op.path()),
		"insertTime": stamp(op.inserted), "progress": 0,
	}
	switch kind, name, _ := strings.Cut(op.scope, "/"); kind {
	case "zones":
		o["zone"] = link("projects/" + op.project + "/zones/" + name)
	case "regions":
		o["region"] = link("projects/" + op.project + "/regions/" + name)
	}
	if op.request != "" {
		o["clientOperationId"] = op.request
	}
	if op.status != opPending {
		o["startTime"] = stamp(op.started)
	}
	if op.status == opDone {
		o["endTime"], o["progress"] = stamp(op.ended), 100
	}
	if len(op.warnings) > 0 {
		o["warnings"] = op.warnings
	}
	if op.err != nil && op.status == opDone {
		o["error"] = object{"errors": []any{op.err.operation()}}
		o["httpErrorStatusCode"] = op.err.Status
		o["httpErrorMessage"] = strings.ToUpper(http.StatusText(op.err.Status))
	}
	return o
}

// begin makes an operation on a target. It runs after a moment, and ends when
// somebody ends it.
func (c *Cloud) begin(now time.Time, kind, project, scope, target, targetID string) *operation {
	op := &operation{
		id: c.id(), kind: kind, user: defaultAccount, project: project, scope: scope, target: target, targetID: targetID,
		inserted: now, status: opPending, done: make(chan struct{}),
	}
	op.name = fmt.Sprintf("operation-%d-%013x-%08x", now.UnixMilli(), op.id, uint32(op.id*2654435761))
	c.operations[op.path()] = op
	c.opOrder = append(c.opOrder, op)
	for len(c.opOrder) > 0 && c.opOrder[0].status == opDone && now.Sub(c.opOrder[0].ended) > keptFor {
		delete(c.operations, c.opOrder[0].path())
		c.opOrder = c.opOrder[1:]
	}
	c.after(now, c.draw(c.o.Durations.Accepting, "accept", kind, target), func(at time.Time) {
		if op.status == opPending {
			op.status, op.started = opRunning, at
		}
	})
	return op
}

// system notes what happened without anybody's call, as the API does.
func (c *Cloud) system(at time.Time, kind string, i *instance) {
	op := c.begin(at, kind, i.project, "zones/"+i.zone, i.path(), number(i.id))
	op.user = systemUser
	c.end(op, at, nil)
}

// end has an operation be done, with an error if it failed. One that is done
// stays as it is, one that never ends runs on.
func (c *Cloud) end(op *operation, at time.Time, err *Error) {
	if op == nil || op.status == opDone || op.neverDone {
		return
	}
	if op.started.IsZero() {
		op.started = at
	}
	op.status, op.ended, op.err = opDone, at, err
	close(op.done)
}

// remembered is what a requestId stands for.
type remembered struct {
	what string
	op   *operation
}

// once carries out a change unless the call's requestId has begun one: then it
// answers what that one has come to.
func (c *Cloud) once(r *request, begin func() (*operation, error)) (object, error) {
	id := strings.ToLower(r.query["requestId"])
	key := r.path["project"] + "/" + id
	sum := sha256.Sum256(r.raw)
	what := fmt.Sprintf("%s %s %s %x", r.id, fill(r), paramsOf(r), sum)
	if id != "" {
		if had := c.requests[key]; had != nil {
			if had.what != what {
				return nil, invalid("requestId", r.query["requestId"], "The requestId was already used by another request.")
			}
			return had.op.json(), nil
		}
	}
	op, err := begin()
	if err != nil {
		return nil, err
	}
	op.request = r.query["requestId"]
	if id != "" {
		c.requests[key] = &remembered{what, op}
	}
	return op.json(), nil
}

// paramsOf are the parameters of a query but the requestId.
func paramsOf(r *request) string {
	var b strings.Builder
	for _, k := range slices.Sorted(mapKeys(r.query)) {
		if k != "requestId" {
			fmt.Fprintf(&b, "%s=%s&", k, r.query[k])
		}
	}
	return b.String()
}

// scopeOf is where the operations of a call are.
func scopeOf(r *request) string {
	switch {
	case r.path["zone"] != "":
		return "zones/" + r.path["zone"]
	case r.path["region"] != "":
		return "regions/" + r.path["region"]
	default:
		return "global"
	}
}

func (c *Cloud) operation(r *request) (*operation, error) {
	path := "projects/" + r.path["project"] + "/" + scopeOf(r) + "/operations/" + r.path["operation"]
	if op := c.operations[path]; op != nil {
		return op, nil
	}
	for _, op := range c.opOrder {
		if number(op.id) == r.path["operation"] && op.project == r.path["project"] && op.scope == scopeOf(r) && c.operations[op.path()] != nil {
			return op, nil
		}
	}
	return nil, notFound(path)
}

func (c *Cloud) getOperation(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	op, err := c.operation(r)
	if err != nil {
		return nil, err
	}
	return op.json(), nil
}

// longestWait is how long the API lets a wait take.
const longestWait = 2 * time.Minute

// waitOperation answers when the operation is done, at the latest after two
// minutes, whatever its state is then.
func (c *Cloud) waitOperation(ctx context.Context, r *request) (answer object, err error) {
	deadline := time.NewTimer(longestWait)
	defer deadline.Stop()
	for {
		var op *operation
		wake := longestWait
		if err := c.look(func(now time.Time) error {
			if op, err = c.operation(r); err != nil {
				return err
			}
			answer = op.json()
			if op.due.After(now) {
				wake = min(wake, op.due.Sub(now))
			} else if at, ok := c.agenda.next(); ok {
				wake = min(wake, at.Sub(now))
			}
			return nil
		}); err != nil {
			return nil, err
		}
		if answer["status"] == opDone {
			return answer, nil
		}
		timer := time.NewTimer(wake)
		select {
		case <-op.done:
		case <-timer.C:
		case <-deadline.C:
			timer.Stop()
			return answer, nil
		case <-ctx.Done():
			timer.Stop()
			panic(http.ErrAbortHandler)
		}
		timer.Stop()
	}
}

func (c *Cloud) listOperations(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	var found []object
	for _, op := range c.opOrder {
		if op.project == r.path["project"] && op.scope == scopeOf(r) && c.operations[op.path()] == op {
			found = append(found, op.json())
		}
	}
	return c.page(r, "compute#operationList", found)
}

// deleteOperation forgets one that is done. Its answer is empty.
func (c *Cloud) deleteOperation(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	op, err := c.operation(r)
	if err != nil {
		return nil, err
	}
	if op.status != opDone {
		return nil, notReady(op.path())
	}
	delete(c.operations, op.path())
	return nil, nil
}

// Spoil is a way in which operations go wrong after they were accepted.
type Spoil struct {
	// Method limits it to one method ("compute.instances.insert"), Match to some
	// calls; zero values limit nothing.
	Method string
	Match  func(fakecloud.Call) bool
	// Skip is how many operations it lets pass, Times how many it spoils then, 0
	// all.
	Skip, Times int
	// Err is what the operation ends with, having changed nothing but what its
	// acceptance did: an instance that could not be made vanishes, one that could
	// not be started stays as it was.
	Err *Error
	// Never has the operation never end. What it is for happens, unless Nothing
	// is set: then the resource stays in between for ever.
	Never, Nothing bool
}

type activeSpoil struct {
	Spoil
	seen int
}

// Spoil has operations go wrong until remove is called, or the spoil's Times are
// over. Of several that fit the one added first counts.
func (c *Cloud) Spoil(s Spoil) (remove func()) {
	a := &activeSpoil{Spoil: s}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spoils = append(c.spoils, a)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spoils = slices.DeleteFunc(c.spoils, func(other *activeSpoil) bool { return other == a })
	}
}

// spoil marks an operation with what goes wrong with it.
func (c *Cloud) spoil(op *operation, call fakecloud.Call) *operation {
	for i, a := range c.spoils {
		if a.Method != "" && a.Method != call.Method || a.Match != nil && !a.Match(call) {
			continue
		}
		if a.seen++; a.seen <= a.Skip {
			continue
		}
		if a.Times > 0 && a.seen >= a.Skip+a.Times {
			c.spoils = slices.Delete(c.spoils, i, i+1)
		}
		op.neverDone, op.nothing, op.spoiled = a.Never, a.Never && a.Nothing, a.Err
		break
	}
	return op
}

// change has something happen a while after now, at the end of an operation.
// What check then says against it ends the operation instead.
func (c *Cloud) change(op *operation, now time.Time, d time.Duration, check func() *Error, do func(at time.Time)) {
	op.due = now.Add(d)
	c.after(now, d, func(at time.Time) {
		switch {
		case op.nothing:
		case op.spoiled != nil:
			c.end(op, at, op.spoiled)
		default:
			if check != nil {
				if err := check(); err != nil {
					c.end(op, at, err)
					return
				}
			}
			do(at)
			c.end(op, at, nil)
		}
	})
}

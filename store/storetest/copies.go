package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
)

// Place is where a store of one dialect is, for the tests of copies.
type Place interface {
	// Open opens the store, which is made if there is none.
	Open(t testing.TB) pool.Store
	Backup(ctx context.Context, w io.Writer, now time.Time) (store.CopyInfo, error)
	Restore(ctx context.Context, r io.Reader, force bool, now time.Time) (kept string, err error)
}

// Copies runs the tests of backup and restore; empty makes a place without a
// store.
func Copies(t *testing.T, empty func(t testing.TB) Place) {
	t.Helper()
	for _, tt := range copyTests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			from, to := empty(t), empty(t)
			h := &harness{T: t, Store: from.Open(t), ctx: t.Context(), now: start}
			tt.run(h, from, to)
		})
	}
}

type copyTest struct {
	name string
	run  func(h *harness, from, to Place)
}

// later is when restores are made; signs of life of the tests are long past.
var later = start.Add(1000 * time.Hour)

// copied is a copy of what is at a place.
func (h *harness) copied(from Place) []byte {
	h.Helper()
	var b bytes.Buffer
	if _, err := from.Backup(h.ctx, &b, h.now); err != nil {
		h.Fatal(err)
	}
	return b.Bytes()
}

// busy fills a store with some of everything.
func (h *harness) busy() {
	h.Helper()
	h.born("run-1")
	h.no(h.Configure(h.ctx, []pool.PoolRow{{
		Name: "a", Driver: "noop", Max: 20, LastSpec: json.RawMessage(`{"key":"cloud secret"}`), PerMinute: 1000, Recipes: []string{"recipe-1", "x"},
		Flavours: []pool.FlavourRow{{Tenant: "default", Variant: "default", Max: 15}},
	}, {Name: "b", Max: 0}}, h.now))
	h.shut("b", pool.Gate{Reason: "quota", Detail: "<ünï>", Until: h.now.Add(time.Hour)})
	h.gitspace("space-1", "a")
	h.no(h.Export(h.ctx, pool.LeaseKey{ID: "space-1"}, map[string]string{"TOKEN": "exported secret"}, h.now))
	h.active("lease-1", "a")
	h.end("lease-1")
	h.waiting("lease-2", "b")
	_, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "never"}, Tombstone: h.now.Add(time.Hour), Now: h.now})
	h.no(err)
	h.no(h.Note(h.ctx, pool.Event{At: h.now, Pool: "a", Reason: "noted", Message: "line\nwith \"quotes\""}))
}

// contents is what a sound copy has.
func contents(h *harness, copied []byte) string {
	h.Helper()
	c, err := store.ReadCopy(bytes.NewReader(copied))
	h.no(err)
	var b strings.Builder
	fmt.Fprintln(&b, c.Info)
	h.no(c.Rows(func(name string, columns []string) error {
		fmt.Fprintln(&b, name, columns)
		return nil
	}, func(values []any) error {
		fmt.Fprintln(&b, values...)
		return nil
	}))
	return b.String()
}

var copyTests = []copyTest{
	{"a restored store has everything, and goes on", func(h *harness, from, to Place) {
		h.busy()
		before := h.state()
		identity := h.get(h.lease("space-1").InstanceID).Identity
		copied := h.copied(from)
		for _, secret := range []string{"TLS KEY", "CA KEY", "exported secret", "cloud secret"} {
			if bytes.Contains(copied, []byte(secret)) {
				h.Errorf("the copy has %q in the clear", secret)
			}
		}
		info, err := store.CheckCopy(bytes.NewReader(copied))
		h.no(err)
		c, err := h.Controller(h.ctx, "run-1", h.now)
		h.no(err)
		if info.Controller != c.ID || info.SealKey == "" || !info.Made.Equal(h.now) || info.Rows["leases"] != 3 || info.Schema < 2 {
			h.Fatalf("the copy says of itself %+v", info)
		}
		kept, err := to.Restore(h.ctx, bytes.NewReader(copied), false, later)
		h.no(err)
		h.equal("kept", kept, "")
		made := h.now
		h.Store = to.Open(h.T)
		// Of these machines none was free: nothing is held.
		h.equal("the restored store", h.state(), before)
		h.equal("identity", h.get(h.lease("space-1").InstanceID).Identity, identity)
		again, err := h.Controller(h.ctx, "run-1", h.now)
		h.no(err)
		h.equal("controller", again, pool.Controller{ID: c.ID, Born: c.Born, Restored: later, Copied: made})
		h.sound()
		// Numbers go on where they were.
		l := h.waiting("lease-3", "b")
		if l.Seq <= h.lease("lease-2").Seq {
			h.Errorf("a new lease has number %d after %d", l.Seq, h.lease("lease-2").Seq)
		}
		h.no(h.Note(h.ctx, pool.Event{At: h.now, Reason: "after"}))
		_, err = h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "never-2"}, Tombstone: h.now.Add(time.Hour), Now: h.now})
		h.no(err)
		h.creating("a")
		h.sound()
	}},
	{"machines that were free are held, the others are as they were", func(h *harness, from, to Place) {
		h.pools(20, "a")
		_, used := h.active("lease-1", "a")
		used = h.get(used.ID)
		warm, booting := h.warm("a"), h.booting("a")
		h.warm("a")
		ending := h.change(h.creating("a").ID, pool.Creating, pool.Destroying)
		held := h.warm("a")
		h.hold(held.ID, true)
		copied := h.copied(from)
		_, err := to.Restore(h.ctx, bytes.NewReader(copied), false, later)
		h.no(err)
		h.Store = to.Open(h.T)
		warm.Held, booting.Held = true, true
		for _, want := range []pool.Instance{used, warm, booting, ending} {
			h.equal("machine "+want.ID, h.get(want.ID), want)
		}
		h.waiting("lease-2", "a")
		h.equal("its story", h.story(pool.EventQuery{Instance: warm.ID}), []string{"restored"})
		h.equal("the story of what was held before", h.story(pool.EventQuery{Instance: held.ID}), []string{})
		if i := h.hold(warm.ID, false); i.LeaseID != "lease-2" {
			h.Fatalf("let go it is %s of %q", i.State, i.LeaseID)
		}
		h.sound()
	}},
	{"a copy made under load has everything that was answered before it began", func(h *harness, from, to Place) {
		h.pools(1000, "a")
		for range 20 {
			h.warm("a")
		}
		var answered atomic.Int64
		var n atomic.Int64
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					// Numbers are taken in order; answered is how far all are.
					k := n.Add(1)
					if _, err := h.Arrive(h.ctx, h.arrivalAt(fmt.Sprint("load-", k), "a")); err != nil {
						h.Error(err)
						return
					}
					answered.Add(1)
				}
			})
		}
		h.eventually("there is load", func() bool { return answered.Load() > 50 })
		before := answered.Load()
		copied := h.copied(from)
		close(stop)
		wg.Wait()
		_, err := to.Restore(h.ctx, bytes.NewReader(copied), false, later)
		h.no(err)
		live := h.Store
		h.Store = to.Open(h.T)
		// At most the eight under way at the beginning may be missing among the
		// first numbers.
		have := 0
		for k := range before + 8 {
			if _, err := h.Lease(h.ctx, fmt.Sprint("load-", k+1)); err == nil {
				have++
			}
		}
		if int64(have) < before {
			h.Errorf("%d of %d answered claims are in the copy", have, before)
		}
		h.sound()
		h.Store = live
		h.sound()
	}},
	{"a copy that is damaged anywhere is told, and changes nothing", func(h *harness, from, to Place) {
		h.busy()
		copied := h.copied(from)
		whole := contents(h, copied)
		try := func(what string, b []byte) (told bool) {
			h.Helper()
			_, err := store.CheckCopy(bytes.NewReader(b))
			switch {
			case err == nil && contents(h, b) != whole:
				h.Errorf("a copy %s is sound, and of something else", what)
			case err != nil && !errors.Is(err, store.ErrCopy):
				h.Errorf("check of a copy %s: %v", what, err)
			}
			return err != nil
		}
		probes, told := 0, 0
		for at := 0; at < len(copied); at += 1 + len(copied)/97 {
			if !try(fmt.Sprintf("cut at %d of %d", at, len(copied)), copied[:at]) {
				h.Errorf("a copy cut at %d of %d is sound", at, len(copied))
			}
			bad := bytes.Clone(copied)
			bad[at] ^= 0x10
			probes++
			if try(fmt.Sprintf("changed at %d of %d", at, len(copied)), bad) {
				told++
			}
		}
		// What gzip says of itself, and the bits it fills bytes up with, may
		// change and the copy be the same.
		if told < probes-5 {
			h.Errorf("%d of %d changes were told", told, probes)
		}
		if !try("with something after its end", append(bytes.Clone(copied), "more"...)) {
			h.Error("a copy with something after its end is sound")
		}
		for _, bad := range [][]byte{nil, copied[:len(copied)/2], copied[:len(copied)-1], []byte("text\n")} {
			if _, err := to.Restore(h.ctx, bytes.NewReader(bad), true, later); !errors.Is(err, store.ErrCopy) {
				h.Errorf("restore of %d bytes: %v", len(bad), err)
			}
		}
		h.Store = to.Open(h.T)
		rows, err := h.Pools(h.ctx)
		h.no(err)
		h.equal("pools", len(rows), 0)
		_, err = to.Restore(h.ctx, bytes.NewReader(copied), false, later)
		if err == nil {
			h.no(h.Close())
		}
	}},
	{"a copy of a newer schema is refused by name", func(h *harness, from, to Place) {
		h.busy()
		newer := regexp.MustCompile(`"schema":\d+`).ReplaceAll(h.copied(from), []byte(`"schema":999`))
		_, err := to.Restore(h.ctx, bytes.NewReader(newer), false, later)
		if err == nil || !strings.Contains(err.Error(), "version 999") || !strings.Contains(err.Error(), "newer") {
			h.Errorf("error is %v", err)
		}
	}},
	{"a store with rows is replaced when that is said, and kept", func(h *harness, from, to Place) {
		h.busy()
		copied := h.copied(from)
		before := h.state()
		h.Store = to.Open(h.T)
		h.pools(3, "theirs")
		h.creating("theirs")
		h.no(h.Close())
		_, err := to.Restore(h.ctx, bytes.NewReader(copied), false, later)
		h.is(err, pool.ErrConflict)
		if !strings.Contains(err.Error(), "--force") {
			h.Errorf("error is %v", err)
		}
		h.Store = to.Open(h.T)
		h.equal("counter", h.counted("theirs"), 1)
		h.no(h.Close())
		kept, err := to.Restore(h.ctx, bytes.NewReader(copied), true, later)
		h.no(err)
		if kept == "" {
			h.Error("nothing was kept")
		}
		h.Store = to.Open(h.T)
		h.equal("the restored store", h.state(), before)
	}},
}

package ec2

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// longestTokenTTL is the most seconds for which a metadata token may be asked.
const longestTokenTTL = 21600

const tokenTTL = "X-aws-ec2-metadata-token-ttl-seconds"

// IMDS is the metadata service as one machine sees it, from hops away: 1 is the
// machine itself, 2 a container on a bridge. Tokens, the machine's identity,
// user data, tags, the notice of a spot interruption, and scheduled events.
func (c *Cloud) IMDS(id string, hops int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, text := c.metadata(id, hops, r)
		if status == 0 { // packets that go no further are not answered
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "text/plain")
		if ttl := r.Header.Get(tokenTTL); ttl != "" && r.Method == http.MethodPut {
			w.Header().Set(tokenTTL, ttl)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	})
}

// metadata answers a machine's request; status 0 is none.
func (c *Cloud) metadata(id string, hops int, r *http.Request) (int, string) {
	c.lock()
	defer c.unlock()
	i := c.instances.byID[id]
	if i == nil || i.state != running {
		return 0, ""
	}
	if i.metadata.endpoint == "disabled" {
		return http.StatusForbidden, ""
	}
	switch {
	case r.URL.Path == "/latest/api/token":
		return c.metadataToken(i, hops, r)
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed, ""
	}
	given := r.Header.Get("X-aws-ec2-metadata-token")
	if given == "" && i.metadata.tokens == "required" || given != "" && !c.tokenHolds(i, given) {
		return http.StatusUnauthorized, ""
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/latest/")
	if !ok {
		return http.StatusNotFound, ""
	}
	text, ok := c.metadatum(i, path)
	if !ok {
		return http.StatusNotFound, ""
	}
	return http.StatusOK, text
}

// metadataToken makes a token, which is what says until when it holds; its
// answer goes no further than the machine's hop limit.
func (c *Cloud) metadataToken(i *instance, hops int, r *http.Request) (int, string) {
	if r.Method != http.MethodPut {
		return http.StatusMethodNotAllowed, ""
	}
	ttl, err := strconv.Atoi(r.Header.Get(tokenTTL))
	switch {
	case r.Header.Get("X-Forwarded-For") != "":
		return http.StatusForbidden, ""
	case err != nil || ttl < 1 || ttl > longestTokenTTL:
		return http.StatusBadRequest, ""
	case hops > i.metadata.hops:
		return 0, ""
	}
	until := c.now.Add(time.Duration(ttl) * time.Second).Unix()
	return http.StatusOK, c.tokenFor(i, until)
}

func (c *Cloud) tokenFor(i *instance, until int64) string {
	h := fnv.New64a()
	fmt.Fprint(h, c.o.Seed, i.id, until)
	return fmt.Sprintf("%x.%x", until, h.Sum64())
}

func (c *Cloud) tokenHolds(i *instance, token string) bool {
	text, _, _ := strings.Cut(token, ".")
	until, err := strconv.ParseInt(text, 16, 64)
	return err == nil && token == c.tokenFor(i, until) && c.now.Unix() < until
}

func (c *Cloud) metadatum(i *instance, path string) (string, bool) {
	switch path {
	case "user-data":
		return string(i.userData), len(i.userData) > 0
	case "dynamic/instance-identity/document":
		return asJSON(map[string]string{
			"accountId": c.o.Account, "architecture": i.image.Architecture, "availabilityZone": i.zone.Name, "imageId": i.image.ID,
			"instanceId": i.id, "instanceType": i.typ.Name, "privateIp": i.private(), "region": c.o.Region, "version": "2017-09-30",
		}), true
	}
	path, ok := strings.CutPrefix(path, "meta-data/")
	if !ok {
		return "", false
	}
	if key, ok := strings.CutPrefix(path, "tags/instance"); ok {
		return tagDatum(i, strings.TrimPrefix(key, "/"))
	}
	switch path {
	case "instance-id":
		return i.id, true
	case "instance-type":
		return i.typ.Name, true
	case "ami-id":
		return i.image.ID, true
	case "local-ipv4":
		return i.private(), true
	case "public-ipv4":
		return i.public, i.public != ""
	case "placement/availability-zone":
		return i.zone.Name, true
	case "placement/availability-zone-id":
		return i.zone.ID, true
	case "placement/region":
		return c.o.Region, true
	case "instance-life-cycle":
		return map[bool]string{true: "spot", false: "on-demand"}[i.spot != nil], true
	case "spot/instance-action":
		if i.notice == nil {
			return "", false
		}
		return asJSON(map[string]string{"action": i.notice.action, "time": i.notice.at.UTC().Format(time.RFC3339)}), true
	case "spot/termination-time":
		if i.notice == nil || i.notice.action != "terminate" {
			return "", false
		}
		return i.notice.at.UTC().Format(time.RFC3339), true
	case "events/maintenance/scheduled":
		return scheduled(i), true
	}
	return "", false
}

func tagDatum(i *instance, key string) (string, bool) {
	if i.metadata.tags != "enabled" {
		return "", false
	}
	if key == "" {
		return strings.Join(slices.Sorted(maps.Keys(i.tags)), "\n"), true
	}
	value, ok := i.tags[key]
	return value, ok
}

// scheduled are the machine's events, as the service writes them.
func scheduled(i *instance) string {
	const form = "2 Jan 2006 15:04:05 GMT"
	list := []map[string]string{}
	for _, e := range i.events {
		list = append(list, map[string]string{
			"EventId": e.id, "Code": e.code, "Description": e.text, "State": "active",
			"NotBefore": e.from.UTC().Format(form), "NotAfter": e.until.UTC().Format(form),
		})
	}
	return asJSON(list)
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil { // strings alone always can be
		return ""
	}
	return string(text)
}

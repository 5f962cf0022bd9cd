package gce

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strings"
)

var (
	nameRE  = regexp.MustCompile(`^[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?$`)
	keyRE   = regexp.MustCompile(`^[\p{Ll}\p{Lo}][\p{Ll}\p{Lo}\p{N}_-]{0,62}$`)
	valueRE = regexp.MustCompile(`^[\p{Ll}\p{Lo}\p{N}_-]{0,63}$`)
	metaRE  = regexp.MustCompile(`^[a-zA-Z0-9-_]{1,128}$`)
)

// The limits of labels, metadata and tags.
const (
	maxLabels        = 64
	maxMetadataValue = 256 << 10
	maxMetadata      = 512 << 10
	maxTags          = 64
)

// checkName refuses what is no resource's name.
func checkName(field, name string) *Error {
	if name == "" {
		return required(field)
	}
	if !nameRE.MatchString(name) {
		return invalid(field, name, "Must be a match of regex '(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)'")
	}
	return nil
}

func checkLabels(field string, labels map[string]string) *Error {
	if len(labels) > maxLabels {
		return invalid(field, "", "The number of labels %d exceeds the limit of %d.", len(labels), maxLabels)
	}
	for _, key := range slices.Sorted(mapKeys(labels)) {
		value := labels[key]
		if !keyRE.MatchString(key) {
			return invalid(field, "", "Label key '%s' violates format constraints. The key must start with a lowercase character, can only contain lowercase letters, numeric characters, underscores and dashes. The key can be at most 63 characters long. International characters are allowed.", key)
		}
		if !valueRE.MatchString(value) {
			return invalid(field, "", "Label value '%s' violates format constraints. The value can only contain lowercase letters, numeric characters, underscores and dashes. The value can be at most 63 characters long. International characters are allowed.", value)
		}
	}
	return nil
}

// readMetadata checks metadata and gives it by key.
func readMetadata(field string, o object) (map[string]string, error) {
	values, total := map[string]string{}, 0
	for i, e := range items(o, "items") {
		item, _ := e.(object)
		key, value := text(item, "key"), text(item, "value")
		at := fmt.Sprintf("%s.items[%d]", field, i)
		if !metaRE.MatchString(key) {
			return nil, invalid(at+".key", key, "Must be a match of regex '[a-zA-Z0-9-_]{1,128}'")
		}
		if _, ok := values[key]; ok {
			return nil, invalid(field, key, "Metadata has duplicate keys: %s", key)
		}
		if len(value) > maxMetadataValue {
			return nil, invalid(at+".value", cut(value), "Metadata value for key '%s' is too large: maximum size is %d character(s); actual size %d.", key, maxMetadataValue, len(value))
		}
		values[key] = value
		total += len(key) + len(value)
	}
	if total > maxMetadata {
		return nil, invalid(field, "", "Metadata has exceeded the maximum total size of %d bytes: %d.", maxMetadata, total)
	}
	return values, nil
}

// cut keeps a message short.
func cut(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}

func writeMetadata(values map[string]string, print string) object {
	all := []any{}
	for _, key := range slices.Sorted(mapKeys(values)) {
		all = append(all, object{"key": key, "value": values[key]})
	}
	o := object{"kind": "compute#metadata", "fingerprint": print}
	if len(all) > 0 {
		o["items"] = all
	}
	return o
}

func readTags(field string, o object) ([]string, error) {
	all := items(o, "items")
	if len(all) > maxTags {
		return nil, invalid(field, "", "The number of tags %d exceeds the limit of %d.", len(all), maxTags)
	}
	var tags []string
	for i, e := range all {
		tag, _ := e.(string)
		if err := checkName(fmt.Sprintf("%s.items[%d]", field, i), tag); err != nil {
			return nil, err
		}
		if slices.Contains(tags, tag) {
			return nil, invalid(field, tag, "Duplicate tags are not allowed: %s", tag)
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// fingerprint changes with what it is made of.
func fingerprint(parts ...any) string {
	h := fnv.New64a()
	fmt.Fprint(h, parts...)
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, h.Sum64()))
}

// reference is what a URL of a resource names, in full or in part.
type reference struct {
	project string // empty where the URL does not say
	scope   string // "global", "zones/z" or "regions/r"; empty where it does not
	kind    string // "images", "disks", …
	name    string // "family/f" for a family
}

// readReference reads a full URL, one from "projects/", or one from its scope.
// ok is false for anything else.
func readReference(url, kind string) (r reference, ok bool) {
	rest := url
	if _, after, full := strings.Cut(url, "://"); full {
		host, path, _ := strings.Cut(after, "/")
		if host != "www.googleapis.com" && host != service {
			return r, false
		}
		if rest, ok = strings.CutPrefix(path, "compute/v1/"); !ok {
			return r, false
		}
	}
	parts := strings.Split(rest, "/")
	if parts[0] == "projects" && len(parts) > 2 {
		r.project, parts = parts[1], parts[2:]
	} else if len(parts) > 2 && (parts[1] == "global" || parts[1] == "zones" || parts[1] == "regions") && kind == "images" {
		// Images may be named "ubuntu-os-cloud/global/images/…" too.
		r.project, parts = parts[0], parts[1:]
	}
	switch {
	case len(parts) > 1 && parts[0] == "global":
		r.scope, parts = "global", parts[1:]
	case len(parts) > 2 && (parts[0] == "zones" || parts[0] == "regions"):
		r.scope, parts = parts[0]+"/"+parts[1], parts[2:]
	}
	if len(parts) < 2 || parts[0] != kind {
		return r, false
	}
	r.kind, r.name = kind, strings.Join(parts[1:], "/")
	plain := strings.TrimPrefix(r.name, "family/")
	return r, plain != "" && !strings.Contains(plain, "/")
}

func malformed(field, url string) *Error { return invalid(field, url, "The URL is malformed.") }

package gce

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxPage is the most entries of a page the API gives.
const maxPage = 500

// listing is what the parameters of a list ask for.
type listing struct {
	most   int
	newest bool
	after  string // the entry the last page ended with
	filter *filter
}

// listing reads the parameters of a list; item is the schema of an entry.
func (c *Cloud) listing(r *request, item *schema) (l listing, err error) {
	l.most = maxPage
	if v, ok := r.query["maxResults"]; ok {
		n, _ := strconv.Atoi(v)
		if n > maxPage {
			return l, invalid("maxResults", v, "Acceptable values are 0 to %d, inclusive", maxPage)
		}
		if n > 0 {
			l.most = n
		}
	}
	l.most = min(l.most, c.o.PageSize)
	switch order := r.query["orderBy"]; order {
	case "", "name":
	case "creationTimestamp desc":
		l.newest = true
	default:
		return l, invalid("orderBy", order, "Sorting by this is not supported.")
	}
	if text := r.query["filter"]; text != "" {
		if l.filter, err = parseFilter(text, c.doc, item); err != nil {
			return l, invalid("filter", text, "Invalid list filter expression. %v", err)
		}
	}
	if token, ok := r.query["pageToken"]; ok && token != "" {
		raw, err := base64.URLEncoding.DecodeString(token)
		what, after, found := strings.Cut(string(raw), "\n")
		if err != nil || !found || what != sameList(r) {
			return l, invalid("pageToken", token, "The page token is not of this list.")
		}
		l.after = after
	}
	return l, nil
}

// sameList is what the pages of one list have in common.
func sameList(r *request) string {
	return fingerprint(r.id, r.path["project"], r.path["zone"], r.path["region"], r.query["filter"], r.query["orderBy"])
}

// cut is the page of all that is asked for, and the token of the next.
func (l listing) cut(r *request, all []object, key func(object) string) (page []object, next string) {
	if l.filter != nil {
		all = slices.DeleteFunc(all, func(o object) bool { return !l.filter.fits(o) })
	}
	slices.SortFunc(all, func(a, b object) int { return strings.Compare(key(a), key(b)) })
	if l.after != "" {
		all = all[sortedAfter(all, l.after, key):]
	}
	if len(all) <= l.most {
		return all, ""
	}
	page = all[:l.most]
	return page, base64.URLEncoding.EncodeToString([]byte(sameList(r) + "\n" + key(page[len(page)-1])))
}

// sortedAfter is the place of the first entry behind a key, which need not be
// there any more.
func sortedAfter(all []object, after string, key func(object) string) int {
	i, found := slices.BinarySearchFunc(all, after, func(o object, k string) int { return strings.Compare(key(o), k) })
	if found {
		i++
	}
	return i
}

// newestFirst turns a time into text that sorts the other way round.
func newestFirst(o object) string {
	at := text(o, "creationTimestamp")
	if at == "" {
		at = text(o, "insertTime")
	}
	t, _ := time.Parse(time.RFC3339Nano, at)
	return strconv.FormatInt(1<<62-t.UnixNano(), 10) + "/" + text(o, "selfLink")
}

func (l listing) key() func(object) string {
	if l.newest {
		return newestFirst
	}
	return func(o object) string { return text(o, "name") + "/" + text(o, "selfLink") }
}

// itemOf is the schema of the entries of a list's answer.
func (c *Cloud) itemOf(r *request) *schema {
	items := c.doc.resolve(r.Response).Properties["items"]
	if items.Additional == nil {
		return c.doc.resolve(items.Items)
	}
	for _, p := range c.doc.resolve(items.Additional).Properties {
		if p.Type == "array" && p.Items.Ref != "" {
			return c.doc.resolve(p.Items)
		}
	}
	return nil
}

// page answers a list of one scope.
func (c *Cloud) page(r *request, kind string, all []object) (object, error) {
	l, err := c.listing(r, c.itemOf(r))
	if err != nil {
		return nil, err
	}
	if l.filter != nil && !c.rates[Filtered].Take(len(all), c.o.Now()) {
		return nil, RateLimited(Filtered)
	}
	page, next := l.cut(r, all, l.key())
	answer := object{"kind": kind, "id": strings.TrimPrefix(kind, "compute#"), "selfLink": link(strings.TrimPrefix(fill(r), "/"))}
	if len(page) > 0 {
		answer["items"] = list(page)
	}
	if next != "" {
		answer["nextPageToken"] = next
	}
	return answer, nil
}

// fill is the path of a request.
func fill(r *request) string {
	p := r.Path
	for name, v := range r.path {
		p = strings.ReplaceAll(p, "{"+name+"}", v)
	}
	return p
}

// aggregate answers a list of all zones; plural is what the entries are called
// there ("instances"). Zones that do not answer are named, and the rest is given:
// this version of the API has no other way.
func (c *Cloud) aggregate(r *request, kind, plural string, all []object) (object, error) {
	l, err := c.listing(r, c.itemOf(r))
	if err != nil {
		return nil, err
	}
	if r.has("serviceProjectNumber") {
		return nil, notModelled("serviceProjectNumber")
	}
	if l.filter != nil && !c.rates[Filtered].Take(len(all), c.o.Now()) {
		return nil, RateLimited(Filtered)
	}
	var away []string
	for _, region := range slices.Sorted(mapKeys(c.o.Regions)) {
		for _, zone := range c.o.Regions[region] {
			if c.isAway(zone) {
				away = append(away, "zones/"+zone)
			}
		}
	}
	scope := func(o object) string { return "zones/" + last(text(o, "zone")) }
	all = slices.DeleteFunc(all, func(o object) bool { return slices.Contains(away, scope(o)) })
	key := l.key()
	page, next := l.cut(r, all, func(o object) string {
		if l.newest {
			return key(o)
		}
		return scope(o) + "/" + key(o)
	})
	scopes := object{}
	for _, region := range slices.Sorted(mapKeys(c.o.Regions)) {
		for _, zone := range c.o.Regions[region] {
			name := "zones/" + zone
			if slices.Contains(away, name) {
				scopes[name] = object{"warning": warning("UNREACHABLE", "The scope '"+name+"' is unreachable.", name)}
				continue
			}
			scopes[name] = object{"warning": warning("NO_RESULTS_ON_PAGE", "There are no results for scope '"+name+"' on this page.", name)}
		}
	}
	for _, o := range page {
		s, _ := scopes[scope(o)].(object)
		delete(s, "warning")
		s[plural] = append(items(s, plural), o)
	}
	answer := object{"kind": kind, "id": strings.TrimPrefix(kind, "compute#"), "selfLink": link(fill(r)), "items": scopes}
	if len(away) > 0 {
		answer["unreachables"] = list(away)
		answer["warning"] = warning("UNREACHABLE", "Some scopes are unreachable.", strings.Join(away, ","))
	}
	if next != "" {
		answer["nextPageToken"] = next
	}
	return answer, nil
}

func warning(code, message, scope string) object {
	return object{"code": code, "message": message, "data": []any{object{"key": "scope", "value": scope}}}
}

// isAway says whether a zone does not answer at present.
func (c *Cloud) isAway(zone string) bool {
	until, ok := c.away[zone]
	return ok && (until.IsZero() || c.o.Now().Before(until))
}

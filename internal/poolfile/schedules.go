package poolfile

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // so that zones are known on hosts without them

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// schedules checks the schedules of a pool whose variants and tenants are
// known.
func (p *parser) schedules(path string, in *instance, of *pool.PoolConfig) []pool.Schedule {
	path += ".schedules"
	if p.tooMany(path, len(in.Schedules), maxSchedules) {
		return nil
	}
	var out []pool.Schedule
	for i := range in.Schedules {
		s, at := &in.Schedules[i], fmt.Sprintf("%s[%d]", path, i)
		if !p.at.Has(at) || p.wrong(at) {
			continue // no mapping, reported by the decoder
		}
		if s.Pool > of.Max {
			p.loose(at+".pool", "%d is above limit (%d), so some are missing; lower it or raise limit", s.Pool, of.Max)
		}
		p.flavour(at, s, of)
		out = append(out, pool.Schedule{
			Days: p.days(at+".days", s.Days), From: p.clock(at+".from", s.From), To: p.clock(at+".to", s.To),
			Zone: p.zone(at+".timezone", s.Timezone), Min: s.Pool, Variant: own(s.VariantID), Tenant: own(s.Tenant),
		})
	}
	return out
}

// own is a name, where "default" is the same as none.
func own(name string) string {
	if name == defaultName {
		return ""
	}
	return name
}

// flavour checks that the variant and the tenant of a schedule exist.
func (p *parser) flavour(path string, s *schedule, of *pool.PoolConfig) {
	variants := of.Variants
	if name := own(s.Tenant); name != "" {
		var names []string
		for _, t := range of.Tenants {
			names = append(names, t.ID)
		}
		i := slices.Index(names, name)
		if i < 0 {
			p.missing(path+".tenant", "tenant", name, names)
			return
		}
		variants = of.Tenants[i].Variants
	}
	if name := own(s.VariantID); name != "" {
		var names []string
		for _, v := range variants {
			names = append(names, v.ID)
		}
		if !slices.Contains(names, name) {
			p.missing(path+".variant_id", "variant", name, names)
		}
	}
}

// missing reports a name that is none of the pool's.
func (p *parser) missing(path, kind, name string, names []string) {
	switch near := drivers.Nearest(name, names); {
	case near != "":
		p.report(Error, path, "the pool has no %s %s; did you mean %q?", kind, quote(name), near)
	case len(names) == 0:
		p.report(Error, path, "the pool has no %s %s, nor any other; remove the key", kind, quote(name))
	default:
		p.report(Error, path, "the pool has no %s %s; it has %s", kind, quote(name), joined(names))
	}
}

// joined lists names, cut where there are too many to read.
func joined(names []string) string {
	const most = 8
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// week has the days in the file's order.
var week = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

// days reads days and ranges of days; nil means every day.
func (p *parser) days(path string, words []string) []time.Weekday {
	var on [7]bool
	for i, word := range words {
		key := fmt.Sprintf("%s[%d]", path, i)
		first, last, ranged := strings.Cut(word, "-")
		from, ok := p.day(key, first)
		to := from
		if ok && ranged {
			to, ok = p.day(key, last)
		}
		for d := from; ok; d = (d + 1) % 7 {
			on[d] = true
			if d == to {
				break
			}
		}
	}
	var out []time.Weekday
	for d, yes := range on {
		if yes {
			out = append(out, time.Weekday((d+1)%7)) // ours begins on Monday, Go's on Sunday
		}
	}
	if len(out) == len(on) {
		return nil
	}
	return out
}

// day is a day's place in the week.
func (p *parser) day(path, word string) (int, bool) {
	word = strings.TrimSpace(word)
	lower := strings.ToLower(word)
	for i, name := range week {
		if lower == name || lower == strings.ToLower(time.Weekday((i+1)%7).String()) {
			return i, true
		}
	}
	if near := drivers.Nearest(word, week); near != "" {
		p.report(Error, path, "%s is no day; did you mean %q?", quote(word), near)
	} else {
		p.report(Error, path, "%s is no day; write mon, tue, wed, thu, fri, sat, sun or a range such as mon-fri", quote(word))
	}
	return 0, false
}

// clock reads a time of day. 24:00 is the 0:00 of the next.
func (p *parser) clock(path, text string) time.Duration {
	if text == "24:00" {
		return 0
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		p.report(Error, path, "%s is no time of day; write it as \"08:00\"", quote(text))
		return 0
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
}

// zone finds a time zone; UTC if there is no such.
func (p *parser) zone(path, name string) *time.Location {
	if name == "" {
		return time.UTC
	}
	// Local is the zone of whichever host the file is served on.
	if zone, err := time.LoadLocation(name); err == nil && name != "Local" {
		return zone
	}
	if near := nearestZone(name); near != "" {
		p.report(Error, path, "%s is no time zone; did you mean %q?", quote(name), near)
	} else {
		p.report(Error, path, "%s is no time zone; write one such as Europe/Berlin, or UTC", quote(name))
	}
	return time.UTC
}

// zoneNames are the zones a person may mean, one a line, to suggest from.
//
//go:embed zones.txt
var zoneNames string

// nearestZone is the zone that a name is most likely meant for, "" if none: one
// of almost that name, or of the city of that name.
func nearestZone(name string) string {
	zones := strings.Fields(zoneNames)
	if near := drivers.Nearest(name, zones); near != "" {
		return near
	}
	cities := make([]string, len(zones))
	for i, z := range zones {
		cities[i] = z[strings.LastIndexByte(z, '/')+1:]
	}
	city := strings.ReplaceAll(name[strings.LastIndexByte(name, '/')+1:], " ", "_")
	if near := drivers.Nearest(city, cities); near != "" {
		return zones[slices.Index(cities, near)]
	}
	return ""
}

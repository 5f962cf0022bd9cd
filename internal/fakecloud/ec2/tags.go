package ec2

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

const (
	maxTags     = 50
	maxTagKey   = 128
	maxTagValue = 256
)

func validCIDR(s string) bool {
	p, err := netip.ParsePrefix(s)
	return err == nil && p.Addr().Is4() && p == p.Masked()
}

// readTags reads a list of tags.
func readTags(list []params) (map[string]string, error) {
	tags := map[string]string{}
	for _, t := range list {
		key, value := t.str("Key"), t.str("Value")
		switch _, again := tags[key]; {
		case key == "" || utf8.RuneCountInString(key) > maxTagKey:
			return nil, refuse("InvalidParameterValue", "Tag key '%s' is not valid: 1 to %d characters", key, maxTagKey)
		case utf8.RuneCountInString(value) > maxTagValue:
			return nil, refuse("InvalidParameterValue", "Tag value exceeds the maximum length of %d characters", maxTagValue)
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			return nil, refuse("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
		case again:
			return nil, refuse("InvalidParameterValue", "Duplicate tag key '%s' specified.", key)
		}
		tags[key] = value
	}
	if len(tags) > maxTags {
		return nil, errTooManyTags()
	}
	return tags, nil
}

func errTooManyTags() *Error {
	return refuse("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
}

// tagsFor reads tag specifications, by the kinds they may be for.
func (c *Cloud) tagsFor(p params, kinds ...string) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for _, spec := range p.subs("TagSpecifications") {
		kind := spec.str("ResourceType")
		switch {
		case kind == "":
			return nil, refuse("MissingParameter", "The request must contain the parameter TagSpecification.ResourceType")
		case !slices.Contains(kinds, kind):
			return nil, refuse("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", kind)
		case all[kind] != nil:
			return nil, refuse("InvalidParameterValue", "Duplicate resource type '%s' specified.", kind)
		case len(spec.subs("Tags")) == 0:
			return nil, refuse("InvalidParameterValue", "Tag specification must have at least one tag")
		}
		tags, err := readTags(spec.subs("Tags"))
		if err != nil {
			return nil, err
		}
		all[kind] = tags
	}
	return all, nil
}

// taggables are the things with those ids; one that is not known refuses all.
func (c *Cloud) taggables(ids []string) (all []*thing, err error) {
	for _, id := range ids {
		var t commoner
		switch prefix, _, _ := strings.Cut(id, "-"); prefix {
		case "i":
			t, err = one(c, &c.instances, id, "i", "InvalidInstanceID")
		case "vol":
			t, err = one(c, &c.volumes, id, "vol", "InvalidVolume")
		case "eni":
			t, err = one(c, &c.interfaces, id, "eni", "InvalidNetworkInterfaceID")
		case "sg":
			t, err = one(c, &c.groups, id, "sg", "InvalidGroup")
		case "sir":
			t, err = one(c, &c.spots, id, "sir", "InvalidSpotInstanceRequestID")
		case "cr":
			t, err = one(c, &c.reservations, id, "cr", "InvalidCapacityReservationId")
		case "vpc":
			t, err = c.vpcOr(id)
		case "subnet":
			t, err = c.subnet(id)
		default:
			err = refuse("InvalidID", "The ID '%s' is not valid", id)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, t.common())
	}
	return all, nil
}

func createTags(c *Cloud, p params) (answer, error) {
	tags, err := readTags(p.subs("Tags"))
	if err != nil {
		return nil, err
	}
	all, err := c.taggables(p.strs("Resources"))
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		merged := maps.Clone(t.tags)
		maps.Copy(merged, tags)
		if len(merged) > maxTags {
			return nil, errTooManyTags()
		}
	}
	for _, t := range all {
		maps.Copy(t.tags, tags)
	}
	return answer{}, nil
}

func deleteTags(c *Cloud, p params) (answer, error) {
	all, err := c.taggables(p.strs("Resources"))
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if !p.has("Tags") {
			clear(t.tags)
		}
		for _, tag := range p.subs("Tags") {
			if value, ok := t.tags[tag.str("Key")]; ok && (!tag.has("Value") || tag.str("Value") == value) {
				delete(t.tags, tag.str("Key"))
			}
		}
	}
	return answer{}, nil
}

// tagged is one tag of one thing, as DescribeTags lists them.
type tagged struct {
	seq        int
	kind, id   string
	key, value string
}

// tagsOf adds the tags of what lists know of one kind by now.
func tagsOf[T commoner](all []tagged, kind string, of *shelf[T], now time.Time) []tagged {
	for _, one := range of.visible(now) {
		t := one.common()
		for _, key := range slices.Sorted(maps.Keys(t.tags)) {
			all = append(all, tagged{kind: kind, id: t.id, key: key, value: t.tags[key], seq: t.seq})
		}
	}
	return all
}

func describeTags(c *Cloud, p params) (answer, error) {
	var all []tagged
	all = tagsOf(all, "instance", &c.instances, c.now)
	all = tagsOf(all, "volume", &c.volumes, c.now)
	all = tagsOf(all, "network-interface", &c.interfaces, c.now)
	all = tagsOf(all, "security-group", &c.groups, c.now)
	all = tagsOf(all, "spot-instances-request", &c.spots, c.now)
	all = tagsOf(all, "capacity-reservation", &c.reservations, c.now)
	// Numbers that stay the same from page to page: at most maxTags a thing.
	slices.SortStableFunc(all, func(a, b tagged) int { return cmp.Compare(a.seq, b.seq) })
	for i, n := 0, 0; i < len(all); i++ {
		if n++; i == 0 || all[i].id != all[i-1].id {
			n = 0
		}
		all[i].seq = all[i].seq*maxTags + n
	}
	got, next, err := page(c, "DescribeTags", p, all, func(t tagged) int { return t.seq }, func(t tagged) facts {
		return facts{"key": {t.key}, "value": {t.value}, "resource-id": {t.id}, "resource-type": {t.kind}, "tag:" + t.key: {t.value}, "tag-key": {t.key}}
	})
	list := []answer{}
	for _, t := range got {
		list = append(list, answer{"Key": t.key, "Value": t.value, "ResourceId": t.id, "ResourceType": t.kind})
	}
	return answer{"Tags": list, "NextToken": next}, err
}

// book notes that something was made.
func (c *Cloud) book(kind string, t *thing, name, zone string) {
	c.Books.Make(fakecloud.Thing{Kind: kind, ID: t.id, Name: cmp.Or(name, t.tags["Name"]), Zone: zone, Tags: t.tags, Made: c.now})
}

package ec2

import (
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxFilterValues is the most that one filter takes.
const maxFilterValues = 200

// leastPage and mostPage bound what a caller may ask for at once.
const (
	leastPage = 5
	mostPage  = 1000
)

// facts are what filters are held against: values by the filters' names. A
// filter that is not among them is refused.
type facts map[string][]string

// with adds the facts that tags are.
func (f facts) with(tags map[string]string) facts {
	f["tag-key"] = nil
	for key, value := range tags {
		f["tag:"+key] = []string{value}
		f["tag-key"] = append(f["tag-key"], key)
	}
	return f
}

// page is a list as one call asks for it: filtered, from its token on, and no
// longer than a page. all is in order of seq, which is unique.
func page[T any](c *Cloud, action string, p params, all []T, seq func(T) int, of func(T) facts) ([]T, string, error) {
	filters := p.subs("Filters")
	if err := checkFilters(action, filters); err != nil {
		return nil, "", err
	}
	from, sum := 0, token(action, p)
	if given := p.str("NextToken"); given != "" {
		text, err := base64.RawURLEncoding.DecodeString(given)
		at, rest, ok := strings.Cut(string(text), " ")
		if err != nil || !ok || rest != sum {
			return nil, "", refuse("InvalidNextToken", "The token '%s' is invalid", given)
		}
		if from, err = strconv.Atoi(at); err != nil {
			return nil, "", refuse("InvalidNextToken", "The token '%s' is invalid", given)
		}
	}
	size := c.o.Page
	switch n := p.num("MaxResults"); {
	case byID(p) && n > 0:
		return nil, "", refuse("InvalidParameterCombination", "The parameter MaxResults cannot be used together with ids")
	case p.has("MaxResults") && (n < leastPage || n > mostPage):
		return nil, "", refuse("InvalidParameterValue", "Value (%d) for parameter maxResults is invalid. Expecting a value from %d to %d.", n, leastPage, mostPage)
	case byID(p):
		size = len(all) // what is asked for by id comes at once
	case n > 0:
		size = min(size, n)
	}
	var got []T
	counted, last := 0, 0
	for _, v := range all {
		if seq(v) <= from {
			continue
		}
		ok := matches(filters, of(v))
		if ok || c.o.Sparse {
			if counted == size {
				return got, base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", last, sum)), nil
			}
			counted, last = counted+1, seq(v)
		}
		if ok {
			got = append(got, v)
		}
	}
	return got, "", nil
}

// byID says whether the call names what it wants.
func byID(p params) bool {
	for name := range p {
		if strings.HasSuffix(name, "Ids") && len(p.strs(name)) > 0 {
			return true
		}
	}
	return false
}

// token is what two calls have in common whose pages belong together.
func token(action string, p params) string {
	h := fnv.New64a()
	fmt.Fprint(h, action, p.sum("NextToken", "MaxResults", "DryRun"))
	return strconv.FormatUint(h.Sum64(), 36)
}

// filterNames are what each operation can be asked for, beside tags where it
// says so.
var filterNames = map[string]string{
	"DescribeInstances": "instance-id instance-state-name instance-state-code instance-type availability-zone client-token subnet-id vpc-id " +
		"image-id private-ip-address ip-address instance-lifecycle spot-instance-request-id instance.group-id reservation-id owner-id architecture key-name tag",
	"DescribeInstanceStatus": "availability-zone instance-state-name instance-state-code instance-status.status system-status.status event.code",
	"DescribeVolumes": "volume-id status availability-zone volume-type size encrypted snapshot-id attachment.instance-id attachment.status " +
		"attachment.device attachment.delete-on-termination tag",
	"DescribeTags":                  "key value resource-id resource-type tag",
	"DescribeNetworkInterfaces":     "network-interface-id status subnet-id vpc-id availability-zone group-id private-ip-address attachment.instance-id description tag",
	"DescribeSecurityGroups":        "group-id group-name vpc-id description owner-id tag",
	"DescribeVpcs":                  "vpc-id is-default isDefault cidr state owner-id tag",
	"DescribeSubnets":               "subnet-id vpc-id availability-zone availability-zone-id availabilityZone default-for-az defaultForAz map-public-ip-on-launch state cidr-block tag",
	"DescribeRegions":               "region-name endpoint opt-in-status",
	"DescribeAvailabilityZones":     "zone-name zone-id state region-name zone-type opt-in-status group-name",
	"DescribeImages":                "image-id name architecture state owner-id owner-alias is-public root-device-type root-device-name virtualization-type platform tag",
	"DescribeInstanceTypes":         "instance-type current-generation hibernation-supported bare-metal burstable-performance-supported hypervisor instance-storage-supported processor-info.supported-architecture vcpu-info.default-vcpus memory-info.size-in-mib supported-usage-class",
	"DescribeInstanceTypeOfferings": "instance-type location",
	"DescribeSpotInstanceRequests":  "spot-instance-request-id state status-code instance-id type availability-zone-group launched-availability-zone tag",
	"DescribeCapacityReservations":  "instance-type availability-zone state tenancy end-date-type instance-match-criteria owner-id tag",
}

func checkFilters(action string, filters []params) error {
	known := strings.Fields(filterNames[action])
	for _, f := range filters {
		name := f.str("Name")
		tagged := slices.Contains(known, "tag") && (strings.HasPrefix(name, "tag:") || name == "tag-key")
		switch n := len(f.strs("Values")); {
		case name == "tag" || !tagged && !slices.Contains(known, name):
			return refuse("InvalidParameterValue", "The filter '%s' is invalid", name)
		case n == 0:
			return refuse("InvalidParameterValue", "The filter '%s' has no values", name)
		case n > maxFilterValues:
			return refuse("FilterLimitExceeded", "The maximum number of filter values specified on a single call is %d", maxFilterValues)
		}
	}
	return nil
}

// matches says whether all filters hold, each by one of its values.
func matches(filters []params, of facts) bool {
	for _, f := range filters {
		values := f.strs("Values")
		if !slices.ContainsFunc(of[f.str("Name")], func(have string) bool {
			return slices.ContainsFunc(values, func(pattern string) bool { return like(pattern, have) })
		}) {
			return false
		}
	}
	return true
}

// like says whether a text fits a pattern with * and ?; case counts.
func like(pattern, text string) bool {
	if !strings.ContainsAny(pattern, `*?\`) {
		return pattern == text
	}
	var re strings.Builder
	re.WriteString(`(?s)\A`)
	for i := 0; i < len(pattern); i++ {
		switch ch := pattern[i]; {
		case ch == '*':
			re.WriteString(`.*`)
		case ch == '?':
			re.WriteString(`.`)
		case ch == '\\' && i+1 < len(pattern):
			i++
			re.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		default:
			re.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	ok, err := regexp.MatchString(re.String()+`\z`, text)
	return err == nil && ok // bytes that are no text fit nothing
}

// chosen are the things with those ids, all if there are none; an id that is not
// known, or not of the form, refuses all.
func chosen[T commoner](c *Cloud, s *shelf[T], ids []string, prefix, kind string) ([]T, error) {
	if len(ids) == 0 {
		return s.visible(c.now), nil
	}
	var got []T
	for _, id := range ids {
		t, err := one(c, s, id, prefix, kind)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(got, func(other T) bool { return other.common() == t.common() }) {
			got = append(got, t)
		}
	}
	slices.SortFunc(got, func(a, b T) int { return a.common().seq - b.common().seq })
	return got, nil
}

var idRE = regexp.MustCompile(`^[a-z]+-([0-9a-f]{8}|[0-9a-f]{17})$`)

// one is the thing with that id. kind is as in "InvalidInstanceID".
func one[T commoner](c *Cloud, s *shelf[T], id, prefix, kind string) (T, error) {
	if !idRE.MatchString(id) || !strings.HasPrefix(id, prefix+"-") {
		var none T
		return none, refuse(kind+".Malformed", "Invalid id: \"%s\"", id)
	}
	t, ok := s.get(id, c.now)
	if !ok {
		return t, refuse(kind+".NotFound", "The ID '%s' does not exist", id)
	}
	return t, nil
}

func seqOf[T commoner](t T) int { return t.common().seq }

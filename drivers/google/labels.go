//go:build !no_google

package google

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"cloud.google.com/go/compute/apiv1/computepb"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// The labels by which what is ours is searched for. They have no dashes: in a
// filter a key is a path of fields.
const (
	labelController = "runner_controller"
	labelPool       = "runner_pool"
	labelInstance   = "runner_instance"
	labelKind       = "runner_kind"
	labelCreated    = "runner_created"  // seconds of the epoch
	labelDeadline   = "runner_deadline" // the same; missing: never
	// labelDisk tells a machine's own disk, which goes with it, from a persistent
	// one.
	labelDisk  = "runner_disk"
	diskBoot   = "boot"
	diskLasts  = "persistent"
	filterOurs = "labels." + labelController + ":*"
)

// tagsKey is the key of the metadata under which a machine's tags are.
const tagsKey = "runner-tags"

// The limits of the cloud.
const (
	mostOfAll      = 64 // labels of a resource
	longestLabel   = 63
	longestKey     = 128 // of metadata
	largestValue   = 256 << 10
	largestData    = 512 << 10
	longestComment = 2048
)

// allowed says whether a label may have a character.
func allowed(r rune) bool {
	return r == '_' || r == '-' || unicode.IsLower(r) || unicode.Is(unicode.Lo, r) || unicode.IsNumber(r)
}

// labelled is the value of a label that comes nearest to v.
func labelled(v string) string {
	var b []rune
	for _, r := range strings.ToLower(v) {
		if !allowed(r) {
			r = '-'
		}
		if b = append(b, r); len(b) == longestLabel {
			break
		}
	}
	return string(b)
}

// labelledKey is the key of a label that comes nearest to k; "" if it has
// nothing to begin with.
func labelledKey(k string) string {
	return strings.TrimLeftFunc(labelled(k), func(r rune) bool { return !unicode.IsLower(r) && !unicode.Is(unicode.Lo, r) })
}

// exactly is a label for something that is searched for: two different values
// have different labels.
func exactly(v string) string {
	near := labelled(v)
	if near == v {
		return v
	}
	sum := sha256.Sum256([]byte(v))
	hash := hex.EncodeToString(sum[:4])
	return string([]rune(near)[:min(len([]rune(near)), longestLabel-len(hash)-1)]) + "-" + hash
}

// labelsOf are the labels of what belongs to a machine. Where there are too many
// the user's last ones are left out.
func labelsOf(spec drivers.Spec, pool map[string]string) map[string]string {
	t := spec.Tags
	out := map[string]string{
		labelController: exactly(t.Controller), labelPool: exactly(t.Pool), labelInstance: exactly(t.Instance),
		labelKind: labelled(t.Kind), labelCreated: strconv.FormatInt(t.Created.Unix(), 10),
	}
	if !t.Deadline.IsZero() {
		out[labelDeadline] = strconv.FormatInt(t.Deadline.Unix(), 10)
	}
	if key := labelledKey(t.Pool); key != "" {
		out[key] = labelled(t.Pool) // what bills were filtered by so far
	}
	// One more is left for the kind of disk.
	for _, from := range []map[string]string{spec.Facts, t.Labels, pool} {
		for _, k := range slices.Sorted(maps.Keys(from)) {
			key := labelledKey(k)
			if _, taken := out[key]; key == "" || taken || len(out) == mostOfAll-1 {
				continue
			}
			out[key] = labelled(from[k])
		}
	}
	return out
}

// diskLabels are a machine's labels for a disk of that kind.
func diskLabels(labels map[string]string, kind string) map[string]string {
	out := maps.Clone(labels)
	out[labelDisk] = kind
	return out
}

// encoded are tags as they are read back.
func encoded(t drivers.Tags) string {
	text, err := json.Marshal(t)
	if err != nil {
		return "" // a time out of range: the labels have what there is
	}
	return string(text)
}

// decoded reads tags back: as they were, or else as far as labels say.
func decoded(text string, labels map[string]string) drivers.Tags {
	var t drivers.Tags
	if text != "" && json.Unmarshal([]byte(text), &t) == nil && t.Controller != "" {
		return t
	}
	at := func(key string) time.Time {
		n, err := strconv.ParseInt(labels[key], 10, 64)
		if err != nil {
			return time.Time{}
		}
		return time.Unix(n, 0).UTC()
	}
	return drivers.Tags{
		Controller: labels[labelController], Pool: labels[labelPool], Instance: labels[labelInstance], Kind: labels[labelKind],
		Created: at(labelCreated), Deadline: at(labelDeadline),
	}
}

// description is the tags of a disk, which has no metadata.
func description(t drivers.Tags) string {
	if text := encoded(t); len(text) <= longestComment {
		return text
	}
	t.Labels = nil
	return encoded(t)
}

// metadataOf is a machine's metadata, sorted, so that equal machines have equal
// requests.
func metadataOf(spec drivers.Spec, bootKey string) *computepb.Metadata {
	values := map[string]string{
		tagsKey: encoded(spec.Tags), "block-project-ssh-keys": "TRUE", "harness-pool-name": spec.Tags.Pool,
	}
	if spec.Platform.OS != "" {
		values["harness-platform-os"] = spec.Platform.OS
	}
	if spec.Platform.Arch != "" {
		values["harness-platform-arch"] = spec.Platform.Arch
	}
	if len(spec.Boot) > 0 {
		values[bootKey] = string(spec.Boot)
	}
	for k, v := range spec.Facts {
		if key := metadataKey(k); key != "" && !acted(key) && len(v) <= largestValue {
			if _, taken := values[key]; !taken {
				values[key] = v
			}
		}
	}
	m := &computepb.Metadata{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		m.Items = append(m.Items, &computepb.Items{Key: proto.String(key), Value: proto.String(values[key])})
	}
	return m
}

// metadataKey is the key that comes nearest to k.
func metadataKey(k string) string {
	key := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '-'
	}, k)
	return key[:min(len(key), longestKey)]
}

// actedOn are the beginnings of keys that programs in machines act on: a fact of
// such a name stays a label.
var actedOn = []string{
	"startup-script", "shutdown-script", "windows-", "sysprep-", "user-data", "vendor-data", "ssh-keys", "sshkeys", "block-project-ssh-keys",
	"enable-", "disable-", "serial-port-", "google-", "gce-", "cos-", "runner-",
}

// acted says whether something in a machine acts on a key of its metadata.
func acted(key string) bool {
	key = strings.ToLower(key)
	return slices.ContainsFunc(actedOn, func(beginning string) bool { return strings.HasPrefix(key, beginning) })
}

// metadata is the value of a key.
func metadata(i *instance, key string) string {
	for _, item := range i.GetMetadata().GetItems() {
		if item.GetKey() == key {
			return item.GetValue()
		}
	}
	return ""
}

// tagsOf are a machine's tags, tagsOfDisk a disk's.
func tagsOf(i *instance) drivers.Tags { return decoded(metadata(i, tagsKey), i.GetLabels()) }

func tagsOfDisk(d *disk) drivers.Tags { return decoded(d.GetDescription(), d.GetLabels()) }

//go:build !no_amazon

package amazon

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// The tags of what the driver makes. All that it knows of a machine after a
// restart stands in them.
const (
	ours          = "runner:"
	tagName       = ours + "name" // Spec.Name; the tag Name may have a prefix
	tagController = ours + "controller"
	tagPool       = ours + "pool"
	tagInstance   = ours + "instance"
	tagKind       = ours + "kind"
	tagCreated    = ours + "created"
	tagDeadline   = ours + "deadline"
	// tagLabels has the keys of those tags that are the user's labels.
	tagLabels = ours + "labels"
	// tagDisk is a persistent disk's name; no other volume has it.
	tagDisk = ours + "disk"
	// tagEnded marks a machine that ended by itself, once it was destroyed: EC2
	// shows it for an hour yet.
	tagEnded = ours + "ended"
	// tagMade marks a security group as made by the driver.
	tagMade = ours + "made"
)

// What EC2 allows of tags, see also check.
const allTags = 50

// stamp is how times stand in tags.
const stamp = "2006-01-02T15:04:05.000Z"

type filter = types.Filter

func byTagKey(keys ...string) filter { return filter{Name: aws.String("tag-key"), Values: keys} }

func byTag(key string, values ...string) filter {
	return filter{Name: aws.String("tag:" + key), Values: values}
}

func by(name string, values ...string) filter { return filter{Name: aws.String(name), Values: values} }

// tagList collects tags in the order of their importance: EC2 takes so many.
type tagList struct {
	list []types.Tag
	has  map[string]bool
}

func (l *tagList) add(key, value string) {
	switch {
	case key == "" || l.has[key] || len(l.list) >= allTags:
		return
	case strings.HasPrefix(strings.ToLower(key), "aws:") || len([]rune(key)) > longestKey:
		return
	}
	if l.has == nil {
		l.has = map[string]bool{}
	}
	l.has[key] = true
	l.list = append(l.list, types.Tag{Key: aws.String(key), Value: aws.String(cut(value))})
}

// addAll adds a map's tags in the order of their keys.
func (l *tagList) addAll(tags map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		l.add(key, tags[key])
	}
}

// cut makes a value fit.
func cut(value string) string {
	if runes := []rune(value); len(runes) > longestValue {
		return string(runes[:longestValue])
	}
	return value
}

// machineTags are those of a machine and its network interface, and with more
// those of its root volume.
func (d *Driver) machineTags(spec *drivers.Spec, more map[string]string) []types.Tag {
	return d.tags(spec, withPrefix(d.cfg.Name, spec.Name), [2]string{tagName, spec.Name}, more)
}

// diskTags are a persistent disk's.
func (d *Driver) diskTags(spec *drivers.Spec, disk string) []types.Tag {
	return d.tags(spec, disk, [2]string{tagDisk, disk}, d.cfg.Disk.Tags)
}

func (d *Driver) tags(spec *drivers.Spec, name string, identity [2]string, more map[string]string) []types.Tag {
	t := &spec.Tags
	var l tagList
	l.add(identity[0], identity[1])
	l.add("Name", name)
	for _, one := range [][2]string{
		{tagController, t.Controller}, {tagPool, t.Pool}, {tagInstance, t.Instance}, {tagKind, t.Kind}, {tagCreated, t.Created.UTC().Format(stamp)},
	} {
		l.add(one[0], one[1])
	}
	if !t.Deadline.IsZero() {
		l.add(tagDeadline, t.Deadline.UTC().Format(stamp))
	}
	labels := labelIndex(t.Labels)
	if labels != "" {
		l.add(tagLabels, labels)
	}
	l.addAll(t.Labels)
	l.addAll(d.cfg.Tags)
	l.addAll(more)
	l.addAll(spec.Facts)
	// What bills and dashboards of older runners go by.
	l.add("harness-pool-name", t.Pool)
	l.add("harness-resource-class", d.sizeOf(spec))
	l.add("harness-platform-os", spec.Platform.OS)
	l.add("harness-platform-arch", spec.Platform.Arch)
	return l.list
}

func withPrefix(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return cut(prefix + "-" + name)
}

// labelIndex is the keys of labels in one value: those that fit.
func labelIndex(labels map[string]string) string {
	index := ""
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		next := strings.TrimPrefix(index+" "+url.QueryEscape(key), " ")
		if len(next) > longestValue {
			break
		}
		index = next
	}
	return index
}

// plain are tags as a map.
func plain(tags []types.Tag) map[string]string {
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		m[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return m
}

// readTags is what tags say; a time that does not read as one is zero.
func readTags(m map[string]string) drivers.Tags {
	t := drivers.Tags{Controller: m[tagController], Pool: m[tagPool], Instance: m[tagInstance], Kind: m[tagKind]}
	t.Created, _ = time.Parse(stamp, m[tagCreated])   // zero: no deadline is reckoned from it
	t.Deadline, _ = time.Parse(stamp, m[tagDeadline]) // zero: never
	for word := range strings.FieldsSeq(m[tagLabels]) {
		key, err := url.QueryUnescape(word)
		if value, ok := m[key]; ok && err == nil {
			if t.Labels == nil {
				t.Labels = map[string]string{}
			}
			t.Labels[key] = value
		}
	}
	return t
}

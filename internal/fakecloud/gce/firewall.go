package gce

import (
	"fmt"
	"net/netip"
	"regexp"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// firewall is a rule of a network.
type firewall struct {
	id            uint64
	project, name string
	body          object
	created       time.Time
}

func (f *firewall) path() string { return "projects/" + f.project + "/global/firewalls/" + f.name }

func (f *firewall) json() object {
	o := object{"kind": "compute#firewall", "id": number(f.id), "selfLink": link(f.path()), "creationTimestamp": stamp(f.created)}
	for k, v := range f.body {
		o[k] = v
	}
	return o
}

var (
	modelledFirewall = pathSet(`name description network direction disabled priority sourceRanges sourceTags targetTags destinationRanges
		allowed allowed.IPProtocol allowed.ports denied denied.IPProtocol denied.ports logConfig logConfig.enable`)
	portsRE    = regexp.MustCompile(`^[0-9]{1,5}(-[0-9]{1,5})?$`)
	protocolRE = regexp.MustCompile(`^(tcp|udp|icmp|esp|ah|ipip|sctp|all|[0-9]{1,3})$`)
)

func (c *Cloud) insertFirewall(r *request, call fakecloud.Call, now time.Time) (object, error) {
	return c.once(r, func() (*operation, error) {
		f, err := c.newFirewall(r, now)
		if err != nil {
			return nil, err
		}
		key := f.project + "/" + f.name
		if c.firewalls[key] != nil {
			return nil, alreadyExists(f.path())
		}
		f.id = c.id()
		c.firewalls[key] = f
		c.Books.Make(fakecloud.Thing{Kind: "firewall", ID: number(f.id), Name: f.name, Made: now})
		op := c.spoil(c.begin(now, "insert", f.project, "global", f.path(), number(f.id)), call)
		d := c.draw(c.o.Durations.Other, "firewall", f.name)
		op.due = now.Add(d)
		c.after(now, d, func(at time.Time) {
			if op.nothing {
				return
			}
			if op.spoiled != nil {
				delete(c.firewalls, key)
				c.Books.End("firewall", number(f.id), at)
			}
			c.end(op, at, op.spoiled)
		})
		return op, nil
	})
}

func (c *Cloud) newFirewall(r *request, now time.Time) (*firewall, error) {
	b := r.body
	if err := onlyModelled(modelledFirewall, b, "", "resource"); err != nil {
		return nil, err
	}
	f := &firewall{project: r.path["project"], name: text(b, "name"), body: object{}, created: now}
	for k, v := range b {
		f.body[k] = v
	}
	if err := checkName("resource.name", f.name); err != nil {
		return nil, err
	}
	network := text(b, "network")
	if network == "" {
		network = "global/networks/default"
	}
	ref, ok := readReference(network, "networks")
	if !ok || ref.scope != "global" {
		return nil, malformed("resource.network", network)
	}
	if _, ok := c.network(f.project, ref.name); !ok {
		return nil, invalid("resource.network", network, "The referenced network resource cannot be found.")
	}
	f.body["network"] = link("projects/" + f.project + "/global/networks/" + ref.name)
	if (len(items(b, "allowed")) > 0) == (len(items(b, "denied")) > 0) {
		return nil, invalid("resource", "", "Exactly one of allowed and denied must be specified.")
	}
	for _, kind := range []string{"allowed", "denied"} {
		for n, e := range items(b, kind) {
			rule, _ := e.(object)
			field := fmt.Sprintf("resource.%s[%d]", kind, n)
			if !protocolRE.MatchString(text(rule, "IPProtocol")) {
				return nil, invalid(field+".IPProtocol", text(rule, "IPProtocol"), "Not a protocol.")
			}
			for _, p := range items(rule, "ports") {
				if p, _ := p.(string); !portsRE.MatchString(p) {
					return nil, invalid(field+".ports", p, "Ports must be an integer or a range.")
				}
			}
		}
	}
	if _, ok := b["direction"]; !ok {
		f.body["direction"] = "INGRESS"
	}
	if _, ok := b["priority"]; !ok {
		f.body["priority"] = 1000
	}
	if f.body["direction"] == "INGRESS" && len(items(b, "sourceRanges")) == 0 && len(items(b, "sourceTags")) == 0 {
		f.body["sourceRanges"] = []any{"0.0.0.0/0"}
	}
	for _, e := range items(b, "sourceRanges") {
		s, _ := e.(string)
		if _, err := netip.ParsePrefix(s); err != nil {
			if _, err := netip.ParseAddr(s); err != nil {
				return nil, invalid("resource.sourceRanges", s, "Must be a valid CIDR range.")
			}
		}
	}
	for _, kind := range []string{"sourceTags", "targetTags"} {
		for n, e := range items(b, kind) {
			tag, _ := e.(string)
			if err := checkName(fmt.Sprintf("resource.%s[%d]", kind, n), tag); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

func (c *Cloud) firewallOf(r *request) (*firewall, error) {
	if f := c.firewalls[r.path["project"]+"/"+r.path["firewall"]]; f != nil {
		return f, nil
	}
	return nil, notFound("projects/" + r.path["project"] + "/global/firewalls/" + r.path["firewall"])
}

func (c *Cloud) getFirewall(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	f, err := c.firewallOf(r)
	if err != nil {
		return nil, err
	}
	return f.json(), nil
}

func (c *Cloud) listFirewalls(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	var all []object
	for _, f := range c.firewalls {
		if f.project == r.path["project"] {
			all = append(all, f.json())
		}
	}
	return c.page(r, "compute#firewallList", all)
}

func (c *Cloud) deleteFirewall(r *request, call fakecloud.Call, now time.Time) (object, error) {
	return c.once(r, func() (*operation, error) {
		f, err := c.firewallOf(r)
		if err != nil {
			return nil, err
		}
		key := f.project + "/" + f.name
		op := c.spoil(c.begin(now, "delete", f.project, "global", f.path(), number(f.id)), call)
		c.change(op, now, c.draw(c.o.Durations.Other, "delete", f.name), func() *Error {
			if c.firewalls[key] != f {
				return notFound(f.path())
			}
			return nil
		}, func(at time.Time) {
			delete(c.firewalls, key)
			c.Books.End("firewall", number(f.id), at)
		})
		return op, nil
	})
}

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// table prints rows below a heading, in columns.
func table(w io.Writer, heading string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(heading, " ", "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

func poolTable(w io.Writer, pools []api.Pool) error {
	rows := make([][]string, len(pools))
	for i, p := range pools {
		name := p.Name
		if p.Default {
			name += "*"
		}
		problem := p.Problem
		if o := p.Override; o != nil && (!o.Stopped || !strings.HasPrefix(problem, "stopped")) { // which is said once
			problem = strings.TrimSuffix(overrideText(*o)+"; "+problem, "; ")
		}
		if p.Failing > 0 {
			problem = strings.TrimPrefix(problem+"; "+count(p.Failing, "machine")+" could not be destroyed yet", "; ")
		}
		if p.Retired {
			problem = strings.TrimSuffix("retired; "+problem, "; ")
		}
		rows[i] = []string{
			name, p.Driver, p.OS + "/" + p.Arch, strconv.Itoa(p.Min), fmt.Sprintf("%d/%d", p.Counted, p.Max),
			strconv.Itoa(p.Waiting), counts(p.Machines), dash(problem),
		}
	}
	return table(w, "NAME DRIVER PLATFORM WANTED MACHINES WAITING STATES PROBLEM", rows)
}

// overrideText is what an operator wants of a pool.
func overrideText(o api.Override) string {
	what := "stopped"
	if !o.Stopped && o.Min != nil {
		what = fmt.Sprintf("scaled to %d", *o.Min)
	}
	if o.By != "" {
		what += " by " + o.By
	}
	if o.Why != "" {
		what += " (" + o.Why + ")"
	}
	return what
}

// counts is "warm 2, leased 1", sorted by name.
func counts(c api.Counts) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(c)) {
		if c[state] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", state, c[state]))
		}
	}
	return dash(strings.Join(parts, ", "))
}

func instanceTable(w io.Writer, now time.Time, list []api.Instance) error {
	rows := make([][]string, len(list))
	for i, m := range list {
		address := m.Address
		if address != "" && m.Port != 0 {
			address += ":" + strconv.Itoa(m.Port)
		}
		rows[i] = []string{
			m.Name, m.Pool, m.State, ago(now, m.Since), m.Kind, dash(m.LeaseID), dash(address), ago(now, m.Created),
			dash(instanceReason(m)),
		}
	}
	return table(w, "NAME POOL STATE SINCE KIND LEASE ADDRESS AGE REASON", rows)
}

// instanceReason is why a machine is as it is, with what else keeps it so.
func instanceReason(m api.Instance) string {
	reason := because(m.Reason, m.Detail)
	if m.Attempts > 0 {
		reason += fmt.Sprintf(" (%s)", count(m.Attempts, "attempt"))
	}
	if m.Held && !strings.HasPrefix(m.Reason, "held") {
		reason = strings.TrimSuffix("held; "+reason, "; ")
	}
	return strings.TrimSpace(reason)
}

func leaseTable(w io.Writer, now time.Time, list []api.Lease) error {
	rows := make([][]string, len(list))
	for i, l := range list {
		where := l.Pool
		if where == "" {
			where = strings.Join(l.Pools, ",")
		}
		reason := because(l.Reason, l.Detail)
		if reason == "" && len(l.Causes) > 0 {
			last := l.Causes[len(l.Causes)-1]
			reason = because(last.Phase, last.Message)
		}
		rows[i] = []string{l.ID, strconv.FormatInt(l.Generation, 10), l.Kind, l.State, where, dash(l.InstanceID), ago(now, l.Arrived), dash(reason)}
	}
	return table(w, "ID GENERATION KIND STATE POOL INSTANCE AGE REASON", rows)
}

// because is a reason with its detail, on one line.
func because(reason, detail string) string {
	s := reason
	if detail != "" {
		if s != "" {
			s += ": "
		}
		s += detail
	}
	return strings.Join(strings.Fields(s), " ")
}

func eventLine(e api.Event) string {
	subject := []string{}
	for _, s := range []struct{ what, name string }{{"pool", e.Pool}, {"lease", e.Lease}, {"instance", e.Instance}} {
		if s.name != "" {
			subject = append(subject, s.what+" "+s.name)
		}
	}
	return fmt.Sprintf("%s  %-20s  %s: %s", e.At.UTC().Format("2006-01-02 15:04:05.000Z"), e.Reason, strings.Join(subject, ", "), e.Message)
}

package loadgen

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// Report is the result of a run. Its JSON form is for scripts; durations are
// in milliseconds.
type Report struct {
	// Mode is "closed" or "open".
	Mode string `json:"mode"`
	Pool string `json:"pool"`
	// Clients is a closed loop's, Rate an open loop's.
	Clients int     `json:"clients,omitempty"`
	Rate    float64 `json:"rate,omitempty"`
	// ElapsedMS is from the first start to the last end.
	ElapsedMS float64 `json:"elapsed_ms"`
	// Cycles stages were started, Failed of them ended badly; Interrupted were
	// cut short by the end of the run and count in neither phase nor failure.
	Cycles      int64 `json:"cycles"`
	Failed      int64 `json:"failed"`
	Interrupted int64 `json:"interrupted,omitempty"`
	// PerSecond is the stages that ended well, a second.
	PerSecond float64 `json:"per_second"`
	// MostInFlight is how many stages were going at a time.
	MostInFlight int64 `json:"most_in_flight"`
	// Doubles is how many machines were given to two stages at a time; nil
	// unless that was checked.
	Doubles *int64  `json:"doubles,omitempty"`
	Phases  []Phase `json:"phases"`
	// Errors are counted by phase and text, the most frequent first.
	Errors []ErrorCount `json:"errors,omitempty"`
}

// Phase is the latencies of one kind of request that ended well.
type Phase struct {
	Name   string  `json:"name"`
	Count  int64   `json:"count"`
	Errors int64   `json:"errors"`
	MinMS  float64 `json:"min_ms"`
	MeanMS float64 `json:"mean_ms"`
	P50MS  float64 `json:"p50_ms"`
	P90MS  float64 `json:"p90_ms"`
	P99MS  float64 `json:"p99_ms"`
	P999MS float64 `json:"p999_ms"`
	MaxMS  float64 `json:"max_ms"`
}

// ErrorCount is one text of failure and how often it came.
type ErrorCount struct {
	Phase string `json:"phase"`
	Text  string `json:"text"`
	Count int64  `json:"count"`
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (h *histogram) phase(name string, errors int64) Phase {
	return Phase{
		Name: name, Count: int64(h.count.Load()), Errors: errors,
		MinMS: millis(h.smallest()), MeanMS: millis(h.mean()),
		P50MS: millis(h.quantile(0.5)), P90MS: millis(h.quantile(0.9)),
		P99MS: millis(h.quantile(0.99)), P999MS: millis(h.quantile(0.999)),
		MaxMS: millis(time.Duration(h.max.Load())),
	}
}

// Print writes the report for people.
func (r Report) Print(w io.Writer) error {
	var b strings.Builder
	what := fmt.Sprintf("closed loop, %d clients", r.Clients)
	if r.Mode == "open" {
		what = fmt.Sprintf("open loop, %g stages a second", r.Rate)
	}
	fmt.Fprintf(&b, "pool %s, %s: %d stages in %.1f s, %.1f a second, %d failed, at most %d at a time\n",
		r.Pool, what, r.Cycles, r.ElapsedMS/1000, r.PerSecond, r.Failed, r.MostInFlight)
	if r.Interrupted > 0 {
		fmt.Fprintf(&b, "%d stages were cut short by the end of the run\n", r.Interrupted)
	}
	if r.Doubles != nil {
		fmt.Fprintf(&b, "%d machines were given to two stages at a time\n", *r.Doubles)
	}
	b.WriteString("\n")
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "ms\tcount\terrors\tmin\tmean\tp50\tp90\tp99\tp99.9\tmax\t")
	for _, p := range r.Phases {
		fmt.Fprintf(t, "%s\t%d\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\n",
			p.Name, p.Count, p.Errors, p.MinMS, p.MeanMS, p.P50MS, p.P90MS, p.P99MS, p.P999MS, p.MaxMS)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Errors) > 0 {
		b.WriteString("\nerrors:\n")
	}
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "%8d  %s: %s\n", e.Count, e.Phase, e.Text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// maxTexts bounds the different texts that are kept.
const maxTexts = 50

// maxText bounds one of them.
const maxText = 400

// tally counts errors by phase and text.
type tally struct {
	mu     sync.Mutex
	counts map[ErrorCount]int64 // Count is zero in the keys
}

func (t *tally) add(phase, text string) {
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := ErrorCount{Phase: phase, Text: text}
	if _, known := t.counts[key]; !known && len(t.counts) >= maxTexts {
		key.Text = "other texts"
	}
	if t.counts == nil {
		t.counts = make(map[ErrorCount]int64)
	}
	t.counts[key]++
}

func (t *tally) sorted() []ErrorCount {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []ErrorCount
	for key, n := range t.counts {
		key.Count = n
		all = append(all, key)
	}
	slices.SortFunc(all, func(a, b ErrorCount) int {
		return cmp.Or(-cmp.Compare(a.Count, b.Count), strings.Compare(a.Phase, b.Phase), strings.Compare(a.Text, b.Text))
	})
	return all
}

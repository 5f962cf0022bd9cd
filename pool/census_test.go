package pool

import (
	"slices"
	"testing"
	"time"
)

func TestCensus(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	lives := func(name string, beat int) Lifetime {
		return Lifetime{Incarnation: name, To: at.Add(time.Duration(beat) * time.Second)}
	}
	for _, tc := range []struct {
		name  string
		looks [][]Lifetime
		want  []string
	}{
		{"a run seen for the first time may live, however old its sign", [][]Lifetime{{lives("old", -9999)}}, []string{"me", "old"}},
		{"one that gives new signs lives, whatever its clock says", [][]Lifetime{
			{lives("b", -500)}, {lives("b", -490)}, {lives("b", -480)}, {lives("b", -470)}, {lives("b", -460)},
		}, []string{"me", "b"}},
		{"one without a new sign for two looks lives yet", [][]Lifetime{{lives("b", 0)}, {lives("b", 0)}, {lives("b", 0)}}, []string{"me", "b"}},
		{"after three it is dead", [][]Lifetime{{lives("b", 0)}, {lives("b", 0)}, {lives("b", 0)}, {lives("b", 0)}}, []string{"me"}},
		{"a late sign brings it back", [][]Lifetime{
			{lives("b", 0)}, {lives("b", 0)}, {lives("b", 0)}, {lives("b", 0)}, {lives("b", 1)},
		}, []string{"me", "b"}},
		{"oneself is never dead", [][]Lifetime{{lives("me", 0)}, {lives("me", 0)}, {lives("me", 0)}, {lives("me", 0)}}, []string{"me"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var c census
			var got []string
			for _, l := range tc.looks {
				got = c.look(l, "me")
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("living: %v, want %v", got, tc.want)
			}
		})
	}
}

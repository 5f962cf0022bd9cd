package agent

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJournalKeepsTheLastWordOnEachStep(t *testing.T) {
	t.Parallel()
	const journal = `{"step":1,"pid":0,"start":0,"marker":"DRONE_ENV=a"}
{"step":1,"pid":10,"start":7,"marker":"DRONE_ENV=a"}
{"step":2,"pid":0,"start":0,"marker":"DRONE_ENV=b"}
nonsense
{"step":3,"pid":12,"start":9,"marker":"DRONE_ENV=c"}
{"step":3,"gone":true,"pid":0,"start":0,"marker":""}
{"step":4,"pid":13,"sta`
	got := readJournal([]byte(journal))
	slices.SortFunc(got, func(a, b target) int { return b.PID - a.PID })
	want := []target{{PID: 10, Start: 7, Marker: "DRONE_ENV=a"}, {Marker: "DRONE_ENV=b"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(target{})); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
}

func FuzzReadJournal(f *testing.F) {
	f.Add([]byte("{\"step\":1,\"pid\":10}\n{\"step\":1,\"gone\":true}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if got := readJournal(text); len(got) > len(text) {
			t.Errorf("%d targets", len(got))
		}
	})
}

package pool

import (
	"math/rand/v2"
	"testing"
)

// shareOneByOne is share as it is meant: place by place.
func shareOneByOne(inTurn []*tally, places int) {
	missing := func(t *tally) int { return t.target.Min - t.free() - t.refill }
	for ; places > 0; places-- {
		var worst *tally
		for _, t := range inTurn {
			if missing(t) > 0 && t.room > t.refill && (worst == nil || missing(t)*worst.target.Min > missing(worst)*t.target.Min) {
				worst = t
			}
		}
		if worst == nil {
			return
		}
		worst.refill++
	}
}

func TestSharesAreThoseOfGivingPlacesOneByOne(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		most := 1 + r.IntN(60)
		var fast, slow []*tally
		for range r.IntN(8) {
			x := tally{target: flavourTarget{Min: r.IntN(most)}, warm: r.IntN(most), room: r.IntN(most)}
			if r.IntN(3) > 0 {
				x.room = noBound
			}
			a, b := x, x
			fast, slow = append(fast, &a), append(slow, &b)
		}
		places := r.IntN(3 * most)
		share(fast, places)
		shareOneByOne(slow, places)
		for i := range fast {
			if fast[i].refill != slow[i].refill {
				t.Fatalf("seed %d: %d places: flavour %d of %d gets %d, want %d", seed, places, i, len(fast), fast[i].refill, slow[i].refill)
			}
		}
	}
}

package fakecloud

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// Dice draws what is left to chance in a fake, each by what it is for, so that
// equal seeds give equal clouds however their calls interleave.
type Dice uint64

// Between is a duration from least up to, not including, most (least, where
// that is not more), drawn for the parts.
func (d Dice) Between(least, most time.Duration, parts ...any) time.Duration {
	if most <= least {
		return least
	}
	h := fnv.New64a()
	_ = binary.Write(h, binary.LittleEndian, uint64(d))
	fmt.Fprint(h, parts...)
	return least + time.Duration(rand.New(rand.NewPCG(h.Sum64(), uint64(d))).Int64N(int64(most-least)))
}

package logservice

import (
	"bytes"
	"fmt"
	"time"
)

const (
	// maxHistory bounds the lines that are kept, as they are on the wire, in bytes.
	maxHistory = 5 << 20
	// noteRoom is kept free for a note on lines that are missing.
	noteRoom = 256
	// maxKept is what lines may take of that.
	maxKept = maxHistory - noteRoom
)

// notePrefix begins lines that nobody has printed.
const notePrefix = "[runner-agent] "

// history is the newest lines of a log in their form on the wire: what is to be
// uploaded at the end, and a part of it not yet given to the live stream. The
// zero value is an empty log.
type history struct {
	text  []byte // whole lines
	start int    // text before it is dropped and not yet overwritten
	// count is how many lines there ever were: the position of the next one.
	count   int
	dropped int // of them, from the oldest on

	unsent int // text from here on was not sent live
	// lost is how many lines before that the live stream lacks since the last
	// note, lostAt the position of the newest of them.
	lost, lostAt int
}

// add appends a line.
func (h *history) add(text []byte, newline bool, stamp []byte) {
	h.text = appendLine(h.text, h.count, text, newline, stamp)
	h.count++
	for len(h.text)-h.start > maxKept {
		h.drop()
	}
	if h.start > maxKept/2 {
		n := copy(h.text, h.text[h.start:])
		h.text = h.text[:n]
		h.unsent -= h.start
		h.start = 0
	}
}

// drop forgets the oldest line.
func (h *history) drop() {
	missed := h.start >= h.unsent
	h.start += bytes.IndexByte(h.text[h.start:], '\n') + 1
	if missed {
		h.unsent = h.start
		h.lost++
		h.lostAt = h.dropped
	}
	h.dropped++
}

// batch is lines for the live stream.
type batch struct {
	lines []byte // a copy, each line ending in a newline
	count int
	// lost is the number of lines that are missing before these, lostAt the
	// position of the newest.
	lost, lostAt int
}

// take returns what the live stream does not have yet. It counts as sent.
func (h *history) take() batch {
	if h.unsent == len(h.text) {
		return batch{} // what is missing is told before the next line
	}
	b := batch{lines: bytes.Clone(h.text[h.unsent:]), lost: h.lost, lostAt: h.lostAt}
	b.count = bytes.Count(b.lines, []byte{'\n'})
	h.unsent = len(h.text)
	h.lost = 0
	return b
}

// missed takes back what take has returned: the service did not get it. Its
// lines stay for the upload; the live stream tells that they are missing.
func (h *history) missed(b batch, last int) {
	h.lost += b.lost + b.count
	h.lostAt = max(h.lostAt, last)
}

// array is a batch as the body of a write: a JSON array and a newline. It is
// empty if there is nothing to send.
func (b batch) array(now time.Time) []byte {
	if len(b.lines) == 0 {
		return nil
	}
	body := make([]byte, 0, len(b.lines)+noteRoom)
	body = append(body, '[')
	if b.lost > 0 {
		body = append(body, note(b.lostAt, now, "%d lines are missing here: the log service did not take them in time", b.lost)...)
		body[len(body)-1] = ','
	}
	begin := len(body)
	body = append(body, b.lines...)
	for i := begin; i < len(body); i++ {
		if body[i] == '\n' {
			body[i] = ','
		}
	}
	body[len(body)-1] = ']'
	return append(body, '\n')
}

// blob is the log as it is uploaded: one line after the other, the newest
// maxHistory bytes of it.
func (h *history) blob(now time.Time) []byte {
	kept := h.text[h.start:]
	if h.dropped == 0 {
		return kept
	}
	first := note(h.dropped-1, now, "the first %d lines are left out: of a long log the newest %d MiB are kept", h.dropped, maxHistory>>20)
	return append(first, kept...)
}

func note(pos int, now time.Time, format string, args ...any) []byte {
	return appendLine(nil, pos, fmt.Appendf([]byte(notePrefix), format, args...), true, stamp(now))
}

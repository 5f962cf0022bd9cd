package containers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The streams of a frame.
const (
	frameStdin  = 0
	frameStdout = 1
	frameStderr = 2
	frameSystem = 3
)

// frameHeader is how long the header of a frame is: the stream, three zeros, and
// the length.
const frameHeader = 8

// received counts the bytes of each stream that have gone into an output, so
// that a stream that is cut off can be gone on with from the daemon's own copy.
type received [2]int64

// errCut is the sentinel of a stream that ended within a frame.
var errCut = errors.New("stream was cut off within a frame")

// copyFrames copies the frames of r to w until r ends, but for what was received
// before: skip bytes of each stream. It returns what was received then. Memory
// is bounded whatever the frames' lengths.
func copyFrames(w io.Writer, r io.Reader, have received) (received, error) {
	var skipped received
	buf := make([]byte, 32<<10)
	var header [frameHeader]byte
	for {
		if _, err := io.ReadFull(r, header[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return have, nil
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return have, errCut
			}
			return have, err
		}
		stream := 0
		switch header[0] {
		case frameStdin, frameStdout:
		case frameStderr:
			stream = 1
		case frameSystem:
			text, err := io.ReadAll(io.LimitReader(r, min(int64(binary.BigEndian.Uint32(header[4:])), 4<<10)))
			return have, errors.Join(fmt.Errorf("the daemon says: %s", text), err)
		default:
			return have, fmt.Errorf("stream has a frame of unknown kind %d", header[0])
		}
		for left := int64(binary.BigEndian.Uint32(header[4:])); left > 0; {
			n, err := io.ReadAtLeast(r, buf[:min(left, int64(len(buf)))], 1)
			left -= int64(n)
			deliver(w, buf[:n], &skipped[stream], &have[stream])
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = errCut
				}
				return have, err
			}
		}
	}
}

// copyPlain is copyFrames for a container with a terminal, which has one stream
// without frames.
func copyPlain(w io.Writer, r io.Reader, have received) (received, error) {
	var skipped int64
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		deliver(w, buf[:n], &skipped, &have[0])
		if errors.Is(err, io.EOF) {
			return have, nil
		}
		if err != nil {
			return have, err
		}
	}
}

// beginning keeps the first bytes of what is written through it.
type beginning struct {
	to   io.Writer
	mu   sync.Mutex
	kept []byte
}

// beginningBytes is enough for what a runtime says when it cannot run a program.
const beginningBytes = 512

func (b *beginning) Write(p []byte) (int, error) {
	b.mu.Lock()
	if room := beginningBytes - len(b.kept); room > 0 {
		b.kept = append(b.kept, p[:min(room, len(p))]...)
	}
	b.mu.Unlock()
	return b.to.Write(p)
}

func (b *beginning) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.kept)
}

// deliver writes the part of p that was not received before. In the copy so far
// there were *at bytes of its stream, of which have are in the output.
func deliver(w io.Writer, p []byte, at, have *int64) {
	if old := min(*have-*at, int64(len(p))); old > 0 {
		p = p[old:]
		*at += old
	}
	if len(p) == 0 {
		return
	}
	_, _ = w.Write(p) // an output never fails
	*at += int64(len(p))
	*have += int64(len(p))
}

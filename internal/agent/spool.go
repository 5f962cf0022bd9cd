package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
)

// tailBytes is how much of the end of a step's output is kept when the output
// is longer than the file may be: the end is where errors are.
const tailBytes = 64 << 10

// errOffset is the sentinel of an offset that is not in the output.
var errOffset = errors.New("offset out of bounds")

// spool keeps one step's output: the first limit bytes in a file; then, if
// there is more, a note, and after the end the last bytes. It only ever grows
// at its end, so a byte offset means the same for ever. One writer, any number
// of readers, none of which can hold up the writer.
type spool struct {
	path  string
	limit int64
	log   *slog.Logger
	file  *os.File // the writer's

	mu      sync.Mutex
	size    int64         // bytes in the file
	after   []byte        // what follows the file's bytes
	ended   bool          // nothing will be added
	changed chan struct{} // closed and replaced when any of these change

	dropped int64 // writer only: bytes not in the file
	tail    []byte
}

func newSpool(path string, limit int64, log *slog.Logger) (*spool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create output file: %w", err)
	}
	return &spool{path: path, limit: limit, log: log, file: f, changed: make(chan struct{})}, nil
}

// Write adds p. It never fails: what the disk does not take is counted and
// noted in the output, because a step must not suffer from its log.
func (s *spool) Write(p []byte) (int, error) {
	all := len(p)
	if s.dropped == 0 {
		fits := p[:min(int64(len(p)), s.limit-s.size)]
		n, err := s.file.Write(fits)
		s.grow(func() { s.size += int64(n) })
		p = p[n:]
		if len(p) == 0 {
			return all, nil
		}
		note := fmt.Sprintf("\n[runner-agent] The output is longer than %d bytes. What follows is left out here; its last part comes when the step ends.\n", s.limit)
		if err != nil {
			s.log.Warn("step output cannot be written", "path", s.path, "err", err)
			note = fmt.Sprintf("\n[runner-agent] The output cannot be kept (%v). What follows is left out here; its last part comes when the step ends.\n", err)
		}
		s.grow(func() { s.after = []byte(note) })
	}
	s.dropped += int64(len(p))
	s.tail = append(s.tail, p...)
	if extra := len(s.tail) - tailBytes; extra > tailBytes {
		s.tail = append(s.tail[:0], s.tail[extra:]...)
	}
	return all, nil
}

// last returns the end of what was written, at most n bytes of it and at most
// tailBytes. Only for the writer, before end.
func (s *spool) last(n int) []byte {
	if s.dropped > 0 {
		return slices.Clone(s.tail[max(0, len(s.tail)-n):])
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil // nobody depends on it
	}
	defer f.Close()
	text := make([]byte, min(int64(n), s.size))
	read, _ := f.ReadAt(text, s.size-int64(len(text))) // likewise
	return text[:read]
}

// end says that nothing follows. It frees what only the writer needs.
func (s *spool) end() {
	if err := s.file.Close(); err != nil {
		s.log.Warn("step output cannot be closed", "path", s.path, "err", err)
	}
	tail := s.tail[max(0, len(s.tail)-tailBytes):]
	s.grow(func() {
		if s.dropped > 0 {
			s.after = fmt.Appendf(s.after, "[runner-agent] %d bytes left out. The last %d bytes:\n", s.dropped-int64(len(tail)), len(tail))
			s.after = append(s.after, tail...)
		}
		s.ended = true
	})
	s.tail = nil
}

func (s *spool) grow(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

// view is the state of a spool at one moment.
type view struct {
	size    int64
	after   []byte
	ended   bool
	changed <-chan struct{}
}

func (v view) total() int64 { return v.size + int64(len(v.after)) }

func (s *spool) view() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	// after is only ever appended to, so this slice stays as it is.
	return view{size: s.size, after: s.after, ended: s.ended, changed: s.changed}
}

// check returns an error that wraps errOffset if offset is not in the output
// as it is now. The place after the last byte is.
func (s *spool) check(offset int64) error {
	if total := s.view().total(); offset < 0 || offset > total {
		return &offsetError{offset: offset, total: total}
	}
	return nil
}

// stream writes the output to w from offset on, with follow also what is added
// until the end, calling flush after each write. It returns when the output has
// ended, ctx is done, or w fails.
func (s *spool) stream(ctx context.Context, w io.Writer, offset int64, follow bool, flush func()) error {
	if err := s.check(offset); err != nil {
		return err
	}
	f, err := os.Open(s.path)
	if err != nil {
		return fmt.Errorf("read step output: %w", err)
	}
	defer f.Close()
	buf := make([]byte, 32<<10)
	for {
		v := s.view()
		for offset < v.total() {
			chunk, err := v.chunk(f, buf, offset)
			if err != nil {
				return fmt.Errorf("read step output: %w", err)
			}
			if _, err := w.Write(chunk); err != nil {
				return fmt.Errorf("send step output: %w", err)
			}
			offset += int64(len(chunk))
			flush()
		}
		if v.ended || !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-v.changed:
		}
	}
}

// chunk returns a piece that begins at offset, at most buf long.
func (v view) chunk(f *os.File, buf []byte, offset int64) ([]byte, error) {
	if offset >= v.size {
		rest := v.after[offset-v.size:]
		return rest[:min(len(rest), len(buf))], nil
	}
	want := min(int64(len(buf)), v.size-offset)
	n, err := f.ReadAt(buf[:want], offset)
	if n > 0 {
		return buf[:n], nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return nil, err
}

// remove deletes the file. Readers that have it open read on where the
// operating system lets them.
func (s *spool) remove() {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Warn("step output cannot be removed", "path", s.path, "err", err)
	}
}

// offsetError has the text callers know.
type offsetError struct{ offset, total int64 }

func (e *offsetError) Error() string {
	return fmt.Sprintf("error: index 'offset' is out of bounds Offset=%d Total=%d", e.offset, e.total)
}

func (e *offsetError) Is(target error) bool { return target == errOffset }

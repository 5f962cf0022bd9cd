package guestlink

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// entropySize is what a request brings the machine, in bytes: twice what the
// kernel's generator holds.
const entropySize = 64

// askAgain is the time between two questions to a machine that has its
// identity and is still starting.
const askAgain = 20 * time.Millisecond

// ErrRefused is wrapped when the machine answered that it will not or cannot
// do what it was asked, for example because it has another identity.
var ErrRefused = errors.New("machine refused")

// ErrTooLong is wrapped when a message is larger than [MaxMessage].
var ErrTooLong = errors.New("message too long")

// Host is the host's end of one connection to one machine. A machine serves
// one connection at a time, so it should be closed soon. Its methods may be
// called concurrently; they run one after the other. After an error the
// connection is of no more use, except after [ErrRefused].
type Host struct {
	conn net.Conn
	in   *bufio.Reader
	now  func() time.Time

	mu  sync.Mutex
	seq uint64
}

// NewHost begins a conversation on conn, which it owns from now on.
func NewHost(conn net.Conn) *Host {
	var start [8]byte
	_, _ = rand.Read(start[:]) // never fails, see crypto/rand
	return &Host{
		conn: conn,
		in:   bufio.NewReaderSize(conn, 64<<10),
		now:  time.Now,
		// Half the space is left to count in.
		seq: binary.LittleEndian.Uint64(start[:]) >> 1,
	}
}

// Close ends the connection; the machine goes on.
func (h *Host) Close() error { return h.conn.Close() }

// Ping asks for the state. It waits until the machine runs a program that
// answers, so a ctx without an end waits for ever on a machine that hangs.
func (h *Host) Ping(ctx context.Context) (Response, error) {
	return h.do(ctx, Request{Op: OpPing})
}

// Wake puts the machine's clock right and gives it fresh entropy.
func (h *Host) Wake(ctx context.Context) (Response, error) {
	return h.do(ctx, Request{Op: OpWake})
}

// Flush has the machine write what it keeps in memory to its disks, and returns
// when it has.
func (h *Host) Flush(ctx context.Context) error {
	_, err := h.do(ctx, Request{Op: OpFlush})
	return err
}

// Identify gives the machine its identity, entropy and clock and returns when
// its agent listens. Repeating it with the same identity is harmless.
func (h *Host) Identify(ctx context.Context, id Identity) (Response, error) {
	res, err := h.do(ctx, Request{Op: OpIdentify, Identity: &id})
	for err == nil && res.State == StateStarting {
		timer := time.NewTimer(askAgain)
		select {
		case <-ctx.Done():
			timer.Stop()
			return res, context.Cause(ctx)
		case <-timer.C:
		}
		res, err = h.do(ctx, Request{Op: OpPing})
	}
	if err != nil {
		return res, err
	}
	if res.State != StateReady || res.Machine != id.Machine {
		return res, fmt.Errorf("%w: state %q as machine %q, want %q as %q", ErrRefused, res.State, res.Machine, StateReady, id.Machine)
	}
	if res.Disks != len(id.Disks) {
		return res, fmt.Errorf("%w: it has mounted %d of its %d persistent disks: the agent in its image (version %q) is of another time than this runner; build the image anew",
			ErrRefused, res.Disks, len(id.Disks), res.Version)
	}
	return res, nil
}

// do sends one request and waits for its answer. Answers to other requests
// are left over from an earlier connection and dropped, and so is what is no
// message at all.
func (h *Host) do(ctx context.Context, req Request) (Response, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return Response{}, context.Cause(ctx)
	}
	h.seq++
	req.Seq = h.seq
	if req.Op == OpIdentify || req.Op == OpWake {
		req.Entropy = make([]byte, entropySize)
		_, _ = rand.Read(req.Entropy) // never fails, see crypto/rand
		req.Now = h.now().UTC()
	}
	line, err := json.Marshal(req)
	if err != nil {
		return Response{}, fmt.Errorf("%s: %w", req.Op, err)
	}
	if len(line)+2 > MaxMessage {
		return Response{}, fmt.Errorf("%s: %w: %d bytes, at most %d", req.Op, ErrTooLong, len(line), MaxMessage-2)
	}
	stop := context.AfterFunc(ctx, func() { _ = h.conn.SetDeadline(time.Unix(1, 0)) }) // wakes read and write
	defer stop()
	res, err := h.exchange(append(append([]byte{'\n'}, line...), '\n'), req.Seq)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return Response{}, fmt.Errorf("%s: %w", req.Op, err)
	}
	if res.Error != "" {
		return res, fmt.Errorf("%s: %w: %s", req.Op, ErrRefused, res.Error)
	}
	return res, nil
}

func (h *Host) exchange(message []byte, seq uint64) (Response, error) {
	if _, err := h.conn.Write(message); err != nil {
		return Response{}, err
	}
	for {
		line, err := readLine(h.in)
		if err != nil {
			return Response{}, err
		}
		if res, ok := parseResponse(line); ok && res.Seq == seq {
			return res, nil
		}
	}
}

// parseResponse reads one line; false if it is none of ours.
func parseResponse(line []byte) (Response, bool) {
	var res Response
	err := json.Unmarshal(line, &res)
	return res, err == nil && res.Seq != 0
}

// readLine reads up to the next line feed, at most MaxMessage bytes.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > MaxMessage {
			return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLong, MaxMessage)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// Package qmp speaks QEMU's machine protocol: lines of JSON over a unix socket.
// It has what driving a machine takes (commands, errors, passing a file) and
// knows nothing of what the commands mean.
//
// A monitor serves one client at a time. A second connection is accepted by the
// kernel and waits, without a word, until the first is closed.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine bounds one message of QEMU in bytes; the longest we ask for has a
// few thousand.
const maxLine = 4 << 20

// maxStale bounds how many messages for a client before this one are passed over.
const maxStale = 1000

// Error is QEMU's refusal of a command.
type Error struct {
	// Class is QEMU's word for the kind, nearly always "GenericError".
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error gives QEMU's own words.
func (e *Error) Error() string { return e.Desc }

// Client is one connection to a monitor. Its methods may be called
// concurrently; commands run one after the other. After an error that is no
// [*Error] the connection is of no more use.
type Client struct {
	conn *net.UnixConn
	in   *bufio.Reader

	mu  sync.Mutex
	seq uint64
}

// New greets the monitor at the other end of conn, which the client owns from
// now on, also when New fails. It returns when the monitor has answered, or
// when ctx ends: while another client is connected, nothing comes.
func New(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	c := &Client{conn: conn, in: bufio.NewReader(conn)}
	err := c.guard(ctx, func() error {
		for range maxStale {
			// What QEMU had to say to a client that gave up comes first.
			m, err := c.read()
			if err != nil || len(m.Greeting) > 0 {
				return err
			}
			if m.Event == "" && m.ID == nil {
				break
			}
		}
		return errors.New("no greeting")
	})
	if err == nil {
		err = c.Execute(ctx, "qmp_capabilities", nil, nil)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to monitor: %w", err), conn.Close())
	}
	return c, nil
}

// Close ends the connection; the machine goes on.
func (c *Client) Close() error { return c.conn.Close() }

// Execute runs a command and decodes its answer into out, if not nil. A refusal
// is an [*Error].
func (c *Client) Execute(ctx context.Context, command string, args, out any) error {
	return c.execute(ctx, command, args, nil, out)
}

// SendFile hands QEMU a descriptor of f, to be called name in later commands
// ("fd:name"). The caller keeps f.
func (c *Client) SendFile(ctx context.Context, name string, f *os.File) error {
	return c.execute(ctx, "getfd", map[string]string{"fdname": name}, f, nil)
}

// request is one command on the wire.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// message is anything QEMU says: the greeting, an answer, an error or an event.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Err      *Error          `json:"error"`
	Event    string          `json:"event"`
	ID       *uint64         `json:"id"`
}

func (c *Client) execute(ctx context.Context, command string, args any, f *os.File, out any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	line, err := json.Marshal(request{Execute: command, Arguments: args, ID: c.seq})
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	var answer message
	err = c.guard(ctx, func() error {
		if err := c.write(append(line, '\n'), f); err != nil {
			return err
		}
		for {
			answer, err = c.read()
			// Events and answers to commands whose caller gave up have
			// another id or none; an error without id is about our syntax.
			if err != nil || answer.ID != nil && *answer.ID == c.seq || answer.ID == nil && answer.Err != nil {
				return err
			}
		}
	})
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", command, err)
	case answer.Err != nil:
		return fmt.Errorf("%s: %w", command, answer.Err)
	case out != nil:
		if err := json.Unmarshal(answer.Return, out); err != nil {
			return fmt.Errorf("%s: answer: %w", command, err)
		}
	}
	return nil
}

// guard runs a conversation that ends with ctx.
func (c *Client) guard(ctx context.Context, talk func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) }) // wakes read and write
	defer stop()
	err := talk()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Client) write(line []byte, f *os.File) error {
	if f == nil {
		_, err := c.conn.Write(line)
		return err
	}
	n, _, err := c.conn.WriteMsgUnix(line, unix.UnixRights(int(f.Fd())), nil)
	if err == nil && n < len(line) {
		_, err = c.conn.Write(line[n:])
	}
	return err
}

func (c *Client) read() (message, error) {
	var line []byte
	for {
		part, err := c.in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return message{}, fmt.Errorf("message of more than %d bytes", maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return message{}, fmt.Errorf("monitor closed: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return message{}, err
		}
		return decode(line)
	}
}

func decode(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("message of monitor: %w", err)
	}
	return m, nil
}

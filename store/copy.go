package store

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"time"
)

// CopyVersion is the version of the form copies are written in.
const CopyVersion = 1

// copyFormat begins every copy, so that another file is told from one.
const copyFormat = "drone-runner-aws store copy"

// maxCopyHeader bounds the first line, which is read before anything is known.
const maxCopyHeader = 1 << 20

// ErrCopy is a file that is no copy of a store, or a damaged one.
var ErrCopy = errors.New("not a sound copy of a store")

// CopyInfo is what a copy says of itself in its first line.
type CopyInfo struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	// Dialect is where it was made: "sqlite" or "postgres". It can be restored
	// into either.
	Dialect string `json:"dialect"`
	// Schema is the version of the tables.
	Schema int64 `json:"schema"`
	// Controller is the owner of the machines in it.
	Controller string `json:"controller"`
	// SealKey is the id of the key its secrets are sealed with, "" if there are
	// none.
	SealKey string    `json:"seal_key"`
	Made    time.Time `json:"made"`
	// Rows is how many there are of each table.
	Rows map[string]int64 `json:"rows"`
}

// A copy is one line of JSON, the CopyInfo, and then a gzip stream: for each
// table a line with its name and columns and a line of values for each row, and
// at the end a line with the SHA-256 of all that went before, the first line
// included.

type copyLine struct {
	Table   string   `json:"table,omitempty"`
	Columns []string `json:"columns,omitempty"`
	Row     []any    `json:"row,omitempty"`
	SHA256  string   `json:"sha256,omitempty"`
}

// copyBlob is a value of bytes; texts and integers are themselves.
type copyBlob struct {
	Base64 string `json:"base64"`
}

// CopyWriter writes a copy. It is used by one goroutine.
type CopyWriter struct {
	info    CopyInfo
	zip     *gzip.Writer
	sum     hash.Hash
	table   string
	columns int
	rows    map[string]int64
}

// NewCopyWriter writes the first line of a copy; Format and Version are set.
func NewCopyWriter(w io.Writer, info CopyInfo) (*CopyWriter, error) {
	info.Format, info.Version = copyFormat, CopyVersion
	c := &CopyWriter{info: info, zip: gzip.NewWriter(w), sum: sha256.New(), rows: map[string]int64{}}
	line, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	line = append(line, '\n')
	c.sum.Write(line) // never fails
	_, err = w.Write(line)
	return c, err
}

// Info is what the first line says.
func (c *CopyWriter) Info() CopyInfo { return c.info }

// Table begins a table.
func (c *CopyWriter) Table(name string, columns []string) error {
	c.table, c.columns = name, len(columns)
	c.rows[name] = 0
	return c.line(copyLine{Table: name, Columns: columns})
}

// Row writes a row of the present table: int64, string and []byte values.
func (c *CopyWriter) Row(values []any) error {
	if len(values) != c.columns {
		return fmt.Errorf("table %s: a row of %d values for %d columns", c.table, len(values), c.columns)
	}
	row := make([]any, len(values))
	for k, v := range values {
		switch v := v.(type) {
		case int64, string:
			row[k] = v
		case []byte:
			row[k] = copyBlob{base64.StdEncoding.EncodeToString(v)}
		default:
			return fmt.Errorf("table %s: a value of type %T", c.table, v)
		}
	}
	c.rows[c.table]++
	return c.line(copyLine{Row: row})
}

func (c *CopyWriter) line(l copyLine) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return err
	}
	c.sum.Write(b.Bytes()) // never fails
	_, err := c.zip.Write(b.Bytes())
	return err
}

// Close ends the copy. The rows written must be those the first line tells.
func (c *CopyWriter) Close() error {
	if !maps.Equal(c.rows, c.info.Rows) {
		return fmt.Errorf("rows written are %v, not %v", c.rows, c.info.Rows)
	}
	if err := c.line(copyLine{SHA256: hex.EncodeToString(c.sum.Sum(nil))}); err != nil {
		return err
	}
	return c.zip.Close()
}

// CopyReader reads a copy. It is used by one goroutine.
type CopyReader struct {
	Info CopyInfo
	in   *bufio.Reader
	sum  hash.Hash
}

// ReadCopy reads the first line of a copy. Errors wrap ErrCopy, or are the
// reader's own.
func ReadCopy(r io.Reader) (*CopyReader, error) {
	raw := bufio.NewReader(r)
	line, err := readLine(raw, maxCopyHeader)
	if err != nil {
		return nil, err
	}
	c := &CopyReader{sum: sha256.New()}
	if json.Unmarshal(line, &c.Info) != nil || c.Info.Format != copyFormat {
		return nil, fmt.Errorf("%w: it does not begin like one", ErrCopy)
	}
	if c.Info.Version != CopyVersion {
		return nil, fmt.Errorf("%w: its form has version %d, this program knows %d; use the runner that wrote it", ErrCopy, c.Info.Version, CopyVersion)
	}
	c.sum.Write(line) // never fails
	zip, err := gzip.NewReader(raw)
	if err != nil {
		return nil, damaged(err)
	}
	c.in = bufio.NewReader(zip)
	return c, nil
}

// readLine reads a line with its end; limit 0 is none.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case limit > 0 && len(line) > limit:
			return nil, fmt.Errorf("%w: it does not begin like one", ErrCopy)
		case err == nil:
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
		default:
			return nil, damaged(err)
		}
	}
}

// damaged tells a file that is cut short or changed from one that cannot be read.
func damaged(err error) error {
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it is cut short", ErrCopy)
	case corrupt, errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader):
		return fmt.Errorf("%w: it is damaged (%w)", ErrCopy, err)
	default:
		return err
	}
}

// Rows calls table for each table and row for each of its rows, and then checks
// that all that was written was read: before it returns nil nothing that was
// given may be relied on. It is called once.
func (c *CopyReader) Rows(table func(name string, columns []string) error, row func(values []any) error) error {
	rows := map[string]int64{}
	name, columns := "", 0
	for {
		line, err := readLine(c.in, 0)
		if err != nil {
			return err
		}
		sum := hex.EncodeToString(c.sum.Sum(nil))
		c.sum.Write(line) // never fails
		var l copyLine
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.UseNumber()
		if err := dec.Decode(&l); err != nil {
			return fmt.Errorf("%w: it is damaged (%w)", ErrCopy, err)
		}
		switch {
		case l.SHA256 != "":
			if l.SHA256 != sum {
				return fmt.Errorf("%w: it is damaged (the checksum is another)", ErrCopy)
			}
			if !maps.Equal(rows, c.Info.Rows) {
				return fmt.Errorf("%w: it has %v rows, not the %v it tells", ErrCopy, rows, c.Info.Rows)
			}
			// What follows would be no part of it; this reads gzip's own sum.
			if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
				return fmt.Errorf("%w: something follows its end", ErrCopy)
			}
			return nil
		case l.Table != "":
			name, columns = l.Table, len(l.Columns)
			rows[name] = 0
			if err := table(name, l.Columns); err != nil {
				return err
			}
		default:
			if name == "" || len(l.Row) != columns {
				return fmt.Errorf("%w: it is damaged (a row of %d values for %d columns)", ErrCopy, len(l.Row), columns)
			}
			rows[name]++
			if err := values(l.Row); err != nil {
				return err
			}
			if err := row(l.Row); err != nil {
				return err
			}
		}
	}
}

// values makes of a row's JSON what was written.
func values(row []any) error {
	for k, v := range row {
		var err error
		switch v := v.(type) {
		case string:
		case json.Number:
			row[k], err = v.Int64()
		case map[string]any:
			text, _ := v["base64"].(string)
			row[k], err = base64.StdEncoding.DecodeString(text)
		default:
			err = fmt.Errorf("a value of type %T", v)
		}
		if err != nil {
			return fmt.Errorf("%w: it is damaged (%w)", ErrCopy, err)
		}
	}
	return nil
}

// CheckCopy reads a copy to its end and returns what it says of itself.
func CheckCopy(r io.Reader) (CopyInfo, error) {
	c, err := ReadCopy(r)
	if err != nil {
		return CopyInfo{}, err
	}
	nothing := func(string, []string) error { return nil }
	return c.Info, c.Rows(nothing, func([]any) error { return nil })
}

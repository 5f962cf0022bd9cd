package logservice

import (
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	// maxLine is how long the text of a line may be, in bytes; cutMark comes
	// after one that was longer.
	maxLine = 71_680
	cutMark = "... (log line truncated)"
)

// The pieces of a line between its values. The order of the members is fixed.
const (
	lineBegin = `{"level":"info","pos":`
	lineOut   = `,"out":`
	lineTime  = `,"time":"`
	lineEnd   = `","args":null}` + "\n"
)

// stamp is a time as lines have it.
func stamp(at time.Time) []byte { return at.AppendFormat(nil, time.RFC3339Nano) }

// appendLine appends one line of a log in its form on the wire, which ends in
// the only newline it has.
func appendLine(dst []byte, pos int, text []byte, newline bool, stamp []byte) []byte {
	dst = append(dst, lineBegin...)
	dst = strconv.AppendInt(dst, int64(pos), 10)
	dst = append(dst, lineOut...)
	dst = appendText(dst, text, newline)
	dst = append(dst, lineTime...)
	dst = append(dst, stamp...)
	return append(dst, lineEnd...)
}

// appendText appends text, and a newline where that is wanted, as encoding/json
// writes a string: <, > and & escaped, bytes that are no text replaced.
func appendText(dst, text []byte, newline bool) []byte {
	begin := len(dst)
	dst = append(dst, '"')
	plain := 0 // text[plain:i] stands for itself
	for i, c := range text {
		if c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(string(text)) // a string always has a form
			dst = append(dst[:begin], quoted[:len(quoted)-1]...)
			plain = len(text)
			break
		}
		if e := escapes[c]; e != "" {
			dst = append(append(dst, text[plain:i]...), e...)
			plain = i + 1
		}
	}
	dst = append(dst, text[plain:]...)
	if newline {
		dst = append(dst, `\n`...)
	}
	return append(dst, '"')
}

// escapes are the forms of ASCII characters that do not stand for themselves.
var escapes = [utf8.RuneSelf]string{
	0x00: `\u0000`, 0x01: `\u0001`, 0x02: `\u0002`, 0x03: `\u0003`, 0x04: `\u0004`, 0x05: `\u0005`, 0x06: `\u0006`, 0x07: `\u0007`,
	0x08: `\b`, 0x09: `\t`, 0x0a: `\n`, 0x0b: `\u000b`, 0x0c: `\f`, 0x0d: `\r`, 0x0e: `\u000e`, 0x0f: `\u000f`,
	0x10: `\u0010`, 0x11: `\u0011`, 0x12: `\u0012`, 0x13: `\u0013`, 0x14: `\u0014`, 0x15: `\u0015`, 0x16: `\u0016`, 0x17: `\u0017`,
	0x18: `\u0018`, 0x19: `\u0019`, 0x1a: `\u001a`, 0x1b: `\u001b`, 0x1c: `\u001c`, 0x1d: `\u001d`, 0x1e: `\u001e`, 0x1f: `\u001f`,
	'"': `\"`, '\\': `\\`, '<': `\u003c`, '>': `\u003e`, '&': `\u0026`,
}

// cutText is what a line shows of a text that is longer than maxLine; no
// character is cut in two.
func cutText(text []byte) []byte {
	end := maxLine
	for end > maxLine-utf8.UTFMax && !utf8.RuneStart(text[end]) {
		end--
	}
	return append(text[:end:end], cutMark...)
}

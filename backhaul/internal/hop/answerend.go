package hop

import (
	"bytes"
)

// AnswerEnd finds the end of an answer over HTTP/1.1 in the bytes from a machine, whoever reads
// them: net/http does not say how much of an answer is still to come once its client has left. It
// looks only at framing, and does not validate an answer: one that net/http rejects has ended the
// connection. The zero value waits for a head.
type AnswerEnd struct {
	at      answerPart
	status  int
	chunked bool
	sized   bool
	left    int64 // of a body or a chunk

	// line is the beginning of a line that arrived in pieces, of n bytes.
	line [96]byte
	n    int
}

type answerPart uint8

const (
	tailStatus   answerPart = iota // the first line of a head
	tailHead                       // the lines after it
	tailSized                      // a body of known length
	tailSize                       // the line before a chunk
	tailChunk                      // a chunk
	tailAfter                      // the empty line after it
	tailTrailers                   // the lines after the last chunk
	tailRest                       // a body that ends with the connection
	tailDone                       // the answer has ended, or is none that net/http would take
)

// Done reports whether the answer has ended.
func (t *AnswerEnd) Done() bool { return t.at == tailDone }

// Ends reports whether the end of the connection is the end of the answer.
func (t *AnswerEnd) Ends() bool { return t.at == tailRest }

// Feed takes in the next bytes. bodiless says that the request was a HEAD.
func (t *AnswerEnd) Feed(p []byte, bodiless bool) {
	for len(p) > 0 {
		switch t.at {
		case tailSized, tailChunk:
			n := min(t.left, int64(len(p)))
			p = p[n:]
			if t.left -= n; t.left > 0 {
				return
			}
			if t.at++; t.at == tailSize { // after a body of known length
				t.at = tailDone
			}
		case tailRest, tailDone:
			return
		default:
			i := bytes.IndexByte(p, '\n')
			if i < 0 {
				t.keep(p)
				return
			}
			line := p[:i]
			if t.n > 0 {
				t.keep(line)
				line = t.line[:min(t.n, len(t.line))]
			}
			cut := t.n > len(t.line)
			t.n = 0
			if !cut {
				line = bytes.TrimSuffix(line, []byte{'\r'})
			}
			t.next(line, cut, bodiless)
			p = p[i+1:]
		}
	}
}

// keep keeps the beginning of a line.
func (t *AnswerEnd) keep(p []byte) {
	if t.n < len(t.line) {
		copy(t.line[t.n:], p)
	}
	t.n += len(p)
}

// next takes in a line. cut says that p holds only its beginning.
func (t *AnswerEnd) next(line []byte, cut, bodiless bool) {
	switch t.at {
	case tailStatus:
		*t = AnswerEnd{at: tailHead, status: statusOf(line)}
		if t.status == 0 {
			t.at = tailDone
		}
	case tailHead:
		if len(line) == 0 {
			t.body(bodiless)
			return
		}
		t.header(line, cut)
	case tailSize:
		n, ok := hexadecimal(line)
		switch {
		case !ok:
			t.at = tailDone
		case n == 0:
			t.at = tailTrailers
		default:
			t.at, t.left = tailChunk, n
		}
	case tailAfter:
		if t.at = tailSize; len(line) > 0 {
			t.at = tailDone
		}
	case tailTrailers:
		if len(line) == 0 {
			t.at = tailDone
		}
	}
}

// header looks for the headers that say how the body ends.
func (t *AnswerEnd) header(line []byte, cut bool) {
	if c := line[0] | 0x20; c != 'c' && c != 't' { // most lines
		return
	}
	name, value, ok := bytes.Cut(line, []byte{':'})
	switch {
	case !ok:
	case bytes.EqualFold(name, []byte("Content-Length")):
		n, known := decimal(bytes.TrimSpace(value))
		if cut || !known {
			t.at = tailDone
		}
		t.sized, t.left = true, n
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		t.chunked = bytes.EqualFold(bytes.TrimSpace(value), []byte("chunked"))
		if !t.chunked {
			t.at = tailDone
		}
	}
}

// body is called at the end of a head.
func (t *AnswerEnd) body(bodiless bool) {
	switch {
	case t.status == 101:
		t.at = tailDone
	case t.status < 200:
		t.at = tailStatus
	case bodiless, t.status == 204, t.status == 304:
		t.at = tailDone
	case t.chunked:
		t.at = tailSize
	case !t.sized:
		t.at = tailRest
	case t.left == 0:
		t.at = tailDone
	default:
		t.at = tailSized
	}
}

// statusOf returns the status of a line such as "HTTP/1.1 200 OK", 0 where it is none.
func statusOf(line []byte) int {
	const before = len("HTTP/1.1 ")
	if len(line) < before+3 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return 0
	}
	n, ok := decimal(line[before : before+3])
	if !ok || n < 100 {
		return 0
	}
	return int(n)
}

func decimal(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

// hexadecimal reads the size of a chunk, which an extension may follow.
func hexadecimal(b []byte) (n int64, ok bool) {
	for i, c := range b {
		d := int64(0)
		switch {
		case c >= '0' && c <= '9':
			d = int64(c - '0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			d = int64(c|0x20-'a') + 10
		case c == ';' || c == ' ' || c == '\t':
			return n, i > 0
		default:
			return 0, false
		}
		if i == 15 {
			return 0, false
		}
		n = n<<4 | d
	}
	return n, len(b) > 0
}

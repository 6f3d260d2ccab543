package process

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/process/internal/parse"
)

const (
	// outputKept is how much of what a machine prints is kept: some screens of a stack trace.
	outputKept = 4 << 10
	// outputRate is how many bytes of a stream are read in a second: more than any log needs, and a
	// program that prints without end costs no more than some hundredths of a core here.
	outputRate = 16 << 20
	// lineMax is the longest line that is passed on in one piece.
	lineMax = 8 << 10
)

// output is what one machine prints: its end is kept, and all of it is passed on. Both streams of a
// machine may write at once.
type output struct {
	mu    sync.Mutex
	kept  []byte // the end of it, and before that up to as much again
	bytes int64  // in all
}

// keep keeps the end of what has been printed.
func (o *output) keep(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes += int64(len(b))
	if len(b) >= outputKept {
		o.kept = append(o.kept[:0], b[len(b)-outputKept:]...)
		return
	}
	if len(o.kept)+len(b) > 2*outputKept {
		o.kept = append(o.kept[:0], o.kept[len(o.kept)-outputKept:]...)
	}
	o.kept = append(o.kept, b...)
}

// printed returns how much has been printed in all.
func (o *output) printed() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes
}

// lastLine returns the last line that says something.
func (o *output) lastLine() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return parse.LastLine(o.kept)
}

// stream is one of a machine's streams.
type stream struct {
	*output
	to    io.Writer   // as it is; nil: nowhere
	lines *lineWriter // nil: nowhere
}

// streams returns what a machine writes to. Where both go to the same place it is one stream, so
// that lines stay in order. A file gets its stream directly: nothing of that is kept.
func (c *command) streams(prefix string) (kept *output, out, err io.Writer, end func()) {
	kept = &output{}
	var lines []*lineWriter
	stream := func(to io.Writer) io.Writer {
		if f, ok := to.(*os.File); ok {
			return f
		}
		s := &stream{output: kept, to: to}
		if c.all != nil {
			s.lines = &lineWriter{w: c.all, prefix: prefix}
			lines = append(lines, s.lines)
		}
		return s
	}
	out = stream(c.out)
	if err = out; c.err != c.out {
		err = stream(c.err)
	}
	return kept, out, err, func() {
		for _, l := range lines {
			l.end()
		}
	}
}

// Write never fails: an error would end the copying, and then the machine, which would be told that
// nobody reads.
func (s *stream) Write(b []byte) (int, error) {
	s.keep(b)
	if s.to != nil {
		_, _ = s.to.Write(b)
	}
	if s.lines != nil {
		_, _ = s.lines.Write(b)
	}
	return len(b), nil
}

// ReadFrom copies all that comes, with a buffer smaller than the usual: there is one for each
// machine. Whoever prints without end is held up.
func (s *stream) ReadFrom(r io.Reader) (n int64, err error) {
	buf := make([]byte, outputKept)
	began, rest := time.Now(), outputRate
	for {
		k, err := r.Read(buf)
		if k > 0 {
			n += int64(k)
			_, _ = s.Write(buf[:k])
		}
		if rest -= k; rest <= 0 {
			time.Sleep(time.Second - time.Since(began))
			began, rest = time.Now(), outputRate
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// lineWriter passes on whole lines, each with a prefix. Its writes to w are lines.
type lineWriter struct {
	w      io.Writer
	prefix string
	mu     sync.Mutex
	part   []byte // of a line whose end has not come
}

// Write passes on the lines that b ends.
func (l *lineWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := b; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		rest = after
		for len(l.part)+len(line) > lineMax {
			n := max(lineMax-len(l.part), 0)
			l.part = append(l.part, line[:n]...)
			line = line[n:]
			l.flush()
		}
		if l.part = append(l.part, line...); ended {
			l.flush()
		}
	}
	return len(b), nil
}

// flush passes on what has come of a line. l.mu is held.
func (l *lineWriter) flush() {
	line := make([]byte, 0, len(l.prefix)+len(l.part)+1)
	line = append(append(append(line, l.prefix...), l.part...), '\n')
	_, _ = l.w.Write(line)
	l.part = l.part[:0]
}

// end passes on a last line without an end.
func (l *lineWriter) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.flush()
	}
}

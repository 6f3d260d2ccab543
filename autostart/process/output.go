package process

import (
	"bytes"
	"io"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/process/internal/parse"
)

const (
	// outputKept is how much of what a machine prints is kept: some screens of a stack trace.
	outputKept = 4 << 10
	// outputRate is how many bytes of a stream are read in a second: more than any log needs, while a
	// program that prints without end costs only some hundredths of a core here.
	outputRate = 16 << 20
	// lineMax is the longest line that is passed on in one piece.
	lineMax = 8 << 10
)

// output takes what one machine prints: it keeps the end and passes on all of it.
type output struct {
	lines *lineWriter // nil: nowhere

	mu    sync.Mutex
	kept  []byte // the last outputKept bytes, after up to as many older ones
	bytes int64  // printed in total
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

// printed returns how many bytes have been printed in total.
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

// Write never fails: an error would end the copying, and then the machine, which would write to a
// closed pipe.
func (o *output) Write(b []byte) (int, error) {
	o.keep(b)
	if o.lines != nil {
		_, _ = o.lines.Write(b)
	}
	return len(b), nil
}

// ReadFrom copies all of r, with a smaller buffer than usual, since each machine has one. It holds
// up a machine that prints without end.
func (o *output) ReadFrom(r io.Reader) (n int64, err error) {
	buf := make([]byte, outputKept)
	began, rest := time.Now(), outputRate
	for {
		k, err := r.Read(buf)
		if k > 0 {
			n += int64(k)
			_, _ = o.Write(buf[:k])
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

// end passes on a last line without an end.
func (o *output) end() {
	if o.lines != nil {
		o.lines.end()
	}
}

// lineWriter passes on whole lines, each with a prefix. Each write to w is one line.
type lineWriter struct {
	w      io.Writer
	prefix string
	mu     sync.Mutex
	part   []byte // of a line that has not ended yet
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

// flush passes on the part of a line so far. l.mu is held.
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

// sharedWriter is a writer for many goroutines. It never fails, for the same reason as output.
type sharedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *sharedWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.w.Write(b)
	return len(b), nil
}

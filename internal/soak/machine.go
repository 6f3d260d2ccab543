package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// The environment of a machine, besides PORT and MACHINE.
const (
	journalVariable = "SOAK_JOURNAL" // the file that machines write to; set means: be a machine
	hardVariable    = "SOAK_HARD"    // more requests at once than this are written down; 0 means any number is well
)

// appHeader stands in every answer of a machine, so that a client can tell them from the proxy's,
// and sickHeader in those of one that is sick.
const (
	appHeader  = "X-Machine"
	sickHeader = "X-Sick"
)

// pattern is what large bodies are made of: a reader can check each byte by its place.
func pattern(p []byte, at int64) {
	for i := range p {
		p[i] = byte((at + int64(i)) * 131 >> 3)
	}
}

// server is what a machine runs. It writes each execution to the journal before it answers.
type server struct {
	journal *os.File
	name    string
	hard    int64
	active  atomic.Int64
	served  atomic.Int64
}

// beMachine serves until SIGTERM and returns the exit status.
func beMachine() int {
	journal, err := os.OpenFile(os.Getenv(journalVariable), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak machine:", err)
		return 1
	}
	a := &server{journal: journal, name: os.Getenv("MACHINE")}
	a.hard, _ = strconv.ParseInt(os.Getenv(hardVariable), 10, 64)
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak machine:", err)
		return 1
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: a, Protocols: protocols}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	a.note("START %s %d\n", a.name, time.Now().UnixNano())
	go watchStalls(ctx,
		func(from, til time.Time) { a.note("STALL %d %d\n", from.UnixNano(), til.UnixNano()) })
	go func() {
		<-ctx.Done()
		s.Shutdown(context.Background())
	}()
	s.Serve(l)
	return 0
}

// stall is how long a process must have stood still to be written down. Peers that ask it over
// HTTP/2 whether it is there give it up after three seconds: on a host that is that slow, a loss
// says nothing of the proxy.
const stall = time.Second

// watchStalls tells of each time in which this process stood still, until ctx ends.
func watchStalls(ctx context.Context, stood func(from, til time.Time)) {
	t := time.NewTicker(stall / 10)
	defer t.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		if now.Sub(last) > stall {
			stood(last, now)
		}
		last = now
	}
}

// note writes one line: one write, so that lines of several machines do not mix.
func (a *server) note(format string, args ...any) {
	fmt.Fprintf(a.journal, "%d %s", os.Getpid(), fmt.Sprintf(format, args...))
}

// recycleAfter is how many requests a machine serves until it gives up an HTTP/2 connection, as
// servers with a bound on requests or on age do: GOAWAY without an error.
const recycleAfter = 10

func (a *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	id := q.Get("id")
	if n := a.active.Add(1); a.hard > 0 && n > a.hard {
		a.note("OVER %s %d of %d\n", r.Host, n, a.hard)
	}
	defer a.active.Add(-1)
	a.note("RUN %s\n", id)
	w.Header().Set(appHeader, a.name)
	if a.served.Add(1)%recycleAfter == 0 && r.ProtoMajor == 2 {
		w.Header().Set("Connection", "close")
	}
	if sick(a.name, time.Now()) {
		w.Header().Set(sickHeader, "1")
		w.WriteHeader([]int{500, 503}[len(id)%2])
		fmt.Fprintf(w, "%s\n", id)
		return
	}
	switch kind(q.Get("kind")) {
	case kindUpload, kindPost:
		h := sha256.New()
		n, err := io.CopyN(h, r.Body, 64<<10)
		if err == nil {
			pause, _ := strconv.Atoi(q.Get("pause"))
			time.Sleep(time.Duration(pause) * time.Millisecond)
			var rest int64
			rest, err = io.Copy(h, r.Body)
			n += rest
		} else if err == io.EOF {
			err = nil
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		a.work(r, q.Get("ms"))
		fmt.Fprintf(w, "%s %d %x\n", id, n, h.Sum(nil))
	case kindSlow:
		size, _ := strconv.ParseInt(q.Get("bytes"), 10, 64)
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		var buf [32 << 10]byte
		for at := int64(0); at < size; {
			p := buf[:min(int64(len(buf)), size-at)]
			pattern(p, at)
			n, err := w.Write(p)
			if err != nil {
				return
			}
			at += int64(n)
		}
	case kindStream:
		for i := range 10 {
			fmt.Fprintf(w, "%s %d\n", id, i)
			http.NewResponseController(w).Flush()
			a.work(r, "20")
		}
	case kindCut:
		fmt.Fprintf(w, "%s\n", id)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case kindFails:
		status, _ := strconv.Atoi(q.Get("status"))
		w.WriteHeader(status)
		fmt.Fprintf(w, "%s\n", id)
	case kindEcho:
		a.echo(w)
	default:
		a.work(r, q.Get("ms"))
		fmt.Fprintf(w, "%s\n", id)
	}
}

// sick reports whether a machine answers everything with an error, at once: for 4 s of every 32.
func sick(machine string, now time.Time) bool {
	h := fnv.New32a()
	io.WriteString(h, machine)
	return uint64(now.Unix())/4%8 == uint64(h.Sum32()%8)
}

// work takes its time, also when the client has left: such apps are what makes a hard limit hard to
// keep. It writes down that it was told.
func (a *server) work(r *http.Request, ms string) {
	n, _ := strconv.Atoi(ms)
	time.Sleep(time.Duration(n) * time.Millisecond)
	if r.Context().Err() != nil {
		a.note("TOLD %s %s\n", r.Host, r.URL.Query().Get("id"))
	}
}

// echo answers each line of an upgraded connection with the same line.
func (a *server) echo(w http.ResponseWriter) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	defer c.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n%s: %s\r\n\r\n",
		appHeader, a.name)
	rw.Flush()
	lines := bufio.NewScanner(rw)
	for lines.Scan() {
		fmt.Fprintln(c, lines.Text())
	}
}

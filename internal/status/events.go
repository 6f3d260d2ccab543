package status

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/ebbkit/ebb/internal/eventlog"
	"github.com/ebbkit/ebb/internal/events"
)

const (
	// keepAlive is how often a quiet stream sends a sign of life, so that proxies in between do not
	// end it.
	keepAlive = 15 * time.Second

	// stalled is how long a client may read nothing before its stream is ended.
	stalled = 30 * time.Second
)

// serveEvents writes the events of log as server-sent events whose IDs are the sequence numbers. It
// begins after the one that the Last-Event-ID header names, or else the since parameter, or else
// the newest: since=0 replays all events that are kept. With follow=0 it ends after those.
func serveEvents(w http.ResponseWriter, r *http.Request, log *eventlog.Log) {
	seq, err := startAfter(r, log)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead {
		return
	}
	out := eventWriter{w: w, rc: http.NewResponseController(w)}
	if r.URL.Query().Get("follow") == "0" {
		for newest := log.Newest(); ; {
			batch := log.Since(seq, 256)
			if len(batch) == 0 || out.write(batch) != nil {
				return
			}
			if seq = batch[len(batch)-1].Seq; seq >= newest {
				return
			}
		}
	}
	// A browser that lost the stream reconnects after a second.
	if out.send([]byte("retry: 1000\n\n")) != nil {
		return
	}
	for {
		ctx, cancel := context.WithTimeout(r.Context(), keepAlive)
		for batch := range log.Batches(ctx, seq) {
			if err = out.write(batch); err != nil {
				break
			}
			seq = batch[len(batch)-1].Seq
		}
		quiet := ctx.Err() != nil
		cancel()
		switch {
		case err != nil || r.Context().Err() != nil || !quiet: // not quiet: the log is closed
			return
		case out.send([]byte(":\n\n")) != nil:
			return
		}
	}
}

// startAfter returns the sequence number after which a stream begins.
func startAfter(r *http.Request, log *eventlog.Log) (uint64, error) {
	name, text := "Last-Event-ID", r.Header.Get("Last-Event-ID")
	if text == "" {
		name, text = "since", r.URL.Query().Get("since")
	}
	if text == "" {
		return log.Newest(), nil
	}
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("status: %s %q: want the sequence number of an event, or 0 for all", name, text)
	}
	return seq, nil
}

type eventWriter struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
}

func (o *eventWriter) write(batch []events.Event) error {
	o.buf.Reset()
	for _, e := range batch {
		body, err := json.Marshal(e)
		if err != nil {
			return err
		}
		fmt.Fprintf(&o.buf, "id: %d\ndata: %s\n\n", e.Seq, body)
	}
	return o.send(o.buf.Bytes())
}

func (o *eventWriter) send(p []byte) error {
	// A writer without deadlines is one of a test, or another middleware's: then there is no
	// deadline.
	_ = o.rc.SetWriteDeadline(time.Now().Add(stalled))
	if _, err := o.w.Write(p); err != nil {
		return err
	}
	return o.rc.Flush()
}

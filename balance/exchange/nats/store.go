package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/nats-io/nats.go/jetstream"
)

// Store is a cluster's key-value bucket. It implements [exchange.Store].
type Store struct {
	x      *Conn
	js     jetstream.JetStream
	bucket string

	mu sync.Mutex
	kv jetstream.KeyValue // nil until it is found or made
}

const (
	// look is how often a watch checks that the bucket is still the one it watches.
	look = 5 * time.Second
	// openTimeout bounds the opening of a watch. After a failure the backoff grows from openAgain
	// to openAgainMost. A server that has just started answers after seconds.
	openTimeout              = 2 * time.Second
	openAgain, openAgainMost = 100 * time.Millisecond, 2 * time.Second
)

// Store returns the store of a cluster. Its bucket is made when it is first used, unless it exists.
func (x *Conn) Store(cluster string) (*Store, error) {
	js, err := jetstream.New(x.nc)
	if err != nil {
		return nil, fmt.Errorf("nats: store of cluster %q: %w", cluster, err)
	}
	return &Store{x: x, js: js, bucket: "ebb_" + strings.ReplaceAll(token(cluster), "%", "_")}, nil
}

// open returns the bucket, and looks it up again after it was lost.
func (s *Store) open(ctx context.Context) (jetstream.KeyValue, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kv != nil {
		return s.kv, nil
	}
	kv, err := s.js.KeyValue(ctx, s.bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: s.bucket, Description: "ebb: apps, splits and bounds", History: 1, Storage: jetstream.FileStorage, Replicas: 1,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("nats: store %s: %w", s.bucket, err)
	}
	s.kv = kv
	return kv, nil
}

// lost makes the next open look up the bucket again.
func (s *Store) lost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kv = nil
}

// Get implements [exchange.Store].
func (s *Store) Get(ctx context.Context, key string) (exchange.Entry, error) {
	kv, err := s.open(ctx)
	if err != nil {
		return exchange.Entry{}, err
	}
	e, err := kv.Get(ctx, escape(key))
	if err != nil {
		return exchange.Entry{}, s.failed(key, err)
	}
	return exchange.Entry{Key: key, Value: e.Value(), Revision: e.Revision()}, nil
}

// Put implements [exchange.Store].
func (s *Store) Put(
	ctx context.Context, key string, value []byte, revision uint64,
) (uint64, error) {
	kv, err := s.open(ctx)
	if err != nil {
		return 0, err
	}
	var next uint64
	if revision == 0 {
		next, err = kv.Create(ctx, escape(key), value)
	} else {
		next, err = kv.Update(ctx, escape(key), value, revision)
	}
	if err != nil {
		return 0, s.failed(key, err)
	}
	return next, nil
}

// Delete implements [exchange.Store].
func (s *Store) Delete(ctx context.Context, key string, revision uint64) error {
	kv, err := s.open(ctx)
	if err != nil {
		return err
	}
	if revision == 0 {
		return fmt.Errorf("%w: %q cannot be deleted at revision 0", exchange.ErrNotFound, key)
	}
	if err := kv.Delete(ctx, escape(key), jetstream.LastRevision(revision)); err != nil {
		return s.failed(key, err)
	}
	return nil
}

// failed wraps an error so that it matches the errors of package exchange.
func (s *Store) failed(key string, err error) error {
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return fmt.Errorf("%w: %q", exchange.ErrNotFound, key)
	case errors.Is(err, jetstream.ErrKeyExists), errors.Is(err, jetstream.ErrKeyRevisionMismatch):
		return fmt.Errorf("%w: %q: %v", exchange.ErrConflict, key, err)
	case errors.Is(err, jetstream.ErrBucketNotFound), errors.Is(err, jetstream.ErrNoStreamResponse):
		s.lost()
	}
	return fmt.Errorf("nats: store: %q: %w", key, err)
}

// Watch implements [exchange.Store]. It reopens the watch after each reconnect, and when the bucket
// was deleted and made again: a watch that stays open may be silent for 20 s after a restart, and
// then skip updates.
func (s *Store) Watch(ctx context.Context, changed func(exchange.Entry)) error {
	again := make(chan struct{}, 1)
	cancel := s.x.OnReconnect(func() {
		select {
		case again <- struct{}{}:
		default:
		}
	})
	defer cancel()
	for wait := openAgain; ; wait = min(2*wait, openAgainMost) {
		switch s.watch(ctx, again, changed) {
		case watchEnded:
			return nil
		case watchOver:
			wait = openAgain / 2
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-time.After(wait):
		}
	}
}

// ended says why a watch is over.
type ended uint8

const (
	watchEnded  ended = iota // its context has ended
	watchOver                // it is to be reopened at once
	watchFailed              // it could not be opened
)

// watch runs one watch until it has to be reopened.
func (s *Store) watch(
	ctx context.Context, again <-chan struct{}, changed func(exchange.Entry),
) ended {
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	kv, err := s.open(opening)
	if err != nil {
		return watchFailed
	}
	made, err := s.made(opening)
	if err != nil {
		s.lost()
		return watchFailed
	}
	watching, stop := context.WithCancel(ctx) // bounds the life of the watch, not its opening
	defer stop()
	w, err := kv.WatchAll(watching)
	if err != nil {
		s.lost()
		return watchFailed
	}
	defer closeWatch(w)
	t := time.NewTicker(look)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return watchEnded
		case <-again:
			return watchOver
		case e, open := <-w.Updates():
			if !open {
				return watchFailed
			}
			if e != nil { // nil says that all existing entries have been sent
				tell(e, changed)
			}
		case <-t.C:
			if now, err := s.made(ctx); err == nil && !now.Equal(made) ||
				errors.Is(err, jetstream.ErrStreamNotFound) {
				s.lost()
				return watchOver
			}
		}
	}
}

// closeWatch ends a watch. It drains the updates until their channel is closed: the watch's
// goroutine waits for room in it, and would leak.
func closeWatch(w jetstream.KeyWatcher) {
	w.Stop() //nolint:errcheck // the server may be down
	go func() {
		for range w.Updates() {
		}
	}()
}

func tell(e jetstream.KeyValueEntry, changed func(exchange.Entry)) {
	if key, ok := unescape(e.Key()); ok {
		changed(exchange.Entry{
			Key: key, Value: e.Value(), Revision: e.Revision(), Deleted: e.Operation() != jetstream.KeyValuePut,
		})
	}
}

// made returns when the bucket was made.
func (s *Store) made(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	stream, err := s.js.Stream(ctx, "KV_"+s.bucket)
	if err != nil {
		return time.Time{}, err
	}
	return stream.CachedInfo().Created, nil
}

// escape writes a key in the characters that a bucket allows: others as in "=2E".
func escape(key string) string {
	var b strings.Builder
	for i := range len(key) {
		c := key[i]
		switch {
		case 'a' <= c && c <= 'z',
			'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '/',
			c == '.' && i > 0 && i < len(key)-1 && key[i-1] != '.':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

func unescape(text string) (key string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '=' {
			if i+2 >= len(text) {
				return "", false
			}
			if n, err := fmt.Sscanf(text[i+1:i+3], "%02X", &c); n != 1 || err != nil {
				return "", false
			}
			i += 2
		}
		b.WriteByte(c)
	}
	return b.String(), true
}

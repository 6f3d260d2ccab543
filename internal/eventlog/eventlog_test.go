package eventlog

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbkit/ebb/internal/events"
)

func ExampleLog_Follow() {
	log := New(0)
	log.Add(events.Event{Kind: events.Start, Machine: "nrt-1", Reason: "demand 1, nothing ready"})
	log.Add(events.Event{Kind: events.Started, Machine: "nrt-1", Reason: "ready after 312ms"})
	log.Close() // else the loop would wait for more
	for e := range log.Follow(context.Background(), 0) {
		fmt.Println(e.Seq, e.Kind, e.Machine, e.Reason)
	}
	// Output:
	// 1 start nrt-1 demand 1, nothing ready
	// 2 started nrt-1 ready after 312ms
}

func TestLogFollowsLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := New(0)
		log.Add(events.Event{Kind: events.Start, Machine: "old"})
		log.Add(events.Event{Kind: events.Start, Machine: "kept"})
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		done := make(chan bool)
		go func() {
			defer close(done)
			start := time.Now()
			for e := range log.Follow(ctx, 1) {
				got = append(
					got, fmt.Sprint(e.Seq, " ", e.Machine, " ", e.Reason, " after ", time.Since(start)),
				)
			}
		}()
		time.Sleep(time.Second)
		log.Add(events.Event{Kind: events.Stop, Machine: "new"})
		for range 4 {
			log.Add(events.Event{Kind: events.Bounce, Machine: "m", Reason: "full"})
		}
		time.Sleep(5 * time.Second) // the sum comes by itself
		cancel()
		<-done
		want := []string{
			"2 kept  after 0s", "3 new  after 1s", "4 m full after 1s", "5 m 3 bounces: full after 2s",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

func TestLogCloseEndsFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := New(0)
		var seqs []uint64
		done := make(chan bool)
		go func() {
			defer close(done)
			for e := range log.Follow(t.Context(), 99) { // from an earlier process
				seqs = append(seqs, e.Seq)
			}
		}()
		synctest.Wait()
		log.Add(events.Event{Kind: events.Park})
		log.Add(events.Event{Kind: events.Park})
		log.Close()
		<-done
		log.Add(events.Event{Kind: events.Start})
		log.Close()
		if d := cmp.Diff([]uint64{1, 2}, seqs); d != "" {
			t.Error(d)
		}
		if log.Newest() != 2 || len(log.Since(0, 10)) != 2 {
			t.Errorf("the log has %d events", log.Newest())
		}
	})
}

// A follower that sleeps is moved forward; it never sees a number twice, and the writer does not
// wait for it.
func TestLogSkipsSlowFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := New(100)
		var seqs []uint64
		done := make(chan bool)
		ready := make(chan bool)
		go func() {
			defer close(done)
			for e := range log.Follow(t.Context(), 0) {
				seqs = append(seqs, e.Seq)
				if e.Seq == 1 {
					<-ready
				}
			}
		}()
		synctest.Wait()
		log.Add(events.Event{Kind: events.Start})
		synctest.Wait()
		for range 999 {
			log.Add(events.Event{Kind: events.Start})
		}
		close(ready)
		synctest.Wait()
		log.Close()
		<-done
		if len(seqs) != 101 || seqs[0] != 1 || seqs[1] != 901 || seqs[100] != 1000 {
			t.Errorf("saw %d events: %v", len(seqs), seqs)
		}
	})
}

func TestLogConcurrently(t *testing.T) {
	log := New(1 << 20)
	const writers, each, followers = 4, 500, 4
	var wg, reads sync.WaitGroup
	for range followers {
		reads.Go(func() {
			var last uint64
			for e := range log.Follow(t.Context(), 0) {
				if e.Seq != last+1 {
					t.Errorf("%d follows %d", e.Seq, last)
				}
				last = e.Seq
			}
			if last != writers*each {
				t.Errorf("a follower saw %d events, want %d", last, writers*each)
			}
		})
	}
	for w := range writers {
		wg.Go(func() {
			for range each {
				log.Add(events.Event{Kind: events.Start, Machine: fmt.Sprint(w)})
			}
		})
	}
	wg.Wait()
	log.Close()
	reads.Wait()
}

func BenchmarkAdd(b *testing.B) {
	for _, kind := range []events.Kind{events.Start, events.Bounce} {
		b.Run("kind="+string(kind), func(b *testing.B) {
			log := New(0)
			defer log.Close()
			b.ReportAllocs()
			for b.Loop() {
				log.Add(events.Event{Kind: kind, App: "web", Machine: "nrt-1", Node: "worker", Reason: "full"})
			}
		})
	}
}

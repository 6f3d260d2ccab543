package delay

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func ExampleLinks_Send() {
	links := NewLinks("nrt", "hkg")
	defer links.Close()
	done := make(chan bool)
	start := time.Now()
	links.Send("nrt", "hkg", func() { fmt.Println("first", time.Since(start) >= links.RTT("nrt", "hkg")/2) })
	links.Send("nrt", "hkg", func() { fmt.Println("second"); close(done) })
	fmt.Println("sent")
	<-done
	// Output:
	// sent
	// first true
	// second
}

func ExampleLinks_Dialer() {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello from far away") }))
	defer srv.Close()
	links := NewLinks("lhr", "ams")
	defer links.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: links.Dialer("lhr", "ams")}}

	start := time.Now()
	res, err := client.Get(srv.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	// One round trip to connect, one for the request.
	fmt.Println(string(body), time.Since(start) >= 2*links.RTT("lhr", "ams"))
	// Output: hello from far away true
}

func TestSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Links
		l.Set("a", "b", 100*ms)
		elapsed := stopwatch()
		var mu sync.Mutex
		var got []string
		say := func(s string) func() {
			return func() {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprint(s, " at ", elapsed()))
			}
		}
		l.Send("a", "b", say("one"))
		time.Sleep(10 * ms)
		l.Send("a", "b", say("two"))
		l.Set("a", "b", 0)
		l.Send("a", "b", say("three")) // does not overtake
		time.Sleep(200 * ms)
		l.Send("b", "a", func() { // sent from within
			say("four")()
			l.Send("b", "a", say("five"))
		})
		time.Sleep(ms)
		l.Set("a", "b", 100*ms)
		l.Send("a", "b", say("lost"))
		l.Close()
		l.Send("a", "b", say("too late"))
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		want := []string{"one at 50ms", "two at 60ms", "three at 60ms", "four at 210ms", "five at 210ms"}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

// A slow receiver delays only its own direction, and never the sender.
func TestSendNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Links
		defer l.Close()
		l.Set("a", "b", 10*ms)
		elapsed := stopwatch()
		var there, back atomic.Int64
		for range 10_000 {
			l.Send("a", "b", func() { there.Add(1); time.Sleep(ms) })
			l.Send("b", "a", func() { back.Add(1) })
		}
		wantElapsed(t, "all sent", elapsed(), 0)
		time.Sleep(10 * ms)
		synctest.Wait()
		if there.Load() > 10 || back.Load() != 10_000 {
			t.Errorf("%d there, %d back", there.Load(), back.Load())
		}
		time.Sleep(11 * time.Second)
		if there.Load() != 10_000 {
			t.Errorf("%d there", there.Load())
		}
	})
}

// echo answers every datagram with its own bytes, and reports how many senders it saw.
func echo(t *testing.T) (addr netip.AddrPort, senders func() int) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[netip.AddrPort]bool)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			seen[from] = true
			conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort(), func() int { conn.Close(); <-done; return len(seen) }
}

// Real sockets: the test checks order, contents and that nothing is early; a benchmark measures
// lateness.
func TestRelayUDP(t *testing.T) {
	var l Links
	defer l.Close()
	const rtt = 20 * ms
	l.Set("a", "b", rtt)
	target, senders := echo(t)
	relay, err := l.RelayUDP(t.Context(), "a", "b", target)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(relay))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(time.Minute))
		start := time.Now()
		const pings = 20
		for k := range pings {
			fmt.Fprintf(c, "ping %d of %d", k, i)
		}
		buf := make([]byte, 100)
		for k := range pings {
			n, err := c.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("ping %d of %d", k, i); string(buf[:n]) != want {
				t.Errorf("got %q, want %q", buf[:n], want)
			}
			if took := time.Since(start); took < rtt {
				t.Errorf("an answer after %v", took)
			}
		}
	}
	if n := senders(); n != 2 {
		t.Errorf("the target saw %d senders, want one for each", n)
	}
}

func TestRelayUDPEnds(t *testing.T) {
	var l Links
	target, _ := echo(t)
	ctx, cancel := context.WithCancel(t.Context())
	first, err := l.RelayUDP(ctx, "a", "b", target)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.RelayUDP(t.Context(), "a", "c", target); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(first))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err) // without a delay it works too
	}
	cancel()
	l.Close() // waits for the goroutines of both
	if _, err := l.RelayUDP(t.Context(), "a", "b", target); err == nil {
		t.Error("closed links relay")
	}
	// The port of the first is free again.
	again, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(first))
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// More senders than the relay keeps: those that were silent for longest are dropped.
func TestRelayUDPIsBounded(t *testing.T) {
	var l Links
	defer l.Close()
	target, _ := echo(t)
	relay, err := l.RelayUDP(t.Context(), "a", "b", target)
	if err != nil {
		t.Fatal(err)
	}
	for range relaySources + 20 {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(relay))
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(time.Minute))
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.ends {
		r := r.(*relayUDP)
		r.mu.Lock()
		if len(r.sources) > relaySources {
			t.Errorf("%d sources", len(r.sources))
		}
		r.mu.Unlock()
	}
}

// BenchmarkLateness measures how much later than asked real links deliver.
func BenchmarkLateness(b *testing.B) {
	const rtt = 20 * ms
	b.Run("path=send", func(b *testing.B) {
		var l Links
		defer l.Close()
		l.Set("a", "b", rtt)
		var late time.Duration
		for b.Loop() {
			start, done := time.Now(), make(chan time.Time)
			l.Send("a", "b", func() { done <- time.Now() })
			late += (<-done).Sub(start) - rtt/2
		}
		b.ReportMetric(float64(late)/float64(b.N)/1e3, "µs-late")
	})
	b.Run("path=tcp", func(b *testing.B) {
		var l Links
		defer l.Close()
		l.Set("a", "b", rtt)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer ln.Close()
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			for p := make([]byte, 1); ; {
				if _, err := c.Read(p); err != nil {
					return
				}
				c.Write(p)
			}
		}()
		c, err := l.Dialer("a", "b")(b.Context(), "tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		var late time.Duration
		for p := make([]byte, 1); b.Loop(); {
			start := time.Now()
			c.Write(p)
			if _, err := c.Read(p); err != nil {
				b.Fatal(err)
			}
			late += time.Since(start) - rtt
		}
		b.ReportMetric(float64(late)/float64(b.N)/1e3, "µs-late")
	})
}

package process

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// listener is a Watch that records the machines that it reports.
type listener struct {
	ids  []string
	stop context.CancelFunc
}

// listen begins a Watch inside a bubble.
func listen(t *testing.T, x *exits) *listener {
	ctx, cancel := context.WithCancel(t.Context())
	l := &listener{stop: cancel}
	go x.watch(ctx, func(e machine.Exit) { l.ids = append(l.ids, string(e.ID)) })
	synctest.Wait()
	return l
}

func (l *listener) want(t *testing.T, ids ...string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(ids, l.ids); diff != "" {
		t.Errorf("reported: %s", diff)
	}
}

func add(x *exits, ids ...string) {
	for _, id := range ids {
		x.add(machine.Exit{ID: balance.MachineID(id)})
	}
}

func TestExitsReachEveryWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := new(exits)
		a, b := listen(t, x), listen(t, x)
		add(x, "1", "2")
		a.want(t, "1", "2")
		b.want(t, "1", "2")
		a.stop()
		synctest.Wait()
		add(x, "3")
		a.want(t, "1", "2")
		b.want(t, "1", "2", "3")
	})
}

func TestExitsWaitForAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := new(exits)
		add(x, "1", "2")
		a := listen(t, x)
		a.want(t, "1", "2")
		b := listen(t, x) // the two were seen
		add(x, "3")
		b.want(t, "3")
		a.stop()
		b.stop()
		synctest.Wait()
		add(x, "4") // no Watch again
		listen(t, x).want(t, "4")
	})
}

// Reports that a Watch leaves in its queue are not lost: they go to the other Watches, or are kept.
func TestExitsOfAWatchThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := new(exits)
		ctx, cancel := context.WithCancel(t.Context())
		var first []string
		go x.watch(ctx, func(e machine.Exit) {
			first = append(first, string(e.ID))
			cancel()
		})
		synctest.Wait()
		x.mu.Lock() // so that all three are in the queue before one is taken
		for _, id := range []string{"1", "2", "3"} {
			x.spread(&report{exit: machine.Exit{ID: balance.MachineID(id)}})
		}
		x.mu.Unlock()
		synctest.Wait()
		if !slices.Equal(first, []string{"1"}) {
			t.Errorf("the first Watch was told of %v, want only 1", first)
		}
		listen(t, x).want(t, "2", "3")
	})
}

func TestUnseenExitsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := new(exits)
		for i := range maxUnseen + 5 {
			add(x, fmt.Sprint(i))
		}
		l := listen(t, x)
		if len(l.ids) != maxUnseen || l.ids[0] != "5" {
			t.Errorf("%d exits were kept, the first %s; want %d and 5", len(l.ids), l.ids[0], maxUnseen)
		}
	})
}

// Ports are handed out in turn, skipping those in use, by us or by others.
func TestPorts(t *testing.T) {
	pool := portPool{used: make(map[int]bool), next: lastPort}
	taken := make(map[int]bool)
	for range 50 {
		port, err := pool.take(host)
		if err != nil {
			t.Fatal(err)
		}
		if port < firstPort || port > lastPort || taken[port] {
			t.Fatalf("port %d: outside the range or taken", port)
		}
		taken[port] = true
		pool.release(port) // and yet it is not the next one
	}
	if tryPort(host, pool.next) == nil {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(pool.next)))
		if err == nil {
			defer l.Close()
			if port, err := pool.take(host); err != nil ||
				"127.0.0.1:"+strconv.Itoa(port) == l.Addr().String() {
				t.Errorf("port %d, %v, while another program listens on %v", port, err, l.Addr())
			}
		}
	}
	for port := firstPort; port <= lastPort; port++ {
		pool.used[port] = true
	}
	if port, err := pool.take(host); err == nil {
		t.Errorf("port %d from a pool without any", port)
	}
}

package backhaul

import (
	"testing"
	"time"
)

// What the kernel says of connections of all kinds, look after look, a second apart; the times are those of Linux.
func TestSilenceIsDeathAndBackPressureIsNot(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	type look struct {
		tcpState
		times int // the same again so many times, but for the clocks, which go on; 0 means 1
	}
	for _, tt := range []struct {
		name  string
		looks []look
		dead  int // the look, from 1, at which the connection is given up; 0: never
	}{
		{"idle", []look{{tcpState{received: 4, sent: 60 * s, heard: 60 * s}, 60}}, 0},
		{"waiting for an answer to what has arrived", []look{{tcpState{received: 5, sent: 300 * ms, heard: 299 * ms}, 600}}, 0},
		{"a request into a black hole", []look{
			{tcpState{unacked: 1, received: 4, resent: 2, sent: 400 * ms, heard: 60 * s}, 1},
			{tcpState{unacked: 1, received: 4, resent: 3, sent: 600 * ms, heard: 61 * s}, 1},
			{tcpState{unacked: 1, received: 4, resent: 3, sent: 1600 * ms, heard: 62 * s}, 1},
			{tcpState{unacked: 1, received: 4, resent: 4, sent: 1000 * ms, heard: 63 * s}, 1},
			{tcpState{unacked: 1, received: 4, resent: 4, sent: 2000 * ms, heard: 64 * s}, 1},
			{tcpState{unacked: 1, received: 4, resent: 5, sent: 1000 * ms, heard: 65 * s}, 1},
		}, 6},
		{"a request into a black hole, on a connection that nobody has looked at", []look{
			{tcpState{unacked: 1, resent: 0, sent: 900 * ms, heard: 1 * s}, 1},
			{tcpState{unacked: 1, resent: 1, sent: 400 * ms, heard: 2 * s}, 1},
			{tcpState{unacked: 1, resent: 2, sent: 200 * ms, heard: 3 * s}, 4},
		}, 6},
		{"a path of three seconds' round trip", []look{
			{tcpState{unacked: 10, received: 4, sent: 1 * s, heard: 9 * s}, 1},
			{tcpState{unacked: 10, received: 4, sent: 2 * s, heard: 10 * s}, 1},
			{tcpState{unacked: 10, received: 5, sent: 3 * s, heard: 10 * ms}, 1},
			{tcpState{unacked: 10, received: 5, sent: 10 * ms, heard: 1 * s}, 3},
			{tcpState{unacked: 10, received: 6, sent: 10 * ms, heard: 20 * ms}, 1},
		}, 0},
		{"half of all packets lost", []look{
			{tcpState{unacked: 10, received: 9, resent: 4, sent: 10 * ms, heard: 1500 * ms}, 2},
			{tcpState{unacked: 10, received: 10, resent: 6, sent: 10 * ms, heard: 1200 * ms}, 3},
			{tcpState{unacked: 10, received: 11, resent: 9, sent: 10 * ms, heard: 1700 * ms}, 2},
		}, 0},
		{"bulk", []look{
			{tcpState{unacked: 200, unsent: 1 << 20, received: 1000, heard: 4 * ms}, 1},
			{tcpState{unacked: 200, unsent: 1 << 20, received: 2000, heard: 4 * ms}, 1},
			{tcpState{unacked: 200, unsent: 1 << 20, received: 3000, heard: 4 * ms}, 1},
		}, 0},
		{"the peer reads nothing, and its kernel answers each probe", []look{
			{tcpState{unsent: 4 << 20, received: 4, sent: 300 * ms, heard: 50 * ms}, 1},
			{tcpState{unsent: 4 << 20, received: 5, sent: 1300 * ms, heard: 900 * ms}, 2},
			{tcpState{unsent: 4 << 20, received: 6, sent: 3300 * ms, heard: 60 * ms}, 3600},
		}, 0},
		{"one probe in a long pause is not answered, as kernels answer two of them a second at most", []look{
			{tcpState{unsent: 4 << 20, received: 7, sent: 500 * s, heard: 60 * s}, 1},
			{tcpState{unsent: 4 << 20, probes: 1, received: 7, sent: 501 * s, heard: 61 * s}, 120},
			{tcpState{unsent: 4 << 20, received: 8, sent: 621 * s, heard: 1 * s}, 1},
		}, 0},
		{"the peer reads nothing, and then it is gone", []look{
			{tcpState{unsent: 4 << 20, received: 7, sent: 6864 * ms, heard: 1596 * ms}, 1},
			{tcpState{unsent: 4 << 20, probes: 1, received: 7, sent: 7380 * ms, heard: 2108 * ms}, 2},
			{tcpState{unsent: 4 << 20, probes: 2, received: 7, sent: 9388 * ms, heard: 4116 * ms}, 2},
			{tcpState{unsent: 4 << 20, probes: 3, received: 7, sent: 11392 * ms, heard: 6120 * ms}, 2},
		}, 7},
		{"the peer takes back the window that it gave, and answers what is sent again now and then", []look{
			{tcpState{unacked: 3, received: 7, resent: 5, sent: 1 * s, heard: 900 * ms}, 100},
			{tcpState{unacked: 3, received: 7, resent: 6, sent: 10 * ms, heard: 120 * s}, 1},
			{tcpState{unacked: 3, received: 8, resent: 6, sent: 1 * s, heard: 990 * ms}, 119},
		}, 0},
		{"the process stood still for a minute, and the answer is in the card", []look{
			{tcpState{unacked: 1, received: 7, resent: 1, sent: 10 * ms, heard: 1 * s}, 1},
			{tcpState{unacked: 1, received: 7, resent: 1, sent: 60 * s, heard: 61 * s}, 2},
			{tcpState{received: 8, resent: 1, sent: 62 * s, heard: 10 * ms}, 1},
		}, 0},
		{"the process stood still for a minute under a request, which the kernel has sent again meanwhile", []look{
			{tcpState{received: 7, resent: 1, sent: 61 * s, heard: 60 * s}, 1},
			{tcpState{unacked: 1, received: 7, resent: 5, sent: 60 * s, heard: 120 * s}, 2},
			{tcpState{received: 8, resent: 5, sent: 62 * s, heard: 10 * ms}, 1},
		}, 0},
		{"sent twice again between two looks, and not since", []look{
			{tcpState{received: 4, resent: 0, sent: 61 * s, heard: 60 * s}, 1},
			{tcpState{unacked: 1, received: 4, resent: 2, sent: 1 * s, heard: 62 * s}, 6},
		}, 6},
		{"many packets lost before, one now", []look{
			{tcpState{received: 7, resent: 50, sent: 61 * s, heard: 60 * s}, 1},
			{tcpState{unacked: 1, received: 7, resent: 51, sent: 10 * ms, heard: 62 * s}, 10},
		}, 0},
		{"nothing to be answered for long, and then two packets lost at once", []look{
			{tcpState{unacked: 3, received: 7, resent: 5, sent: 1 * s, heard: 900 * ms}, 10},
			{tcpState{unacked: 3, received: 7, resent: 7, sent: 10 * ms, heard: 11 * s}, 1},
			{tcpState{received: 8, resent: 7, sent: 1 * s, heard: 900 * ms}, 1},
		}, 0},
		{"lost once only, and slow to be sent again", []look{
			{tcpState{unacked: 1, received: 7, resent: 0, sent: 10 * ms, heard: 1 * s}, 1},
			{tcpState{unacked: 1, received: 7, resent: 1, sent: 10 * ms, heard: 3 * s}, 10},
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l liveness
			n, dead := 0, 0
			for _, k := range tt.looks {
				for i := range max(1, k.times) {
					now := k.tcpState
					now.sent += time.Duration(i) * s
					now.heard += time.Duration(i) * s
					n++
					if l = l.look(now, s); l.dead(now, silence) && dead == 0 {
						dead = n
					}
				}
			}
			if dead != tt.dead {
				t.Errorf("given up at look %d, want %d", dead, tt.dead)
			}
		})
	}
	// One look, however late, does not give a connection up.
	gone := tcpState{unacked: 1, received: 7, resent: 9, sent: 100 * ms, heard: time.Hour}
	l := liveness{}.look(gone, time.Hour)
	gone.resent += 9
	if l = l.look(gone, time.Hour); l.dead(gone, silence) {
		t.Error("given up after two looks")
	}
}

// A connection is looked at as long as its peer owes an answer to anything: to data, or to a
// question for its window, which data waits for.
func TestWhatAPeerOwes(t *testing.T) {
	for _, tt := range []struct {
		tcpState
		want bool
	}{
		{tcpState{}, false},
		{tcpState{received: 9, resent: 9, sent: time.Hour, heard: time.Hour}, false},
		{tcpState{unacked: 1}, true},
		{tcpState{unsent: 1}, true},
		{tcpState{probes: 1}, true},
	} {
		if got := tt.outstanding(); got != tt.want {
			t.Errorf("%+v: outstanding %v", tt.tcpState, got)
		}
	}
}

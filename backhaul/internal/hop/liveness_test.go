package hop

import (
	"testing"
	"time"
)

// What the kernel says of connections of all kinds, look after look, a second apart; the times are
// those of Linux.
func TestSilenceIsDeathAndBackPressureIsNot(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	type look struct {
		TCPState
		times int // the same again so many times, but for the clocks, which go on; 0 means 1
	}
	for _, tt := range []struct {
		name  string
		looks []look
		dead  int // the look, from 1, at which the connection is given up; 0: never
	}{
		{"idle", []look{{TCPState{Received: 4, Sent: 60 * s, Heard: 60 * s}, 60}}, 0},
		{"waiting for an answer to what has arrived", []look{{TCPState{Received: 5, Sent: 300 * ms, Heard: 299 * ms}, 600}}, 0},
		{"a request into a black hole", []look{
			{TCPState{Unacked: 1, Received: 4, Resent: 2, Sent: 400 * ms, Heard: 60 * s}, 1},
			{TCPState{Unacked: 1, Received: 4, Resent: 3, Sent: 600 * ms, Heard: 61 * s}, 1},
			{TCPState{Unacked: 1, Received: 4, Resent: 3, Sent: 1600 * ms, Heard: 62 * s}, 1},
			{TCPState{Unacked: 1, Received: 4, Resent: 4, Sent: 1000 * ms, Heard: 63 * s}, 1},
			{TCPState{Unacked: 1, Received: 4, Resent: 4, Sent: 2000 * ms, Heard: 64 * s}, 1},
			{TCPState{Unacked: 1, Received: 4, Resent: 5, Sent: 1000 * ms, Heard: 65 * s}, 1},
		}, 6},
		{"a request into a black hole, on a connection that nobody has looked at", []look{
			{TCPState{Unacked: 1, Resent: 0, Sent: 900 * ms, Heard: 1 * s}, 1},
			{TCPState{Unacked: 1, Resent: 1, Sent: 400 * ms, Heard: 2 * s}, 1},
			{TCPState{Unacked: 1, Resent: 2, Sent: 200 * ms, Heard: 3 * s}, 4},
		}, 6},
		{"a path of three seconds' round trip", []look{
			{TCPState{Unacked: 10, Received: 4, Sent: 1 * s, Heard: 9 * s}, 1},
			{TCPState{Unacked: 10, Received: 4, Sent: 2 * s, Heard: 10 * s}, 1},
			{TCPState{Unacked: 10, Received: 5, Sent: 3 * s, Heard: 10 * ms}, 1},
			{TCPState{Unacked: 10, Received: 5, Sent: 10 * ms, Heard: 1 * s}, 3},
			{TCPState{Unacked: 10, Received: 6, Sent: 10 * ms, Heard: 20 * ms}, 1},
		}, 0},
		{"half of all packets lost", []look{
			{TCPState{Unacked: 10, Received: 9, Resent: 4, Sent: 10 * ms, Heard: 1500 * ms}, 2},
			{TCPState{Unacked: 10, Received: 10, Resent: 6, Sent: 10 * ms, Heard: 1200 * ms}, 3},
			{TCPState{Unacked: 10, Received: 11, Resent: 9, Sent: 10 * ms, Heard: 1700 * ms}, 2},
		}, 0},
		{"bulk", []look{
			{TCPState{Unacked: 200, Unsent: 1 << 20, Received: 1000, Heard: 4 * ms}, 1},
			{TCPState{Unacked: 200, Unsent: 1 << 20, Received: 2000, Heard: 4 * ms}, 1},
			{TCPState{Unacked: 200, Unsent: 1 << 20, Received: 3000, Heard: 4 * ms}, 1},
		}, 0},
		{"the peer reads nothing, and its kernel answers each probe", []look{
			{TCPState{Unsent: 4 << 20, Received: 4, Sent: 300 * ms, Heard: 50 * ms}, 1},
			{TCPState{Unsent: 4 << 20, Received: 5, Sent: 1300 * ms, Heard: 900 * ms}, 2},
			{TCPState{Unsent: 4 << 20, Received: 6, Sent: 3300 * ms, Heard: 60 * ms}, 3600},
		}, 0},
		{"one probe in a long pause is not answered, as kernels answer two of them a second at most", []look{
			{TCPState{Unsent: 4 << 20, Received: 7, Sent: 500 * s, Heard: 60 * s}, 1},
			{TCPState{Unsent: 4 << 20, Probes: 1, Received: 7, Sent: 501 * s, Heard: 61 * s}, 120},
			{TCPState{Unsent: 4 << 20, Received: 8, Sent: 621 * s, Heard: 1 * s}, 1},
		}, 0},
		{"the peer reads nothing, and then it is gone", []look{
			{TCPState{Unsent: 4 << 20, Received: 7, Sent: 6864 * ms, Heard: 1596 * ms}, 1},
			{TCPState{Unsent: 4 << 20, Probes: 1, Received: 7, Sent: 7380 * ms, Heard: 2108 * ms}, 2},
			{TCPState{Unsent: 4 << 20, Probes: 2, Received: 7, Sent: 9388 * ms, Heard: 4116 * ms}, 2},
			{TCPState{Unsent: 4 << 20, Probes: 3, Received: 7, Sent: 11392 * ms, Heard: 6120 * ms}, 2},
		}, 7},
		{"the peer takes back the window that it gave, and answers what is sent again now and then", []look{
			{TCPState{Unacked: 3, Received: 7, Resent: 5, Sent: 1 * s, Heard: 900 * ms}, 100},
			{TCPState{Unacked: 3, Received: 7, Resent: 6, Sent: 10 * ms, Heard: 120 * s}, 1},
			{TCPState{Unacked: 3, Received: 8, Resent: 6, Sent: 1 * s, Heard: 990 * ms}, 119},
		}, 0},
		{"the process stood still for a minute, and the answer is in the card", []look{
			{TCPState{Unacked: 1, Received: 7, Resent: 1, Sent: 10 * ms, Heard: 1 * s}, 1},
			{TCPState{Unacked: 1, Received: 7, Resent: 1, Sent: 60 * s, Heard: 61 * s}, 2},
			{TCPState{Received: 8, Resent: 1, Sent: 62 * s, Heard: 10 * ms}, 1},
		}, 0},
		{"the process stood still for a minute under a request, which the kernel has sent again meanwhile", []look{
			{TCPState{Received: 7, Resent: 1, Sent: 61 * s, Heard: 60 * s}, 1},
			{TCPState{Unacked: 1, Received: 7, Resent: 5, Sent: 60 * s, Heard: 120 * s}, 2},
			{TCPState{Received: 8, Resent: 5, Sent: 62 * s, Heard: 10 * ms}, 1},
		}, 0},
		{"sent twice again between two looks, and not since", []look{
			{TCPState{Received: 4, Resent: 0, Sent: 61 * s, Heard: 60 * s}, 1},
			{TCPState{Unacked: 1, Received: 4, Resent: 2, Sent: 1 * s, Heard: 62 * s}, 6},
		}, 6},
		{"many packets lost before, one now", []look{
			{TCPState{Received: 7, Resent: 50, Sent: 61 * s, Heard: 60 * s}, 1},
			{TCPState{Unacked: 1, Received: 7, Resent: 51, Sent: 10 * ms, Heard: 62 * s}, 10},
		}, 0},
		{"nothing to be answered for long, and then two packets lost at once", []look{
			{TCPState{Unacked: 3, Received: 7, Resent: 5, Sent: 1 * s, Heard: 900 * ms}, 10},
			{TCPState{Unacked: 3, Received: 7, Resent: 7, Sent: 10 * ms, Heard: 11 * s}, 1},
			{TCPState{Received: 8, Resent: 7, Sent: 1 * s, Heard: 900 * ms}, 1},
		}, 0},
		{"lost once only, and slow to be sent again", []look{
			{TCPState{Unacked: 1, Received: 7, Resent: 0, Sent: 10 * ms, Heard: 1 * s}, 1},
			{TCPState{Unacked: 1, Received: 7, Resent: 1, Sent: 10 * ms, Heard: 3 * s}, 10},
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l Liveness
			n, dead := 0, 0
			for _, k := range tt.looks {
				for i := range max(1, k.times) {
					now := k.TCPState
					now.Sent += time.Duration(i) * s
					now.Heard += time.Duration(i) * s
					n++
					if l = l.Look(now, s); l.Dead(now, Silence) && dead == 0 {
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
	gone := TCPState{Unacked: 1, Received: 7, Resent: 9, Sent: 100 * ms, Heard: time.Hour}
	l := Liveness{}.Look(gone, time.Hour)
	gone.Resent += 9
	if l = l.Look(gone, time.Hour); l.Dead(gone, Silence) {
		t.Error("given up after two looks")
	}
}

// A connection is looked at as long as its peer owes an answer to anything: to data, or to a
// question for its window, which data waits for.
func TestWhatAPeerOwes(t *testing.T) {
	for _, tt := range []struct {
		TCPState
		want bool
	}{
		{TCPState{}, false},
		{TCPState{Received: 9, Resent: 9, Sent: time.Hour, Heard: time.Hour}, false},
		{TCPState{Unacked: 1}, true},
		{TCPState{Unsent: 1}, true},
		{TCPState{Probes: 1}, true},
	} {
		if got := tt.Outstanding(); got != tt.want {
			t.Errorf("%+v: outstanding %v", tt.TCPState, got)
		}
	}
}

package rtt

import (
	"testing"
	"time"
)

func TestFlights(t *testing.T) {
	const s = time.Second
	var fs flights
	if _, ok := fs.due(); ok {
		t.Error("nothing is flying, but due")
	}
	for seq := uint64(1); seq <= 8; seq++ {
		if fs.launch(seq, seq*10, -s, time.Duration(seq)*s, 1) { // readings may be negative
			t.Fatal("pushed out a probe though there is room")
		}
	}
	if at, ok := fs.due(); at != 0 || !ok {
		t.Errorf("due at %v, %v; want 0", at, ok)
	}
	for _, row := range []struct {
		name       string
		seq, nonce uint64
		now        time.Duration
		path       uint8
	}{
		{"another nonce", 1, 11, 0, 1}, {"never sent", 9, 90, 0, 1}, {"before the first", 0, 0, 0, 1},
		{"another address", 1, 10, 0, 2}, {"too late", 1, 10, 2*s + 1, 1},
	} {
		if _, _, ok := fs.land(row.seq, row.nonce, row.now, row.path); ok {
			t.Errorf("%s: taken", row.name)
		}
	}
	fs.stamp(1, -s+5, 7)
	fs.stamp(9, 1, 1) // not there: no effect
	if f, late, ok := fs.land(1, 10, 0, 1); !ok || late || f.sent != -s+5 || f.wall != 7 {
		t.Errorf("%+v, late %v, %v", f, late, ok)
	}
	if _, _, ok := fs.land(1, 10, 0, 1); ok {
		t.Error("taken twice")
	}
	if n := fs.expire(s, 0); n != 1 { // probe 2
		t.Errorf("%d given up, want 1", n)
	}
	if _, late, ok := fs.land(2, 20, s, 1); !ok || !late {
		t.Errorf("a late answer: late %v, %v", late, ok)
	}
	if n := fs.expire(3*s, 500*ms); n != 0 { // 3 and 4, but we are late ourselves
		t.Errorf("%d given up by one who came late himself", n)
	}
	if at, _ := fs.due(); at != 3*s+500*ms {
		t.Errorf("due at %v, want as much later", at)
	}
	if n := fs.expire(4*s, 500*ms); n != 2 { // put off once only; 5 is put off now
		t.Errorf("%d given up, want 2", n)
	}
	if !fs.launch(14, 0, 4*s, s, 1) || fs.launch(12, 0, 4*s, s, 1) {
		t.Error("14 pushes out 6, which is flying; 12 pushes out 4, which was given up")
	}
}

package probe

import (
	"testing"
	"time"
)

func TestInflight(t *testing.T) {
	const s = time.Second
	var fs inflight
	if _, ok := fs.due(); ok {
		t.Error("nothing is waiting, but due")
	}
	for seq := uint64(1); seq <= 8; seq++ {
		if _, lost := fs.add(seq, seq*10, -s, time.Duration(seq)*s, 1); lost { // readings may be negative
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
		if _, ok := fs.answer(row.seq, row.nonce, row.now, row.path); ok {
			t.Errorf("%s: taken", row.name)
		}
	}
	fs.stamp(1, -s+5, 7)
	fs.stamp(9, 1, 1) // not there: no effect
	if fs.room(-1) {
		t.Error("room while eight are under way")
	}
	if f, ok := fs.answer(1, 10, 0, 1); !ok || f.sent != -s+5 || f.wall != 7 {
		t.Errorf("%+v, %v", f, ok)
	}
	if _, ok := fs.answer(1, 10, 0, 1); ok {
		t.Error("taken twice")
	}
	if !fs.room(0) {
		t.Error("no room though one was answered")
	}
	expire := func(now, late time.Duration, missed, lost int) {
		t.Helper()
		if m, l := fs.expire(now, late); m != missed || l != lost {
			t.Errorf("at %v: %d overdue and %d lost, want %d and %d", now, m, l, missed, lost)
		}
	}
	expire(s, 0, 1, 0) // probe 2
	expire(s, 0, 0, 0) // told once
	if at, ok := fs.due(); at != 2*s || !ok {
		t.Errorf("due at %v, want when 2 is lost or 3 overdue", at)
	}
	if _, ok := fs.answer(2, 20, s, 1); !ok {
		t.Error("a late answer was not taken")
	}
	fs.add(9, 90, s, 0, 1)
	fs.add(10, 100, s, 0, 1)
	expire(s, 0, 2, 0)
	fs.answer(9, 90, s, 1)
	fs.answer(10, 100, s, 1)
	expire(3*s/2, 500*ms, 0, 0) // nothing is due
	expire(2*s-1, 0, 0, 0)
	expire(2*s, 500*ms, 0, 0) // 3, but we are late ourselves
	if at, _ := fs.due(); at != 2*s+500*ms {
		t.Errorf("due at %v, want as much later", at)
	}
	expire(5*s/2, 500*ms, 1, 0) // put off once only
	if _, ok := fs.answer(3, 30, 3*s, 1); !ok {
		t.Error("3, which was put off, is not taken a second longer")
	}
	expire(7*s, 0, 5, 5) // overdue and lost at once
	if _, ok := fs.due(); ok {
		t.Error("due though nothing is under way")
	}
	for seq := uint64(11); seq <= 18; seq++ {
		fs.add(seq, 0, 4*s+time.Duration(seq), s/5, 1)
	}
	if fs.room(5*s+10) || !fs.room(5*s+11) {
		t.Error("eight that are not answered make room after a second, and not before")
	}
	if missed, lost := fs.add(19, 0, 4*s+19, s/5, 1); !missed || !lost || fs.of(11) != nil {
		t.Error("11 was waiting, and the oldest")
	}
	fs.expire(5*s, 0)
	if missed, lost := fs.add(20, 0, 5*s, s, 1); missed || !lost || fs.of(12) != nil {
		t.Error("12 was overdue, and the oldest")
	}
}

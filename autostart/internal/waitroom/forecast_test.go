package waitroom

import (
	"testing"
	"time"
)

func TestForecast(t *testing.T) {
	at := func(n time.Duration) time.Time { return t0.Add(n * sec) }
	for _, c := range []struct {
		name  string
		f     Forecast
		limit time.Duration
		since time.Duration // of the wait, in seconds after t0
		ends  time.Time
	}{
		{name: "no start", f: Forecast{Wait: 10 * sec}, since: 2, ends: at(12)},
		{name: "a start", f: Forecast{Wait: 10 * sec, Await: at(40)}, since: 2, ends: at(40)},
		{name: "a start that ends sooner", f: Forecast{Wait: 10 * sec, Await: at(5)}, ends: at(10)},
		{name: "start after start", f: Forecast{Wait: 10 * sec, Await: at(900)}, ends: at(300)},
		{name: "long boots, one after the other", f: Forecast{Wait: 400 * sec, Await: at(900)}, ends: at(800)},
		{name: "a limit", f: Forecast{Wait: 10 * sec, Await: at(40)}, limit: 3 * sec, ends: at(3)},
		{name: "no end", f: Forecast{Wait: 10 * sec}, limit: -1, ends: t0.Add(endless)},
	} {
		if got := c.f.Ends(at(c.since), c.limit); !got.Equal(c.ends) {
			t.Errorf("%s: ends after %v, want %v", c.name, got.Sub(t0), c.ends.Sub(t0))
		}
	}

	f := Forecast{Refuse: "no disk", Until: at(5)}
	if why, left := f.Refused(at(2)); why != "no disk" || left != 3*sec {
		t.Errorf("refused for %q, %v", why, left)
	}
	if why, left := f.Refused(at(5)); why != "" || left != 0 {
		t.Errorf("still refused for %q, %v", why, left)
	}

	const tick = sec / 10
	if d := f.Back(at(0), 0, 0, tick); d != sec {
		t.Errorf("where nothing is known, back after %v, want 1 s", d)
	}
	if d := f.Back(at(0), 4*sec, 2*sec, tick); d != 4*sec {
		t.Errorf("back after %v, want 4 s, which those who wait take", d)
	}
	f.Coming = at(3)
	if d := f.Back(at(0), 4*sec, 20*sec, tick); d != 7*sec {
		t.Errorf("back after %v, want 7 s: a boot, and those who wait", d)
	}
	if d := f.Back(at(9), 0, 0, tick); d != tick {
		t.Errorf("back after %v where a start is late, want a tick", d)
	}
}

package health

import (
	"strings"
	"testing"
	"time"
)

func TestMisplaced(t *testing.T) {
	const addr = "127.0.0.1:80"
	type look struct {
		at     time.Duration
		where  string
		failed bool
	}
	for _, tc := range []struct {
		name  string
		addr  string
		looks []look
	}{
		{"nowhere", addr, []look{{0, "", false}, {time.Hour, "", false}}},
		{"where it should", addr, []look{{0, addr, false}, {time.Hour, addr, false}}},
		{"at all interfaces", addr, []look{{0, "0.0.0.0:80", false}, {time.Hour, "0.0.0.0:80", false}}},
		{"the other family, same port", addr, []look{{0, "[::1]:80", false}, {sec, "[::1]:80", true}}},
		{"the same port, at all interfaces of the other family", addr, []look{{0, "[::]:80", false}, {sec, "[::]:80", true}}},
		{"another port", addr, []look{{0, "0.0.0.0:8080", false}, {sec, "0.0.0.0:8080", false}, {2 * sec, "0.0.0.0:8080", true}}},
		{"one after the other", addr, []look{
			{0, "127.0.0.1:81", false}, {sec, "127.0.0.1:81 127.0.0.1:82", false},
			{2 * sec, "127.0.0.1:81 127.0.0.1:82", false}, {3 * sec, "127.0.0.1:81 127.0.0.1:82", true},
		}},
		{"a port of its own before the right one", addr, []look{
			{0, "127.0.0.1:9090", false}, {sec, "127.0.0.1:9090 127.0.0.1:80", false},
			{time.Hour, "127.0.0.1:9090 127.0.0.1:80", false},
		}},
		{"closed again", addr, []look{{0, "127.0.0.1:81", false}, {sec, "", false}, {4 * sec, "127.0.0.1:81", false}}},
		{"another one, of the sixth version", "[::1]:80", []look{{0, "[::]:80", false}, {sec, "127.0.0.1:80", false}, {2 * sec, "127.0.0.1:80", true}}},
		{"a name", "app.internal:80", []look{{0, "10.0.0.1:81", false}, {3 * sec, "10.0.0.1:81", true}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p misplaced
			for _, l := range tc.looks {
				where, failed := p.look(t0.Add(l.at), tc.addr, strings.Fields(l.where), misplacedOther)
				if failed != l.failed || failed && where != strings.Join(strings.Fields(l.where), ", ") {
					t.Errorf("at %v, listening at %q: %q, %v; want %v", l.at, l.where, where, failed, l.failed)
				}
			}
		})
	}
	// of an app whose last start failed because it listened elsewhere
	for _, at := range []string{"[::1]:80", "127.0.0.1:81"} {
		var p misplaced
		if _, failed := p.look(t0, addr, []string{at}, 0); !failed {
			t.Errorf("listening at %s again: want it to fail at once", at)
		}
	}
	for n, want := range []time.Duration{1, 0, 0, 2, 4, 8, 16} {
		if got := (Known{Misplaced: n}).misplacedGrace(); got != want*misplacedOther {
			t.Errorf("%v after %d failures, want %v", got, n, want*misplacedOther)
		}
	}
	if d := (Known{Misplaced: 1000}).misplacedGrace(); d > 10*time.Minute {
		t.Errorf("%v after 1000 failures", d)
	}
	if d := (Known{Longest: 40 * sec, Grace: sec}).misplacedGrace(); d != 40*sec {
		t.Errorf("%v where boots take 40 s", d)
	}
	if d := (Known{Longest: sec, Grace: 50 * sec, Misplaced: 1}).misplacedGrace(); d != 50*sec {
		t.Errorf("%v with a grace of 50 s", d)
	}
}

// A boot that hangs differs from a slow one: it does nothing, and neither what is known of the
// app's boots nor its check's grace allows for that.
func TestDoubtfulBoots(t *testing.T) {
	for _, tc := range []struct {
		name            string
		k               Known
		age             time.Duration
		elsewhere, idle time.Duration
		doubtful, hangs bool
	}{
		{"it works", Known{}, time.Hour, 0, sec, false, false},
		{"it does nothing", Known{}, 2 * sec, 0, 2 * sec, true, false},
		{"not for long yet", Known{}, 2 * sec, 0, 1500 * time.Millisecond, false, false},
		{"another one has been doubted", Known{Doubted: 1}, 2 * sec, 0, sec, true, false},
		{"it listens elsewhere", Known{}, 2 * sec, 2 * sec, 0, true, false},
		{"its boots take 12 s: the second one may take 24", Known{Longest: 12 * sec, Suspect: 24 * sec}, 23 * sec, 0, 23 * sec, false, false},
		{"beyond that", Known{Longest: 12 * sec, Suspect: 24 * sec}, 24 * sec, 0, 24 * sec, true, true},
		{"quick boots", Known{Longest: sec, Suspect: 2 * sec}, 3 * sec, 0, 3 * sec, true, false},
		{"a grace", Known{Grace: 20 * sec}, 19 * sec, 0, 19 * sec, false, false},
		{"beyond the grace", Known{Grace: 20 * sec}, 20 * sec, 0, 20 * sec, true, true},
		{"for as long as a wait may take", Known{}, 15 * sec, 0, 14 * sec, true, true},
		{"it did something at the beginning", Known{}, 15 * sec, 0, 9 * sec, true, false},
		{"twice as long the next time", Known{Hung: 1}, 29 * sec, 0, 29 * sec, true, false},
		{"and then it has failed", Known{Hung: 1}, 30 * sec, 0, 29 * sec, true, true},
		{"and no longer for some times", Known{Hung: 4}, time.Minute, 0, time.Minute, true, true},
		{"then longer", Known{Hung: 5}, 119 * sec, 0, 119 * sec, true, false},
		{"not for ever", Known{Hung: 1000}, 8 * time.Minute, 0, 8 * time.Minute, true, true},
	} {
		if d, h := tc.k.doubtful(tc.age, tc.elsewhere, tc.idle), tc.k.hangs(tc.age, tc.idle); d != tc.doubtful ||
			h != tc.hangs {
			t.Errorf("%s: doubtful %v, hangs %v; want %v, %v", tc.name, d, h, tc.doubtful, tc.hangs)
		}
	}
	for _, d := range []Seen{{Idle: sec}, {Idle: sec, Known: true, Listens: []string{"[::1]:1"}}} {
		if got := idleFor(d); got != 0 {
			t.Errorf("%+v: idle for %v", d, got)
		}
	}
}

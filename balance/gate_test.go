package balance

import (
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

func newGate(t testing.TB, l Limits) *Gate {
	t.Helper()
	g, err := NewGate(l)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func start(t testing.TB, g *Gate) {
	t.Helper()
	token, a := g.Start(g.Load().Epoch)
	if a != StartAccepted || !g.Ready(token) {
		t.Fatalf("start: %v", a)
	}
}

func TestGateStory(t *testing.T) {
	g := newGate(t, Limits{Soft: 1, Hard: 2})
	if _, b := g.Enter(0, 0, 0); b != BounceNotStarted {
		t.Fatalf("a stopped machine admits: %v", b)
	}
	token, a := g.Start(0)
	if a != StartAccepted {
		t.Fatalf("start: %v", a)
	}
	if _, again := g.Start(0); again != StartUnderway {
		t.Errorf("a second start: %v, want already starting", again)
	}
	if _, b := g.Enter(0, 0, 0); b != BounceNotStarted {
		t.Errorf("a starting machine admits: %v", b)
	}
	if g.Ready(token + 1) {
		t.Error("a stale token made the machine ready")
	}
	g.Ready(token)
	if _, again := g.Start(0); again != StartRunning {
		t.Errorf("start of a running machine: %v", again)
	}
	for range 2 {
		if l, b := g.Enter(0, 1, 0); b != BounceNone || l.Epoch != 1 {
			t.Fatalf("admit: %v %+v", b, l)
		}
	}
	if l, b := g.Enter(0, 0, 0); b != BounceFull || l.InFlight != 2 || l.Limits.Hard != 2 {
		t.Errorf("third request: %v %+v, want full", b, l)
	}
	gen, ok := g.Cordon()
	if !ok || gen != 1 {
		t.Fatalf("cordon: %d %v", gen, ok)
	}
	if _, ok := g.Close(gen, false); ok {
		t.Error("closed with requests in flight")
	}
	g.Leave()
	g.Leave()
	if _, b := g.Enter(0, 7, 0); b != BounceWrongEpoch {
		t.Errorf("wrong epoch: %v", b)
	}
	g.Enter(0, 0, 0) // from a node that has not seen the cordon: served, and no abort
	g.Leave()
	if g.Touched() {
		t.Error("a request that did not know the cordon touched the machine")
	}
	token, ok = g.Close(gen, true)
	if !ok || g.State() != StateSuspending {
		t.Fatalf("close: %v %v", ok, g.State())
	}
	if _, b := g.Enter(0, 0, 1); b != BounceClosing {
		t.Errorf("a closing machine says %v", b)
	}
	if _, a := g.Start(1); a != StartRemembered {
		t.Errorf("start while suspending: %v", a)
	}
	again, ok := g.Closed(token, true)
	if !again || !ok || g.State() != StateSuspended {
		t.Errorf("closed: again %v, ok %v, %v", again, ok, g.State())
	}
	if _, a := g.Start(0); a != StartRefused {
		t.Errorf("start from an epoch that is over: %v", a)
	}
	if g.Exited(0, true) {
		t.Error("the exit of an old epoch changed the machine")
	}
}

func TestGateKnownCordonAborts(t *testing.T) {
	g := newGate(t, Limits{})
	start(t, g)
	gen, _ := g.Cordon()
	g.Enter(0, 0, gen)
	g.Leave()
	if _, ok := g.Close(gen, false); ok || !g.Touched() {
		t.Errorf("closed although a request came that knew the cordon (touched %v)", g.Touched())
	}
	if g.Uncordon(gen + 1) {
		t.Error("uncordoned by a generation that never was")
	}
	if !g.Uncordon(gen) || g.Touched() {
		t.Error("uncordon failed")
	}
}

// A close applies to the cordon that was decided on: if that cordon has ended, or another has
// followed, the close does nothing.
func TestGateClosesUnderItsOwnCordonOnly(t *testing.T) {
	g := newGate(t, Limits{})
	start(t, g)
	first, _ := g.Cordon()
	if _, ok := g.Close(first+1, false); ok {
		t.Error("closed by a cordon that never was")
	}
	g.Uncordon(first)
	if _, ok := g.Close(first, false); ok {
		t.Error("closed by a cordon that is over")
	}
	second, _ := g.Cordon()
	if _, ok := g.Close(first, false); ok {
		t.Error("closed by an earlier cordon")
	}
	if _, ok := g.Close(second, false); !ok {
		t.Error("not closed by the present one")
	}
}

// A request with a granted slot that comes although it knows the cordon had no better choice
// either: it aborts the stop.
func TestGrantedRequestThatKnewTheCordonAborts(t *testing.T) {
	for _, c := range []struct {
		name   string
		known  func(gen uint64) uint64
		aborts bool
	}{
		{"its node had seen the cordon", func(gen uint64) uint64 { return gen }, true},
		{"its node had seen an earlier one", func(gen uint64) uint64 { return gen - 1 }, false},
	} {
		g := newGate(t, Limits{Hard: 1})
		start(t, g)
		token, _ := g.Grant()
		gen, _ := g.Cordon()
		if _, b := g.Enter(token, 0, c.known(gen)); b != BounceNone {
			t.Fatal(b)
		}
		g.Leave()
		_, closed := g.Close(gen, false)
		if g.Touched() != c.aborts || closed == c.aborts {
			t.Errorf("%s: touched %v, closed %v", c.name, g.Touched(), closed)
		}
	}
}

// The high-water mark includes requests that came and went between two looks, once.
func TestGatePeakSeesShortRequests(t *testing.T) {
	g := newGate(t, Limits{})
	start(t, g)
	peak := func() int { _, n, _ := g.TakeSample(); return n }
	if n := peak(); n != 0 {
		t.Errorf("peak %d of a machine that had no request", n)
	}
	for range 3 {
		g.Enter(0, 0, 0)
	}
	for range 2 {
		g.Leave()
	}
	for i, want := range []int{3, 1, 1} { // the last one is still there
		if n := peak(); n != want {
			t.Errorf("look %d: peak %d, want %d", i, n, want)
		}
	}
	g.Leave()
	if a, b := peak(), peak(); a != 1 || b != 0 {
		t.Errorf("peaks %d and %d after the last request, want 1 and 0", a, b)
	}
}

func TestGateSampleSeesShortRequests(t *testing.T) {
	g := newGate(t, Limits{})
	start(t, g)
	g.Enter(0, 0, 0)
	g.Leave()
	if l, _, used := g.TakeSample(); l.InFlight != 0 || !used {
		t.Errorf("a request between two looks was taken for idleness: %+v %v", l, used)
	}
	if _, _, used := g.TakeSample(); used {
		t.Error("used twice")
	}
}

// The hard limit holds and nothing is in flight behind a closed gate, whatever the interleaving.
func TestGateUnderContention(t *testing.T) {
	const hard = 7
	g := newGate(t, Limits{Hard: hard})
	start(t, g)
	var inside, over, behind atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 300 {
				if _, b := g.Enter(0, 0, 0); b != BounceNone {
					continue
				}
				if n := inside.Add(1); n > hard {
					over.Add(1)
				}
				if s := g.State(); s != StateStarted {
					behind.Add(1)
				}
				inside.Add(-1)
				g.Leave()
			}
		})
	}
	wg.Go(func() {
		for range 200 {
			gen, ok := g.Cordon()
			if !ok {
				continue
			}
			if token, ok := g.Close(gen, false); ok {
				if n := g.InFlight(); n != 0 {
					behind.Add(1)
				}
				g.Closed(token, false)
				token, _ := g.Start(g.Load().Epoch)
				g.Ready(token)
			} else {
				g.Uncordon(gen)
			}
		}
	})
	wg.Wait()
	if over.Load() > 0 || behind.Load() > 0 || g.InFlight() != 0 {
		t.Errorf(
			"%d above the hard limit, %d behind a closed gate, %d left in flight", over.Load(),
			behind.Load(), g.InFlight(),
		)
	}
}

// The gate against a model in plain fields. Whatever the sequence of calls, the hard limit holds, a
// granted token admits one request, a closed gate admits none, and an old epoch, generation or
// token changes nothing.
func TestGateModel(t *testing.T) { rapid.Check(t, gateModel) }

// FuzzGate lets the fuzzer choose the sequence.
func FuzzGate(f *testing.F) { f.Fuzz(rapid.MakeFuzz(gateModel)) }

func gateModel(t *rapid.T) {
	var m struct {
		hard                   int
		state                  State
		cordon, touched        bool
		wanted, ended          bool
		final, retired, doubt  bool
		n                      int // requests
		epoch, gen, token, seq uint64
	}
	granted := map[uint64]bool{} // every token that was given out: whether its slot is still reserved
	var tokens []uint64
	reserved := func() (n int) {
		for _, is := range granted {
			if is {
				n++
			}
		}
		return n
	}
	m.hard = rapid.IntRange(0, 3).Draw(t, "hard")
	g, err := NewGate(Limits{Hard: m.hard})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, got, want bool) {
		if got != want {
			t.Fatalf("%s: %v, want %v in %+v", what, got, want, m)
		}
	}
	// A caller that read the word before a transition must fail after it.
	transition := func(what string, do func() bool, want bool) {
		turn := g.word.Load() >> turnShift
		check(what, do(), want)
		if want && g.word.Load()>>turnShift == turn {
			t.Fatalf("%s does not turn the word", what)
		}
	}
	older := func(what string, now uint64) uint64 { // mostly the present value, else an earlier one
		return now - min(now, rapid.SampledFrom([]uint64{0, 0, 0, 1, 2}).Draw(t, what))
	}
	stopping := func() bool { return m.state == StateStopping || m.state == StateSuspending }
	stays := func() { m.cordon, m.touched, m.wanted = false, false, false }
	refuses := func(epoch uint64) Bounce {
		switch {
		case stopping():
			return BounceClosing
		case m.state != StateStarted:
			return BounceNotStarted
		case epoch != 0 && epoch != m.epoch:
			return BounceWrongEpoch
		case m.hard > 0 && m.n+reserved() >= m.hard:
			return BounceFull
		}
		return BounceNone
	}
	caller := func() (epoch, known uint64) {
		if rapid.Bool().Draw(t, "means an epoch") {
			epoch = older("epoch", m.epoch)
		}
		return epoch, older("known generation", m.gen)
	}
	let := func(what string, known uint64, l Load, b, want Bounce) {
		if b != want || l.Seq <= m.seq {
			t.Fatalf("%s: %v (number %d), want %v in %+v", what, b, l.Seq, want, m)
		}
		if m.seq = l.Seq; want == BounceNone {
			m.n++
			m.touched = m.touched || m.cordon && known >= m.gen
		}
	}
	started := func() bool { return m.state == StateStarted }
	actions := []struct {
		name  string
		makes func() bool // whether it makes sense now: otherwise, sequences would get nowhere
		do    func()
	}{
		{"admit", started, func() {
			epoch, known := caller()
			want := refuses(epoch)
			l, b := g.Enter(0, epoch, known)
			let("admit", known, l, b, want)
		}},
		{"leave", func() bool { return m.n > 0 }, func() {
			if m.n == 0 {
				return
			}
			g.Leave()
			m.n--
		}},
		{"grant", started, func() {
			want := refuses(0) == BounceNone
			token, ok := g.Grant()
			check("grant", ok, want)
			if _, again := granted[token]; again || ok && token == 0 {
				t.Fatalf("token %d", token)
			}
			if ok {
				granted[token] = true
				tokens = append(tokens, token)
			}
		}},
		{"enter", started, func() {
			token := rapid.SampledFrom(append(tokens, 0, 1<<60)).Draw(t, "token")
			epoch, known := caller()
			want := refuses(epoch)
			if granted[token] {
				if granted[token] = false; want == BounceFull {
					want = BounceNone // its slot is counted already
				}
			}
			l, b := g.Enter(token, epoch, known)
			let("enter", known, l, b, want)
		}},
		{"revoke", func() bool { return len(tokens) > 0 }, func() {
			token := rapid.SampledFrom(append(tokens, 0, 1<<60)).Draw(t, "token")
			want := granted[token]
			check("revoke", g.Revoke(token), want)
			if want {
				granted[token] = false
			}
		}},
		{"limit", func() bool { return false }, func() {
			m.hard = rapid.IntRange(0, 3).Draw(t, "hard")
			if err := g.SetLimits(Limits{Hard: m.hard}); err != nil {
				t.Fatal(err)
			}
		}},
		{"start", func() bool { return m.state.Startable() }, func() {
			from := older("from", m.epoch)
			accepts := m.state.Startable() && from == m.epoch && !m.retired
			var token uint64
			var a StartAnswer
			transition("start", func() bool {
				token, a = g.Start(from)
				return a == StartAccepted
			}, accepts)
			check("remembered", a == StartRemembered, stopping() && !m.final && !m.retired)
			if accepts {
				stays()
				m.state, m.token = StateStarting, token
				m.epoch++
			}
			m.wanted = m.wanted || a == StartRemembered
			m.touched = m.touched || a == StartRunning && m.cordon
		}},
		{"ready", func() bool { return m.state == StateStarting }, func() {
			k := older("token", m.token)
			want := k == m.token && m.state == StateStarting
			transition("ready", func() bool { return g.Ready(k) }, want)
			if want {
				m.state = StateStarted
			}
		}},
		{"fail", func() bool { return false }, func() {
			k := older("token", m.token)
			want := k == m.token && m.state == StateStarting
			transition("fail", func() bool { return g.Fail(k) }, want)
			if want {
				m.state = StateFailed
			}
		}},
		{"cordon", func() bool { return m.state == StateStarted && !m.cordon }, func() {
			want := m.state == StateStarted && !m.cordon
			transition("cordon", func() bool { _, ok := g.Cordon(); return ok }, want)
			if want {
				m.cordon, m.touched = true, false
				m.gen++
			}
		}},
		{"uncordon", func() bool { return m.cordon }, func() {
			gen := older("generation", m.gen)
			want := m.state == StateStarted && m.cordon && gen == m.gen
			transition("uncordon", func() bool { return g.Uncordon(gen) }, want)
			if want {
				m.cordon, m.touched = false, false
			}
		}},
		{"close", func() bool { return m.cordon }, func() {
			gen, suspend := older("generation", m.gen), rapid.Bool().Draw(t, "suspend")
			want := m.state == StateStarted && m.cordon && gen == m.gen && !m.touched && m.n+reserved() == 0
			transition("close", func() (ok bool) {
				token, ok := g.Close(gen, suspend)
				if ok {
					m.token = token
				}
				return ok
			}, want)
			if want {
				m.ended, m.final, m.doubt = false, false, false
				if m.state = StateStopping; suspend {
					m.state = StateSuspending
				}
			}
		}},
		{"close now", func() bool { return false }, func() {
			want := m.state == StateStarted
			transition("close now", func() bool {
				token, ok := g.CloseNow()
				if ok {
					m.token = token
				}
				return ok
			}, want)
			if want {
				m.state, m.ended, m.final, m.doubt = StateStopping, false, false, false
			}
		}},
		{"closed", stopping, func() {
			k, suspended := older("token", m.token), rapid.Bool().Draw(t, "suspended")
			want, again := k == m.token && stopping(), false
			transition("closed", func() (ok bool) {
				again, ok = g.Closed(k, suspended)
				return ok
			}, want)
			check("again", again, want && m.wanted)
			if want {
				stays()
				if m.state = StateStopped; suspended {
					m.state = StateSuspended
				}
			}
		}},
		{"reopen", stopping, func() {
			k := older("token", m.token)
			want := k == m.token && stopping()
			transition("reopen", func() bool { return g.Reopen(k) }, want)
			if want {
				stays()
				if m.state = StateStarted; m.ended {
					m.state = StateFailed
				}
			}
		}},
		{"exited", func() bool { return false }, func() {
			epoch, failed := older("epoch", m.epoch), rapid.Bool().Draw(t, "failed")
			want := epoch == m.epoch &&
				(m.state == StateStarting || m.state == StateStarted || m.state == StateSuspended)
			m.ended = m.ended || epoch == m.epoch && stopping()
			transition("exited", func() bool { return g.Exited(epoch, failed) }, want)
			if want {
				stays()
				if m.state = StateStopped; failed {
					m.state = StateFailed
				}
			}
		}},
		{"forget", func() bool { return false }, func() {
			check("forget", g.Forget(), stopping())
			if stopping() {
				m.final, m.wanted = true, false
			}
		}},
		{"abandon", func() bool { return false }, func() {
			k := older("token", m.token)
			want := k == m.token && stopping()
			check("abandon", g.Abandon(k), want)
			m.doubt = m.doubt || want
		}},
		{"take over", func() bool { return m.doubt }, func() {
			want := m.doubt && stopping()
			token, ok := g.TakeOver()
			check("take over", ok, want)
			if ok {
				m.token, m.doubt = token, false
			}
		}},
		{"retire", func() bool { return m.retired }, func() {
			m.retired = !m.retired
			if g.Retire(m.retired); m.retired {
				m.wanted = false
			}
		}},
	}
	for range rapid.IntRange(1, 150).Draw(t, "calls") {
		whatever := rapid.IntRange(0, 9).Draw(t, "whatever") == 0
		var able []int
		for i, a := range actions {
			if whatever || a.makes() {
				able = append(able, i)
			}
		}
		actions[rapid.SampledFrom(able).Draw(t, "call")].do()
		l := g.Load()
		if l.InFlight != m.n+reserved() || g.Granted() != reserved() || l.State != m.state ||
			l.Epoch != m.epoch ||
			l.CordonGen != m.gen ||
			(l.Cordon == CordonSoft) != m.cordon ||
			g.Touched() != (m.cordon && m.touched) ||
			g.Wanted() != m.wanted ||
			l.Seq <= m.seq {
			t.Fatalf("gate %+v with %d granted, touched %v, wanted %v; model %+v with %d granted", l,
				g.Granted(), g.Touched(), g.Wanted(), m, reserved())
		}
		m.seq = l.Seq
	}
}

func BenchmarkGate(b *testing.B) {
	g := newGate(b, Limits{Hard: 1000})
	start(b, g)
	b.Run("goroutines=1", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g.Enter(0, 0, 0)
			g.Leave()
		}
	})
	b.Run("goroutines=parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				g.Enter(0, 0, 0)
				g.Leave()
			}
		})
	})
}

// A start that comes during a stop is remembered if somebody performs it later, and reported once
// when the stop is over.
func TestGateRemembersForItsKeepers(t *testing.T) {
	f, err := NewFleet(FleetConfig{Node: "w", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := f.Host(Machine{ID: "m", App: "web", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	var told []MachineID
	stop := func(meanwhile func(token uint64)) (again bool) {
		t.Helper()
		start(t, g)
		token, ok := g.CloseNow()
		if !ok {
			t.Fatal("not closed")
		}
		meanwhile(token)
		again, _ = g.Closed(token, false)
		return again
	}
	asks := func(want StartAnswer) func(uint64) {
		return func(uint64) {
			t.Helper()
			if _, a := g.Start(0); a != want {
				t.Errorf("start during a stop: %v, want %v", a, want)
			}
		}
	}
	if stop(asks(StartRefused)) {
		t.Error("a start is remembered that nobody would do")
	}
	f.Keep(Keeper{})
	if stop(asks(StartRefused)) {
		t.Error("a start is remembered that no keeper would do")
	}
	release := f.Keep(Keeper{Wanted: func(app AppID, id MachineID) {
		if app != "web" || g.State() != StateStopped {
			t.Errorf("app %q is told of while its machine is %v", app, g.State())
		}
		told = append(told, id)
	}})
	if !stop(asks(StartRemembered)) || len(told) != 1 || told[0] != "m" {
		t.Errorf("told of %q, want m once", told)
	}
	if stop(func(uint64) {}) || len(told) != 1 {
		t.Error("told of a start that nobody asked for")
	}
	if stop(func(uint64) {
		asks(StartRemembered)(0)
		if !g.Forget() {
			t.Error("there is a stop, and it cannot be made to forget")
		}
		asks(StartRefused)(0)
	}) || len(told) != 1 {
		t.Error("told of a start that was to be forgotten")
	}
	if g.Forget() {
		t.Error("there is no stop, and it forgets")
	}
	if !stop(func(token uint64) {
		asks(StartRemembered)(0) // the stop before this one was final, this one is not
	}) || len(told) != 2 {
		t.Errorf("told %d times, want 2", len(told))
	}
	stop(func(token uint64) {
		asks(StartRemembered)(0)
		g.Reopen(token) // it runs on: there is nothing to do
	})
	if len(told) != 2 {
		t.Errorf("told of the start of a machine that was not stopped after all")
	}
	token, _ := g.CloseNow()
	g.Closed(token, false)
	release()
	if stop(asks(StartRefused)) || len(told) != 2 {
		t.Error("a start is remembered after its keeper has left")
	}
}

func TestGateSuspects(t *testing.T) {
	f, _ := NewFleet(FleetConfig{Node: "w", Region: "nrt"})
	g, _ := f.Host(Machine{ID: "m", App: "web", Region: "nrt"})
	var told []uint64
	defer f.Keep(
		Keeper{Suspect: func(_ AppID, _ MachineID, epoch uint64) { told = append(told, epoch) }},
	)()
	g.Suspect(0) // it does not run
	start(t, g)
	g.Suspect(0)
	g.Suspect(1)
	g.Suspect(2)
	if len(told) != 1 || told[0] != 1 {
		t.Errorf("told of epochs %v, want 1", told)
	}
	newGate(t, Limits{}).Suspect(0) // of no fleet: there is nobody to tell
}

// A stop that was abandoned has one successor, whose token ends it; the token of the caller that
// abandoned it is invalid from then on. A stop that a caller is carrying out, and one that is over,
// cannot be taken over.
func TestAbandonedStopsAreTakenOver(t *testing.T) {
	g, err := NewGate(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	start, _ := g.Start(0)
	g.Ready(start)
	if g.Abandon(start) {
		t.Error("abandoned, and nothing is being stopped")
	}
	stop, _ := g.CloseNow()
	if _, ok := g.TakeOver(); ok {
		t.Error("taken from somebody who is at it")
	}
	if g.Abandon(stop - 1) {
		t.Error("abandoned with another token")
	}
	if !g.Abandon(stop) {
		t.Error("not abandoned")
	}
	next, ok := g.TakeOver()
	if _, again := g.TakeOver(); !ok || again || next == stop {
		t.Errorf("taken over %v, and once more %v; token %d after %d", ok, again, next, stop)
	}
	if _, ok := g.Closed(stop, false); ok || g.Reopen(stop) || g.Abandon(stop) {
		t.Error("whoever gave the stop up has ended it")
	}
	if _, ok := g.Closed(next, false); !ok || g.State() != StateStopped {
		t.Errorf("%v after the end of the stop", g.State())
	}
	start, _ = g.Start(1)
	g.Ready(start)
	stop, _ = g.CloseNow()
	if _, ok := g.TakeOver(); ok {
		t.Error("a new stop begins in doubt")
	}
	g.Abandon(stop)
	g.Closed(stop, false) // the driver answered after all
	if _, ok := g.TakeOver(); ok || g.State() != StateStopped {
		t.Errorf("a stop that is over was taken over; %v", g.State())
	}
}

// A caller that waits for the end of a run is told once, without delay, and never of the end of
// another run.
func TestAfterRun(t *testing.T) {
	started := func(t *testing.T) (*Gate, uint64) {
		g, err := NewGate(Limits{})
		if err != nil {
			t.Fatal(err)
		}
		token, _ := g.Start(0)
		g.Ready(token)
		return g, g.Load().Epoch
	}
	for name, tt := range map[string]struct {
		ends bool
		do   func(g *Gate, epoch uint64)
	}{
		"nothing":             {false, func(*Gate, uint64) {}},
		"cordon and uncordon": {false, func(g *Gate, _ uint64) { gen, _ := g.Cordon(); g.Uncordon(gen) }},
		"closing":             {false, func(g *Gate, _ uint64) { g.CloseNow() }},
		"closed and reopened": {false, func(g *Gate, _ uint64) { token, _ := g.CloseNow(); g.Reopen(token) }},
		"an older exit":       {false, func(g *Gate, epoch uint64) { g.Exited(epoch-1, true) }},
		"stopped":             {true, func(g *Gate, _ uint64) { token, _ := g.CloseNow(); g.Closed(token, false) }},
		"suspended":           {true, func(g *Gate, _ uint64) { gen, _ := g.Cordon(); token, _ := g.Close(gen, true); g.Closed(token, true) }},
		"failed":              {true, func(g *Gate, epoch uint64) { g.Exited(epoch, true) }},
		"ended while it was being stopped": {true, func(g *Gate, epoch uint64) {
			g.CloseNow()
			g.Exited(epoch, false)
		}},
		"started again": {true, func(g *Gate, epoch uint64) { g.Exited(epoch, false); g.Start(epoch) }},
	} {
		t.Run(name, func(t *testing.T) {
			g, epoch := started(t)
			var calls, stopped int
			g.AfterRun(epoch,
				func() { calls++; g.Load(); g.AfterRun(epoch+1, func() {}) }) // no lock is held
			stop := g.AfterRun(epoch, func() { stopped++ })
			stop()
			tt.do(g, epoch)
			want := 0
			if tt.ends {
				want = 1
			}
			if calls != want || stopped != 0 {
				t.Errorf("called %d times, want %d; %d times after it was stopped", calls, want, stopped)
			}
			late := 0
			g.AfterRun(epoch, func() { late++ })
			if late != want {
				t.Errorf("afterwards: called %d times, want %d", late, want)
			}
			if token, a := g.Start(g.Load().Epoch); a == StartAccepted {
				g.Ready(token)
				g.Exited(g.Load().Epoch, true)
			}
			if calls > want {
				t.Error("called again for another run")
			}
		})
	}
}

func TestGrantStory(t *testing.T) {
	g := newGate(t, Limits{Hard: 1})
	if _, ok := g.Grant(); ok {
		t.Error("a slot of a stopped machine was granted")
	}
	start(t, g)
	token, ok := g.Grant()
	if _, b := g.Enter(0, 0, 0); !ok || b != BounceFull {
		t.Errorf("granted %v, and another enters: %v", ok, b)
	}
	gen, _ := g.Cordon()
	if _, ok := g.Close(gen, false); ok {
		t.Error("closed under a granted slot")
	}
	if l, b := g.Enter(token, 0, 0); b != BounceNone || l.InFlight != 1 {
		t.Errorf("enter: %v %+v", b, l)
	}
	if _, b := g.Enter(token, 0, 0); b != BounceFull {
		t.Errorf("entered twice by one token: %v", b)
	}
	g.Leave()
	token, _ = g.Grant()
	if !g.Revoke(token) || g.Revoke(token) || g.InFlight() != 0 {
		t.Error("revoke")
	}
	token, _ = g.Grant()
	g.CloseNow()
	if _, b := g.Enter(token, 0, 0); b != BounceClosing || g.InFlight() != 0 {
		t.Errorf("entered at a closing gate: %v, %d in flight", b, g.InFlight())
	}
}

// A machine that an earlier process has started is adopted under its epoch, unless the gate knows
// of a later one; it does not close while it is unknown what is in flight there.
func TestGateAdopts(t *testing.T) {
	g, err := NewGate(Limits{Hard: 1})
	if err != nil {
		t.Fatal(err)
	}
	token, slot, ok := g.Adopt(7, false)
	if l := g.Load(); !ok || l.State != StateStarting || l.Epoch != 7 || l.InFlight != 1 {
		t.Fatalf("adopted: %v, %+v", ok, l)
	}
	if _, _, again := g.Adopt(8, false); again {
		t.Error("a machine that is starting was adopted")
	}
	if !g.Ready(token) {
		t.Error("it is not ready")
	}
	gen, _ := g.Cordon()
	if _, b := g.Enter(0, 7, 0); b != BounceFull {
		t.Errorf("a request beside what is unknown, at a hard limit of one: %v", b)
	}
	if _, closed := g.Close(gen, false); closed {
		t.Error("it closes under what is unknown")
	}
	if !g.Revoke(slot) {
		t.Error("the slot is lost")
	}
	stop, closed := g.Close(gen, false)
	g.Closed(stop, false)
	if _, _, ok := g.Adopt(7, false); !closed || ok {
		t.Errorf("closed: %v; a run that has ended was adopted: %v", closed, ok)
	}
	if _, slot, ok := g.Adopt(9, true); !ok || slot != 0 || g.State() != StateSuspended ||
		g.InFlight() != 0 {
		t.Errorf("a suspended machine: %v, %v, %d in flight", ok, g.State(), g.InFlight())
	}
}

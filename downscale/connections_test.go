package downscale

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/google/go-cmp/cmp"
)

// switchboard forwards long connections. Those that are told to end do so soon after, unless they
// are deaf.
type switchboard struct {
	b    *bench
	mu   sync.Mutex
	open map[balance.MachineID][]*longConn
}

type longConn struct {
	class      balance.Class
	deaf, told bool
	data       time.Time // when it last carried some
	gate       *balance.Gate
	within     time.Duration
	end        time.Time
}

func (s *switchboard) Long(m balance.Machine, of balance.Class) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open[m.ID] {
		if c.class&of != 0 && c.end.IsZero() {
			n++
		}
	}
	return n
}

func (s *switchboard) Idle(m balance.Machine, of balance.Class, quiet time.Duration) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open[m.ID] {
		if c.class&of != 0 && c.end.IsZero() && time.Since(c.data) >= quiet {
			n++
		}
	}
	return n
}

func (s *switchboard) Notify(m balance.Machine, of balance.Class, within time.Duration) {
	s.NotifyIdle(m, of, 0, within)
}

func (s *switchboard) NotifyIdle(m balance.Machine, of balance.Class, quiet, within time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open[m.ID] {
		if c.class&of == 0 || c.told || time.Since(c.data) < quiet {
			continue
		}
		c.told, c.within = true, within
		if !c.deaf {
			time.AfterFunc(950*time.Millisecond, func() { s.hangUp(c) })
		}
	}
}

// wasTold returns whether a connection was told, and how long it was given.
func (s *switchboard) wasTold(c *longConn) (bool, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.told, c.within
}

func (s *switchboard) hangUp(c *longConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.end.IsZero() {
		c.end = time.Now()
		c.gate.Leave()
	}
}

func (s *switchboard) connect(id balance.MachineID, of balance.Class, deaf bool) *longConn {
	s.b.request(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &longConn{class: of, deaf: deaf, gate: s.b.gate(id)}
	s.open[id] = append(s.open[id], c)
	return c
}

// carry makes a connection carry data continuously for that long.
func (s *switchboard) carry(c *longConn, length time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.data = time.Now().Add(length)
}

func TestLongConnections(t *testing.T) {
	window := Config{Window: 10 * sec, KeepAlive: -1}
	notify := func(of balance.Class) Config { c := window; c.Notify = of; return c }
	const why = "window 10s peak 2 <= 0.8 x 10 without m1"
	suspendApp, idleApp := stopApp, stopApp
	idleApp.IdleAfter = 30 * sec
	suspendApp.Autostop = balance.AutostopSuspend
	for _, c := range []struct {
		name   string
		config Config
		app    balance.App
		do     func(b *bench, s *switchboard)
		log    []string
		states string
	}{
		{"they keep their machine by default", window, suspendApp, func(b *bench, s *switchboard) {
			s.connect("m1", balance.ClassWebSocket, false)
			s.connect("m2", balance.ClassEvents, false)
			time.Sleep(10 * time.Minute)
		}, nil, "m1 started running, m2 started running"},
		{"they are told and end, and then the machine is suspended", notify(balance.ClassWebSocket | balance.ClassEvents), suspendApp, func(b *bench, s *switchboard) {
			c := s.connect("m1", balance.ClassWebSocket, false)
			s.connect("m2", balance.ClassEvents, false)
			time.Sleep(20 * sec)
			if told, within := s.wasTold(c); !told || within != 5*sec {
				b.t.Errorf("told %v, within %v", told, within)
			}
		}, []string{"10s cordon m1: " + why, "11.1s tell m1: events+websocket", "13.1s suspend m1: " + why, "13.2s suspended m1 in 100ms"}, "m1 suspended frozen, m2 started running"},
		{"those that do not end have the stop aborted", notify(balance.ClassAll), suspendApp, func(b *bench, s *switchboard) {
			s.connect("m1", balance.ClassTCP, true)
			s.connect("m2", balance.ClassStream, true)
			time.Sleep(17 * sec)
		}, []string{"10s cordon m1: " + why, "11.1s tell m1: stream+events+websocket+tcp", "16.1s uncordon m1: its connections did not end in time",
			"17s cordon m2: window 10s peak 2 <= 0.8 x 10 without m2"}, "m1 started running, m2 started running"},
		{"idle ones hold no machine, not the last one either", Config{KeepAlive: 20 * sec}, idleApp, func(b *bench, s *switchboard) {
			one, two := s.connect("m1", balance.ClassWebSocket, false), s.connect("m2", balance.ClassTCP, false)
			s.carry(one, 2*time.Minute)
			time.Sleep(5 * time.Minute)
			if first, _ := s.wasTold(one); !first || one.end.Sub(one.data) < idleApp.IdleAfter+20*sec {
				b.t.Errorf("told %v, %v after its last data", first, one.end.Sub(one.data))
			}
			if second, _ := s.wasTold(two); !second {
				b.t.Error("the connection without data was not told")
			}
		}, []string{
			"2m49s cordon m1: keep-alive 20s over: no request since 20s", "2m49s cordon m2: keep-alive 20s over: no request since 20s",
			"2m50.1s tell m1: websocket", "2m50.1s tell m2: tcp",
			"2m52.1s stop m1: keep-alive 20s over: no request since 20s", "2m52.1s stop m2: keep-alive 20s over: no request since 20s",
			"2m52.2s stopped m1 in 100ms", "2m52.2s stopped m2 in 100ms",
		}, "m1 stopped gone, m2 stopped gone"},
		{"one that carries data keeps its machine", Config{KeepAlive: 20 * sec}, idleApp, func(b *bench, s *switchboard) {
			s.carry(s.connect("m1", balance.ClassWebSocket, false), time.Hour)
			s.carry(s.connect("m2", balance.ClassWebSocket, false), time.Hour)
			time.Sleep(10 * time.Minute)
		}, nil, "m1 started running, m2 started running"},
		{"a class that is not to be told keeps the machine", notify(balance.ClassWebSocket), suspendApp, func(b *bench, s *switchboard) {
			ws := s.connect("m1", balance.ClassWebSocket, false)
			s.connect("m1", balance.ClassTCP, false)
			s.connect("m2", balance.ClassTCP, false)
			time.Sleep(10 * time.Minute)
			if told, _ := s.wasTold(ws); told {
				b.t.Error("a connection was told for nothing")
			}
		}, nil, "m1 started running, m2 started running"},
		{"a request beside it is waited for before anything is told", notify(balance.ClassWebSocket), stopApp, func(b *bench, s *switchboard) {
			c := s.connect("m1", balance.ClassWebSocket, false)
			leave := b.request("m1")
			s.connect("m2", balance.ClassTCP, false)
			time.Sleep(19950 * time.Millisecond)
			if told, _ := s.wasTold(c); told {
				b.t.Error("told while a request is in flight")
			}
			leave()
			time.Sleep(5 * sec)
		}, []string{"10s cordon m1: window 10s peak 3 <= 0.8 x 10 without m1", "21s tell m1: websocket",
			"23s stop m1: window 10s peak 3 <= 0.8 x 10 without m1", "23.1s stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
		{"who comes back to the machine for want of a better one aborts", notify(balance.ClassWebSocket), stopApp, func(b *bench, s *switchboard) {
			s.connect("m1", balance.ClassWebSocket, false)
			s.connect("m2", balance.ClassTCP, false)
			time.Sleep(12050 * time.Millisecond)
			s.connect("m1", balance.ClassWebSocket, false)
			time.Sleep(sec)
		}, []string{"10s cordon m1: " + why, "11.1s tell m1: websocket", "12.1s uncordon m1: a request had no better machine"}, "m1 started running, m2 started running"},
		{"machines without long connections go first", notify(balance.ClassWebSocket), stopApp, func(b *bench, s *switchboard) {
			s.connect("m1", balance.ClassWebSocket, false) // m1 is the last of the order
			b.request("m2")
			time.Sleep(10500 * time.Millisecond)
		}, []string{"10s cordon m2: window 10s peak 2 <= 0.8 x 10 without m2"}, "m1 started running, m2 started running"},
		{"a firm order tells all classes, and cuts off what does not end", window, stopApp, func(b *bench, s *switchboard) {
			b.driver.draining = true
			one, two := s.connect("m1", balance.ClassWebSocket, false), s.connect("m1", balance.ClassTCP, true)
			b.wantOrder(b.order(b.t.Context(), "m1", Order{Reason: "deploy", Drain: 10 * sec, Suspend: true}), "")
			first, _ := s.wasTold(one)
			if second, within := s.wasTold(two); !first || !second || within != 10*sec {
				b.t.Errorf("told %v and %v, within %v", first, second, within)
			}
		}, []string{"0s cordon m1: deploy", "1.1s draining m1: deploy", "1.1s tell m1: stream+events+websocket+tcp", "11.1s stop m1: deploy", "11.2s stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
		{"a handshake that ends after the others were told is told too", window, stopApp, func(b *bench, s *switchboard) {
			b.driver.draining = true
			s.connect("m1", balance.ClassWebSocket, true)
			b.request("m1")
			go func() {
				time.Sleep(5050 * time.Millisecond)
				s.mu.Lock()
				defer s.mu.Unlock()
				s.open["m1"] = append(s.open["m1"], &longConn{class: balance.ClassWebSocket, gate: b.gate("m1")}) // what the request has become
			}()
			b.wantOrder(b.order(b.t.Context(), "m1", Order{Reason: "deploy", Drain: 10 * sec}), "")
			if told, within := s.wasTold(s.open["m1"][1]); !told || within != 6*sec {
				b.t.Errorf("told %v, within %v", told, within)
			}
		}, []string{"0s cordon m1: deploy", "1.1s draining m1: deploy", "1.1s tell m1: stream+events+websocket+tcp", "11.1s stop m1: deploy", "11.2s stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &switchboard{open: map[balance.MachineID][]*longConn{}}
				c.config.Connections = s
				b := newBench(t, c.config, c.app, "m1", "m2")
				s.b = b
				end := b.run()
				synctest.Wait()
				c.do(b, s)
				b.want(c.log...)
				b.wantStates(c.states)
				if err := end(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The reason why a machine stays is reported once, and again when it changes.
func TestHeldNamesTheConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &switchboard{open: map[balance.MachineID][]*longConn{}}
		b := newBench(
			t, Config{Window: 10 * sec, Connections: s, Notify: balance.ClassWebSocket}, stopApp, "m1", "m2",
		)
		s.b = b
		var held, vetoed []string
		b.down.config.Trace.Held = func(d policy.Decision) { held = append(held, d.Reason()) }
		b.down.config.Trace.Vetoed = func(d policy.Decision) { vetoed = append(vetoed, d.Reason()) }
		end := b.run()
		ws := s.connect("m2", balance.ClassWebSocket, false)
		for _, m := range []balance.MachineID{"m1", "m2"} {
			s.connect(m, balance.ClassEvents, true)
		}
		time.Sleep(time.Minute)
		synctest.Wait() // for the look at this instant
		tcp := s.connect("m1", balance.ClassTCP, true)
		time.Sleep(time.Minute)
		synctest.Wait()
		s.hangUp(tcp)
		s.hangUp(ws)
		for _, c := range s.open["m2"] {
			s.hangUp(c)
		}
		time.Sleep(time.Minute)
		end()
		want := []string{
			"settling: 0s of 10s since the last start",
			"m1 could be spared but for its long connections: events",
			"m1 could be spared but for its long connections: events+tcp",
			"1 machine on the way already", "m1 could be spared but for its long connections: events"}
		if d := cmp.Diff(want, held); d != "" || vetoed != nil {
			t.Errorf("held (-want +got):\n%s\nvetoed %q", d, vetoed)
		}
	})
}

// A policy that ignores connections is refused, with a reason.
func TestAPolicyIsVetoedForConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &switchboard{open: map[balance.MachineID][]*longConn{}}
		b := newBench(t, Config{Connections: s, Policy: func(balance.AppID) policy.Policy {
			return policyFunc(func(_ time.Time, s policy.Situation) []policy.Decision {
				return []policy.Decision{
					{
						App: s.App.ID, Region: "nrt", Machine: "m1", Verdict: policy.VerdictSpare,
						Text: "because I say so",
					},
				}
			})
		}}, stopApp, "m1")
		s.b = b
		var vetoed []string
		b.down.config.Trace.Vetoed = func(d policy.Decision) { vetoed = append(vetoed, fmt.Sprint(d.Machine, " ", d.Open)) }
		c := s.connect("m1", balance.ClassWebSocket, false)
		end := b.run()
		time.Sleep(time.Minute)
		s.connect("m1", balance.ClassEvents, true)
		time.Sleep(time.Minute)
		s.hangUp(c)
		time.Sleep(time.Minute)
		end()
		if want := []string{"m1 websocket", "m1 events+websocket", "m1 events"}; !slices.Equal(
			vetoed, want,
		) {
			t.Errorf("vetoed %q, want %q", vetoed, want)
		}
		b.want()
	})
}

func TestABusyMachineIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy sync.Map
		c := quick
		c.Busy = func(m balance.Machine) bool { _, ok := busy.Load(m.ID); return ok }
		b := newBench(t, c, stopApp, "m1", "m2")
		busy.Store(balance.MachineID("m1"), true)
		defer b.run()()
		time.Sleep(5500 * time.Millisecond)
		b.want("5s cordon m2: keep-alive 5s over: no request since 5s")
		busy.Store(balance.MachineID("m2"), true) // it has begun to work on something
		time.Sleep(sec)
		b.want("5.6s uncordon m2: it says that it is busy")
		time.Sleep(time.Minute)
		b.want()
		if err := b.down.Stop(t.Context(), b.row("m1"), Order{}); !errors.Is(err, ErrBusy) {
			t.Errorf("a polite order: %v", err)
		}
		b.forget()
		if err := b.down.Stop(t.Context(), b.row("m1"), Order{Drain: sec}); err != nil {
			t.Errorf("a firm order: %v", err)
		}
		busy.Clear()
		time.Sleep(10 * sec)
		b.wantStates("m1 stopped gone, m2 stopped gone")
	})
}

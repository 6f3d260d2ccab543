package world

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/status"
)

func TestFirstRequestStartsAMachine(t *testing.T) {
	virtual(t, nil, testFirstRequest)
}

func testFirstRequest(t *testing.T, p *play) {
	if s := p.Snapshot(); in(s, "stopped") != 2 {
		t.Fatalf("at first: %+v", s.Machines)
	}
	a := p.get("/")
	if a.status != http.StatusOK || a.header.Get("X-Region") != "nrt" {
		t.Fatalf("%+v", a)
	}
	for h := range a.header {
		if strings.HasPrefix(h, "Ebb-") {
			t.Errorf("internal header %s reaches the client", h)
		}
	}
	// The machine serves requests before its start has been reported.
	p.until("one machine has started, and the log says how", func(s status.Snapshot) bool {
		lacks := func(kind string) bool { return !slices.Contains(p.kinds(""), kind) }
		return in(s, "started") == 1 && in(s, "stopped") == 1 &&
			!slices.ContainsFunc([]string{"park", "start", "started"}, lacks)
	})
	p.until("in flight back to 0", idle)
}

func TestSleepsAndWakesAgain(t *testing.T) {
	for _, mode := range []balance.Autostop{balance.AutostopStop, balance.AutostopSuspend} {
		t.Run(mode.String(), func(t *testing.T) {
			virtual(t, func(c *Config) { c.App.Autostop, c.App.KeepAlive = mode, 200*time.Millisecond }, func(t *testing.T, p *play) {
				first := p.get("/").header.Get("X-Machine")
				asleep := map[balance.Autostop]string{balance.AutostopStop: "stopped", balance.AutostopSuspend: "suspended"}[mode]
				p.until("the machine sleeps, and the edge knows", func(s status.Snapshot) bool {
					rows, _ := p.edge.fleet.App("web")
					m, _ := rows.Machine(balance.MachineID(first))
					return in(s, asleep) >= 1 && in(s, "started") == 0 && m.State.String() == asleep
				})
				if a := p.get("/"); a.status != http.StatusOK || a.header.Get("X-Machine") != first {
					t.Errorf("woken: %+v, want 200 from %s", a, first)
				}
				if m := p.Snapshot().Machines; !slices.ContainsFunc(m, func(m status.Machine) bool { return m.ID == first && m.Epoch == 2 }) {
					t.Errorf("epochs after a second start: %+v", m)
				}
			})
		})
	}
}

// Above the soft limit other machines start; the hard limit holds at the owner; waiting requests
// are answered.
func TestLimits(t *testing.T) {
	virtual(t, func(c *Config) {
		c.Regions = []Region{{"nrt", 2}, {"hkg", 2}}
		c.App.Limits = balance.Limits{Soft: 2, Hard: 3}
	}, func(t *testing.T, p *play) {
		var over atomic.Int64
		watched, unwatch := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			look := time.NewTicker(time.Millisecond)
			defer look.Stop()
			for watched.Err() == nil {
				<-look.C
				for _, m := range p.Snapshot().Machines {
					if m.Load > 3 {
						over.Add(1)
					}
				}
			}
		})
		// They go on until the additional machines run, however long those take to boot.
		demand, enough := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for range 20 {
			clients.Go(func() {
				for n := 0; n < 3 || demand.Err() == nil; n++ {
					if a := p.get("/slow?ms=20"); a.status != http.StatusOK {
						t.Errorf("%d %s", a.status, a.body)
					}
				}
			})
		}
		p.until("demand 20 at soft 2 starts a third machine", func(s status.Snapshot) bool { return in(s, "started") >= 3 })
		enough()
		clients.Wait()
		unwatch()
		wg.Wait()
		if over.Load() > 0 {
			t.Error("a machine was above its hard limit")
		}
		p.until("in flight back to 0", idle)
	})
}

// Machines are killed by special requests; all GETs meanwhile succeed.
func TestDyingMachinesCostNoGET(t *testing.T) {
	virtual(t, func(c *Config) { c.Regions = []Region{{"nrt", 3}} }, func(t *testing.T, p *play) {
		p.get("/")
		stop, cancel := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		var answered [8]atomic.Int64
		for i := range answered {
			clients.Go(func() {
				for stop.Err() == nil {
					if a := p.get("/slow?ms=5"); a.status != http.StatusOK {
						t.Errorf("GET beside dying machines: %d %s", a.status, a.body)
					}
					answered[i].Add(1)
				}
			})
		}
		exits := func() int {
			return len(slices.DeleteFunc(p.kinds(""), func(k string) bool { return k != "exit" }))
		}
		for n := range 3 {
			for exits() <= n { // one that meets a machine which is already dying kills nothing
				a, err := p.try("POST", "/crash", strings.NewReader("now")) // not idempotent: tried once
				if err != nil || a.status != http.StatusBadGateway {
					t.Errorf("POST /crash: %d %q, %v; want 502", a.status, a.body, err)
				}
				for wait := 0; wait < 100 && exits() <= n; wait++ { // not a second death under the same requests
					<-time.After(10 * time.Millisecond)
				}
			}
			before := [8]int64{}
			for i := range answered {
				before[i] = answered[i].Load()
			}
			p.until("every client is answered again", func(status.Snapshot) bool { // a request survives one death, not two
				for i := range answered {
					if answered[i].Load() == before[i] {
						return false
					}
				}
				return true
			})
		}
		cancel()
		clients.Wait()
		p.until("in flight back to 0", idle)
	})
}

func TestUploadsWait(t *testing.T) {
	virtual(t, func(c *Config) {
		c.Regions, c.App.Limits = []Region{{"nrt", 1}}, balance.Limits{Soft: 1, Hard: 1}
	}, func(t *testing.T, p *play) {
		body := bytes.Repeat([]byte("a large body, larger than any replay buffer. "), 1<<17) // 6 MB
		sum := sha256.Sum256(body)
		upload := func() {
			t.Helper()
			a, err := p.try("POST", "/upload", bytes.NewReader(body))
			if err != nil || a.status != http.StatusOK || !strings.Contains(a.body, hex.EncodeToString(sum[:])) {
				t.Errorf("upload: %d %s, %v", a.status, a.body, err)
			}
		}
		upload() // to a sleeping fleet
		held := make(chan struct{})
		resp, err := p.client.Get(p.url + "/stream?n=100000&ms=10") // until it is closed
		if err != nil {
			t.Fatal(err)
		}
		go func() { upload(); close(held) }()
		p.until("the upload waits", func(s status.Snapshot) bool { return s.Parked > 0 })
		resp.Body.Close()
		<-held
		p.until("in flight back to 0", idle)
	})
}

// A WebSocket and an event stream are load: their machine stays up while they are open.
func TestLongConnectionsKeepTheirMachine(t *testing.T) {
	virtual(t, func(c *Config) { c.App.KeepAlive = 100 * time.Millisecond }, func(t *testing.T, p *play) {
		conn, err := p.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("handshake: %+v, %v", resp, err)
		}
		held := func(what string) {
			t.Helper()
			for range 10 { // ten times the keep-alive
				<-time.After(100 * time.Millisecond)
				if s := p.Snapshot(); in(s, "started") != 1 {
					t.Fatalf("%s: %+v", what, s.Machines)
				}
			}
		}
		held("under an open WebSocket")
		conn.Write([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'}) // a masked text frame
		frame := make([]byte, 4)
		if _, err := io.ReadFull(r, frame); err != nil || !bytes.Equal(frame, []byte{0x81, 2, 'h', 'i'}) {
			t.Errorf("echo: %v, %v", frame, err)
		}
		sse, err := p.client.Get(p.url + "/sse?ms=1")
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if line, err := bufio.NewReader(sse.Body).ReadString('\n'); err != nil || line == "" {
			t.Errorf("event stream: %q, %v", line, err)
		}
		held("under an open event stream")
		sse.Body.Close()
		p.until("the machine sleeps", func(s status.Snapshot) bool { return in(s, "started") == 0 && in(s, "stopped") == 2 })
		p.until("in flight back to 0", idle)
	})
}

func TestAppThatCannotStart(t *testing.T) {
	p := newPlay(t, func(c *Config) { c.Driver = command(t, process.Config{Command: "false"}) })
	a := p.get("/")
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "exit status 1") {
		t.Errorf("%d, Retry-After %q, %q: want 503 with both and the reason", a.status, a.header.Get("Retry-After"), a.body)
	}
	if a := p.get("/"); a.status != http.StatusServiceUnavailable {
		t.Errorf("the proxy does not keep running: %+v", a)
	}
}

// The last line of an app before it ends is in the answer, in the log and on the page.
func TestLastWordsOfAnApp(t *testing.T) {
	p := newPlay(t, func(c *Config) {
		c.Regions = []Region{{"nrt", 1}}
		c.Driver = command(t, process.Config{Argv: []string{"sh", "-c", "echo cannot open config >&2; exit 3"}})
	})
	if a := p.get("/"); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "cannot open config") {
		t.Errorf("answer %d %q", a.status, a.body)
	}
	p.until("log and page say it too", func(s status.Snapshot) bool {
		return strings.Contains(p.told(), "cannot open config") &&
			strings.Contains(s.Machines[0].Fault, "cannot open config")
	})
}

func TestAutostartOff(t *testing.T) {
	virtual(t, func(c *Config) { c.App.Autostart = false }, func(t *testing.T, p *play) {
		if a := p.get("/"); a.status != http.StatusServiceUnavailable {
			t.Errorf("%+v, want 503", a)
		}
		if s := p.Snapshot(); in(s, "stopped") != 2 {
			t.Errorf("something was started: %+v", s.Machines)
		}
	})
}

// Misbehaving clients cost nobody else anything.
func TestRudeClients(t *testing.T) {
	virtual(t, nil, func(t *testing.T, p *play) {
		p.get("/")
		for _, half := range []string{"", "GET", "GET / HTTP/1.1\r\nHost: x\r\n", "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf", "GET /slow?ms=50 HTTP/1.1\r\nHost: x\r\n\r\n"} {
			conn, err := p.dial()
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, half)
			conn.Close()
		}
		conn, err := p.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() {
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n")
			for range 3000 {
				if _, err := io.WriteString(conn, "X-Large: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
					return
				}
			}
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("oversized header: %+v, %v; want 431", resp, err)
		}
		p.until("in flight back to 0", idle)
		if a := p.get("/"); a.status != http.StatusOK {
			t.Errorf("after them: %+v", a)
		}
	})
}

// Requests are served by the nearest region by measured round trip.
func TestNearestByMeasurement(t *testing.T) {
	virtual(t, func(c *Config) {
		c.Near, c.Regions = false, []Region{{"nrt", 1}, {"hkg", 1}, {"fra", 1}}
		c.App.Limits = balance.Limits{Soft: 1, Hard: 1}
	}, func(t *testing.T, p *play) {
		p.until("the edge has measured all ways", func(status.Snapshot) bool { return p.edge.oriented(p.config.Regions) })
		p.get("/")
		byTo := map[string]float64{}
		for _, r := range p.Snapshot().RTT {
			if r.From == "edge-nrt" {
				byTo[r.To] = r.MS
			}
		}
		for region, atLeast := range map[string]float64{"hkg": 30, "fra": 200} {
			if ms := byTo["worker-"+region]; ms < atLeast {
				t.Errorf("measured round trip to %s: %v ms, the link takes %v", region, ms, p.links.RTT("nrt", region))
			}
		}
		resp, err := p.client.Get(p.url + "/stream?n=1000&ms=20") // holds the only machine of nrt
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if a := p.get("/"); a.header.Get("X-Region") != "hkg" {
			t.Errorf("nrt is full, the request went to %q", a.header.Get("X-Region"))
		}
	})
}

// Shutdown tells streams that would stay for ever: the event stream ends cleanly, without a wait.
func TestDrainTellsStreams(t *testing.T) {
	virtual(t, nil, func(t *testing.T, p *play) {
		resp, err := p.client.Get(p.url + "/sse?ms=5")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		p.stop()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Errorf("the stream broke off: %v", err)
		}
		p.end()
	})
}

// Shutdown loses nothing: a request in flight is answered, then the machines stop.
func TestDrain(t *testing.T) {
	virtual(t, nil, func(t *testing.T, p *play) {
		got := make(chan answer, 1)
		p.get("/")
		p.until("in flight back to 0", idle)
		body, rest := io.Pipe() // in flight for as long as this test wants
		go func() {
			a, err := p.try("POST", "/upload", body)
			if err != nil {
				t.Errorf("in flight at the end: %v", err)
			}
			got <- a
		}()
		p.until("the request is there", func(s status.Snapshot) bool { return s.InFlight > 0 })
		p.stop()
		p.until("no new clients", func(status.Snapshot) bool {
			c, err := p.dial()
			if err == nil {
				c.Close()
			}
			return err != nil
		})
		rest.Close()
		if a := <-got; a.status != http.StatusOK {
			t.Errorf("in flight at the end: %+v", a)
		}
		p.end()
		for _, m := range p.Snapshot().Machines {
			if m.State != "stopped" {
				t.Errorf("%s is %s after the end", m.ID, m.State)
			}
		}
		if _, err := p.dial(); err == nil {
			t.Error("the edge still listens")
		}
	})
}

func TestBusyAddressIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = New(Config{Listen: l.Addr().String(), Regions: []Region{{"nrt", 1}}, App: balance.App{ID: "web"}})
	if err == nil || !strings.Contains(err.Error(), "-listen "+l.Addr().String()) || !strings.Contains(err.Error(), "choose another") {
		t.Errorf("%v: want the flag, the address and the remedy", err)
	}
	broken := errors.New("no such thing")
	_, err = New(Config{Listen: "127.0.0.1:0", Regions: []Region{{"nrt", 1}}, App: balance.App{ID: "web"}, Driver: func(string) (Driver, error) { return nil, broken }})
	if !errors.Is(err, broken) {
		t.Errorf("%v: want the driver's error", err)
	}
}

func TestStatusPage(t *testing.T) {
	virtual(t, nil, func(t *testing.T, p *play) {
		p.get("/")
		resp, err := p.client.Get("http://" + p.page.Addr().String() + "/status.json")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var s status.Snapshot
		if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || len(s.Nodes) != 2 || len(s.Machines) != 2 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// A cordon is known everywhere when each edge has acknowledged it for this app's machine: another
// app may have a machine with the same ID.
func TestAcknowledgementsAreOfOneAppsMachine(t *testing.T) {
	a := &acks{seen: map[ackKey]uint64{}, nodes: []balance.NodeID{"e"}}
	a.put("e", balance.MachineKey{App: "web", ID: "m1"}, 3)
	if !a.Acked("web", "m1", 3) || a.Acked("web", "m1", 4) || a.Acked("shop", "m1", 1) {
		t.Error("an acknowledgement counts for another machine or generation, or not at all")
	}
}

// Each edge's demand is known to the others: all plan for the total demand.
func TestEdgesKnowEachOthersDemand(t *testing.T) {
	d := newDemand(2)
	d.put("a", 3, 1)
	d.put("b", 5, 0)
	d.put("a", 4, 2) // newer
	if n := d.sum(); n != 11 {
		t.Errorf("sum %d, want 11", n)
	}
	if parked, fresh := d.Parked("web"); parked != 2 || !fresh {
		t.Errorf("parked %d, fresh %v", parked, fresh)
	}
}

// The same world with processes, sockets and clocks of this host: a first request, machines that
// die, sleep and wake, and an end that leaves nothing behind.
func TestWithProcesses(t *testing.T) {
	p := newPlay(t, func(c *Config) {
		c.App.Autostop, c.App.KeepAlive = balance.AutostopSuspend, 200*time.Millisecond
	})
	testFirstRequest(t, p)
	p.until("it is suspended", func(s status.Snapshot) bool {
		return in(s, "suspended") == 1 && in(s, "started") == 0
	})
	if a := p.get("/"); a.status != http.StatusOK || a.header.Get("X-Epoch") != "2" {
		t.Errorf("woken: %+v, want 200 from its second epoch", a)
	}
	if a, err := p.try("POST", "/crash", strings.NewReader("now")); err != nil || a.status != http.StatusBadGateway {
		t.Errorf("POST /crash: %d %q, %v; want 502", a.status, a.body, err)
	}
	p.until("the log tells of its end", func(status.Snapshot) bool { return slices.Contains(p.kinds(""), "exit") })
	if a := p.get("/"); a.status != http.StatusOK {
		t.Errorf("after a death: %+v", a)
	}
	p.end()
	for _, m := range p.Snapshot().Machines {
		if m.State != "stopped" {
			t.Errorf("%s is %s after the end", m.ID, m.State)
		}
	}
}

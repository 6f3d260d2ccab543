package world

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/demoapp"
	"github.com/ebbkit/ebb/internal/status"
)

func TestMain(m *testing.M) {
	if demoapp.IsChild() {
		os.Exit(demoapp.Main())
	}
	if file := os.Getenv(brokenVariable); file != "" {
		os.Exit(brokenApp(file))
	}
	os.Exit(m.Run())
}

// patience bounds how long a loaded machine may need for anything that takes milliseconds on an
// idle one.
const patience = time.Minute

// play is a world that runs for one test.
type play struct {
	testing.TB
	*World
	url    string
	client *http.Client
	stop   context.CancelFunc
	done   chan error
}

// newPlay runs a world whose links take no time and whose app boots at once, modified by change.
func newPlay(t testing.TB, change func(*Config)) *play {
	t.Helper()
	c := Config{
		Listen: "127.0.0.1:0", Status: "127.0.0.1:0", Near: true, Grace: 10 * time.Millisecond,
		Regions: []Region{{"nrt", 2}},
		App: balance.App{ID: "web", Autostart: true, Autostop: balance.AutostopStop, KeepAlive: time.Hour,
			Limits: balance.Limits{Soft: 10, Hard: 20}},
	}
	c.Driver = command(t, process.Config{Argv: []string{os.Args[0]}, Env: demoapp.Env(0)})
	if change != nil {
		change(&c)
	}
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &play{
		TB: t, World: w, url: "http://" + w.Addr().String(), stop: stop, done: make(chan error, 1),
	}
	p.client = &http.Client{
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 200, DialContext: w.config.net.dial,
		}, Timeout: patience,
	}
	go func() { p.done <- w.Run(ctx, context.Background()) }()
	t.Cleanup(p.end)
	return p
}

func command(t testing.TB, c process.Config) func(string) (Driver, error) {
	return func(string) (Driver, error) {
		d, err := process.New(c)
		if err == nil {
			t.Cleanup(func() { d.Close() })
		}
		return d, err
	}
}

// dial connects as a client does.
func (p *play) dial() (net.Conn, error) {
	return p.config.net.dial(context.Background(), "tcp", p.Addr().String())
}

// end stops the world and checks that it ends well.
func (p *play) end() {
	if p.done == nil {
		return
	}
	p.client.CloseIdleConnections()
	p.stop()
	select {
	case err := <-p.done:
		if err != nil {
			p.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		p.Error("Run does not end")
	}
	p.done = nil
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (p *play) get(path string) answer {
	p.Helper()
	a, err := p.try("GET", path, nil)
	if err != nil {
		p.Errorf("GET %s: %v", path, err)
	}
	return a
}

func (p *play) try(method, path string, body io.Reader) (answer, error) {
	req, err := http.NewRequest(method, p.url+path, body)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

// until polls until the condition holds.
func (p *play) until(what string, holds func(status.Snapshot) bool) {
	p.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds(p.Snapshot()) {
		select {
		case <-tick.C:
		case <-deadline:
			p.Fatalf("never: %s\n%s", what, p.told())
		}
	}
}

func (p *play) told() string {
	var b strings.Builder
	for _, e := range p.Events().Since(0, 1000) {
		j, _ := json.Marshal(e)
		b.Write(append(j, '\n'))
	}
	return b.String()
}

// in counts the machines in a state.
func in(s status.Snapshot, state string) (n int) {
	for _, m := range s.Machines {
		if m.State == state {
			n++
		}
	}
	return n
}

func idle(s status.Snapshot) bool {
	load := s.InFlight
	for _, m := range s.Machines {
		load += m.Load
	}
	return load == 0
}

// kinds returns the kinds of the log's events of one machine, or of all.
func (p *play) kinds(machine string) (ks []string) {
	for _, e := range p.Events().Since(0, 10_000) {
		if machine == "" || e.Machine == machine {
			ks = append(ks, string(e.Kind))
		}
	}
	return ks
}

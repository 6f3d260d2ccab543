package town

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ebbkit/ebb/examples/fleet/internal/member"
)

// State is the data of the page.
type State struct {
	Started   time.Time
	Engine    string // where it is
	Own       bool   // it is one of the processes
	Processes []ProcessState
	Machines  []Machine
	Events    []Event // newest first
}

// ProcessState is a process as the page shows it.
type ProcessState struct {
	Name, Region, Role string
	Address, Page      string
	State, Why         string
	For                float64 // seconds
	PID, Starts        int
	View               *member.View // its last view
	ViewAge            float64      // seconds since then
	// Sees holds the states in which the node sees machines of others.
	Sees map[string]string
}

// Machine is a machine as its owner sees it.
type Machine struct {
	ID, Owner, Region            string
	State, Health, Cordon, Fault string
	Load, Soft, Hard             int
	Epoch                        uint64
}

// watcher asks the nodes for their views.
type watcher struct {
	t       *Town
	client  *http.Client
	started time.Time

	mu       sync.Mutex
	views    map[string]*member.View
	heard    map[string]time.Time
	machines map[string][]Machine
	sees     map[string]map[string]string
}

func newWatcher(t *Town) *watcher {
	return &watcher{
		t: t, client: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{MaxConnsPerHost: 4}},
		started: time.Now(), views: map[string]*member.View{}, heard: map[string]time.Time{},
		machines: map[string][]Machine{}, sees: map[string]map[string]string{},
	}
}

// watchEvery is how often each node is asked.
const watchEvery = 500 * time.Millisecond

func (w *watcher) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range w.t.processes {
		if p.Status == "" {
			continue
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				w.ask(ctx, p)
				select {
				case <-time.After(watchEvery):
				case <-ctx.Done():
				}
			}
		})
	}
	wg.Wait()
	w.client.CloseIdleConnections()
}

func (w *watcher) ask(ctx context.Context, p *Process) {
	view := new(member.View)
	var status struct{ Machines []Machine }
	if w.get(ctx, p, "nodes.json", view) != nil || w.get(ctx, p, "status.json", &status) != nil {
		return
	}
	sees := map[string]string{}
	for _, m := range status.Machines {
		if m.Owner != p.Name {
			sees[m.ID] = m.State
		}
	}
	own := slices.DeleteFunc(status.Machines, func(m Machine) bool { return m.Owner != p.Name })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.views[p.Name], w.heard[p.Name], w.machines[p.Name] = view, time.Now(), own
	w.sees[p.Name] = sees
}

func (w *watcher) get(ctx context.Context, p *Process, page string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Status+"/"+page, nil)
	if err != nil {
		return err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// State returns the current state of the town.
func (t *Town) State() State {
	w := t.watcher
	s := State{Started: w.started, Engine: t.c.Engine, Own: t.process(engineName) != nil}
	w.mu.Lock()
	for _, p := range t.processes {
		p.mu.Lock()
		ps := ProcessState{
			Name: p.Name, Region: p.Region, Role: p.Role, State: p.state, Why: p.why, Starts: p.starts,
		}
		if !p.since.IsZero() {
			ps.For = time.Since(p.since).Seconds()
		}
		if p.cmd != nil {
			ps.PID = p.cmd.Process.Pid
		}
		p.mu.Unlock()
		if p.Address != "" {
			ps.Address = "http://" + p.Address + "/"
		}
		if p.Status != "" {
			ps.Page = "http://" + p.Status + "/"
		}
		if v := w.views[p.Name]; v != nil {
			ps.View, ps.ViewAge, ps.Sees = v, time.Since(w.heard[p.Name]).Seconds(), w.sees[p.Name]
		}
		s.Processes = append(s.Processes, ps)
		s.Machines = append(s.Machines, w.machines[p.Name]...)
	}
	w.mu.Unlock()
	slices.SortFunc(s.Machines, func(a, b Machine) int { return strings.Compare(a.ID, b.ID) })
	t.mu.Lock()
	s.Events = slices.Clone(t.events)
	t.mu.Unlock()
	slices.Reverse(s.Events)
	return s
}

package downscale

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
)

// Habits learns from an app's own pauses how long its machines are worth keeping. [Idles] is one.
type Habits interface {
	// Gap tells of a pause of the app that has just ended, as long as the keep-alive sees it:
	// from the last look that found it in use, and idle after that, to the first that found it in
	// use again. It must not block.
	Gap(app balance.AppID, d time.Duration)
	// KeepAlive returns how long the app keeps its machines without a request, or otherwise,
	// which is what holds where nothing has been learned. It must not block.
	KeepAlive(app balance.AppID, otherwise time.Duration) time.Duration
}

// idlesKept is how many apps are remembered: at a quarter of a kilobyte each, 2.5 MB.
const idlesKept = 10_000

// Idles learns the pauses of many apps, each as an [policy.Idle]. The zero value knows nothing
// and is ready for use. All methods are safe for concurrent use. It may be kept over a restart in
// JSON.
//
// A [Downscaler] feeds and asks it where it is [Config].Habits. At most 10,000 apps are
// remembered; of more, those that have had no pause for longest are forgotten.
type Idles struct {
	mu   sync.Mutex
	apps map[balance.AppID]*habit
	turn uint64
}

// habit is what is known of one app.
type habit struct {
	policy.Idle
	turn uint64 // when it was last told of; the lowest is forgotten first
}

// Gap takes in a pause of an app, from a last request to the next. See [policy.Idle.Gap].
func (i *Idles) Gap(app balance.AppID, d time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	h, known := i.apps[app]
	if !known {
		h = &habit{}
	}
	if !h.Idle.Gap(d) {
		return
	}
	if i.turn++; !known {
		if i.apps == nil {
			i.apps = map[balance.AppID]*habit{}
		}
		if len(i.apps) >= idlesKept {
			i.forgetOne()
		}
		i.apps[app] = h
	}
	h.turn = i.turn
}

// forgetOne makes room. It looks at all, which is rare: once for an app that has a pause, and
// only when there are too many.
func (i *Idles) forgetOne() {
	var oldest balance.AppID
	turn := i.turn
	for id, h := range i.apps {
		if h.turn < turn {
			oldest, turn = id, h.turn
		}
	}
	delete(i.apps, oldest)
}

// KeepAlive returns how long an app without requests keeps its machines: what has been learned,
// near otherwise, or otherwise itself. See [policy.Idle.KeepAlive].
func (i *Idles) KeepAlive(app balance.AppID, otherwise time.Duration) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	if h := i.apps[app]; h != nil {
		return h.Idle.KeepAlive(0, otherwise)
	}
	return otherwise
}

// Of returns what is known of an app, as a copy.
func (i *Idles) Of(app balance.AppID) policy.Idle {
	i.mu.Lock()
	defer i.mu.Unlock()
	if h := i.apps[app]; h != nil {
		return h.Idle
	}
	return policy.Idle{}
}

// Forget drops what is known of an app.
func (i *Idles) Forget(app balance.AppID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.apps, app)
}

// idleOf is the JSON form of one app; a list keeps the order in which apps are forgotten.
type idleOf struct {
	App  balance.AppID `json:"app"`
	Idle policy.Idle   `json:"idle"`
}

// MarshalJSON writes what is known of all apps, those that had a pause last at the end.
func (i *Idles) MarshalJSON() ([]byte, error) {
	type turned struct {
		idleOf
		turn uint64
	}
	i.mu.Lock()
	all := make([]turned, 0, len(i.apps))
	for id, h := range i.apps {
		all = append(all, turned{idleOf{id, h.Idle}, h.turn})
	}
	i.mu.Unlock()
	slices.SortFunc(all, func(a, b turned) int { return cmp.Compare(a.turn, b.turn) })
	list := make([]idleOf, len(all))
	for k := range all {
		list[k] = all[k].idleOf
	}
	return json.Marshal(list)
}

// UnmarshalJSON replaces what is known by what MarshalJSON wrote. Of too many apps, the last are
// taken.
func (i *Idles) UnmarshalJSON(text []byte) error {
	var list []idleOf
	if err := json.Unmarshal(text, &list); err != nil {
		return fmt.Errorf("downscale: pauses of apps: %w", err)
	}
	list = list[max(0, len(list)-idlesKept):]
	apps := make(map[balance.AppID]*habit, len(list))
	for k := range list {
		apps[list[k].App] = &habit{list[k].Idle, uint64(k + 1)}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.apps, i.turn = apps, uint64(len(list))
	return nil
}

package downscale

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/scaledown"
)

// habitsKept is how many apps are remembered: at a quarter of a kilobyte each, 2.5 MB.
const habitsKept = 10_000

// Habits learns the pauses of many apps, and with that how long their machines are worth keeping
// after a last request. A [Downscaler] feeds and asks it where it is [Config].Habits. The zero
// value knows nothing and is ready for use. It may be kept over a restart in JSON. All methods are
// safe for concurrent use.
//
// At most 10,000 apps are remembered; of more, those that have had no pause for longest are
// forgotten.
type Habits struct {
	mu   sync.Mutex
	apps map[balance.AppID]*habit
	turn uint64
}

// habit is what is known of one app.
type habit struct {
	scaledown.Habit
	turn uint64 // when it was last told of; the lowest is forgotten first
}

// Gap takes in a pause of an app that has just ended: from the last look that found it in use, and
// idle after that, to the first that found it in use again. What is shorter than 10 s is no pause.
func (h *Habits) Gap(app balance.AppID, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of, known := h.apps[app]
	if !known {
		of = &habit{}
	}
	if !of.Habit.Gap(d) {
		return
	}
	if h.turn++; !known {
		if h.apps == nil {
			h.apps = map[balance.AppID]*habit{}
		}
		if len(h.apps) >= habitsKept {
			h.forgetOne()
		}
		h.apps[app] = of
	}
	of.turn = h.turn
}

// forgetOne makes room. It looks at all, which is rare: once for an app that has a pause, and
// only when there are too many.
func (h *Habits) forgetOne() {
	var oldest balance.AppID
	turn := h.turn
	for id, of := range h.apps {
		if of.turn < turn {
			oldest, turn = id, of.turn
		}
	}
	delete(h.apps, oldest)
}

// KeepAlive returns how long an app without requests keeps its machines: 1.1 times what 99 % of its
// pauses do not exceed, or otherwise where too few are known or they are too long.
//
// What has been learned stays near what is usual. It counts up to six times otherwise: an app
// that would have to be kept longer sleeps as usual. And it is shorter than otherwise only as far
// as that would have cut short no pause that is remembered, and not below a tenth of otherwise.
func (h *Habits) KeepAlive(app balance.AppID, otherwise time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if of := h.apps[app]; of != nil {
		return of.Habit.KeepAlive(otherwise)
	}
	return otherwise
}

// habitOf is the JSON form of one app; a list keeps the order in which apps are forgotten.
type habitOf struct {
	App  balance.AppID   `json:"app"`
	Idle scaledown.Habit `json:"idle"`
}

// MarshalJSON writes what is known of all apps, those that had a pause last at the end.
func (h *Habits) MarshalJSON() ([]byte, error) {
	type turned struct {
		habitOf
		turn uint64
	}
	h.mu.Lock()
	all := make([]turned, 0, len(h.apps))
	for id, of := range h.apps {
		all = append(all, turned{habitOf{id, of.Habit}, of.turn})
	}
	h.mu.Unlock()
	slices.SortFunc(all, func(a, b turned) int { return cmp.Compare(a.turn, b.turn) })
	list := make([]habitOf, len(all))
	for k := range all {
		list[k] = all[k].habitOf
	}
	return json.Marshal(list)
}

// UnmarshalJSON replaces what is known by what MarshalJSON wrote. Of too many apps, the last are
// taken.
func (h *Habits) UnmarshalJSON(text []byte) error {
	var list []habitOf
	if err := json.Unmarshal(text, &list); err != nil {
		return fmt.Errorf("downscale: pauses of apps: %w", err)
	}
	list = list[max(0, len(list)-habitsKept):]
	apps := make(map[balance.AppID]*habit, len(list))
	for k := range list {
		apps[list[k].App] = &habit{list[k].Idle, uint64(k + 1)}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.apps, h.turn = apps, uint64(len(list))
	return nil
}

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

// Habits learns the pauses of many apps, and so how long their machines are worth keeping after a
// last request. A [Downscaler] feeds and asks it when it is set as [Config].Habits. The zero value
// has learned nothing and is ready for use. It can be saved as JSON across a restart. All methods
// are safe for concurrent use.
//
// At most 10,000 apps are remembered; beyond that, the apps whose last pause is longest ago are
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

// Gap adds a pause of an app that has just ended. A pause lasts from the last look that found the
// app in use, through looks that found it idle, to the first that found it in use again. Anything
// shorter than 10 s is not a pause.
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

// forgetOne makes room. It scans all apps, which is rare: only when an app has its first pause and
// there are too many.
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

// KeepAlive returns how long an app without requests keeps its machines: 1.1 times the length that
// 99 % of its pauses do not exceed, or otherwise if too few are known or they are too long.
//
// The result stays near the usual value. It is at most six times otherwise: an app that would have
// to be kept longer gets the usual value. It is shorter than otherwise only if no remembered pause
// would have been cut short by that, and never below a tenth of otherwise.
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

// MarshalJSON writes what is known of all apps, those with the most recent pause last.
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

// UnmarshalJSON replaces what is known by what MarshalJSON wrote. If there are too many apps, the
// last ones are kept.
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

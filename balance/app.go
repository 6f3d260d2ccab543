package balance

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/internal/enum"
)

// Autostop says what becomes of a machine that is not needed.
type Autostop uint8

// The autostop modes.
const (
	AutostopOff Autostop = iota // machines run until somebody stops them
	// a machine that is not needed is stopped; its next start is a cold boot
	AutostopStop
	// it is suspended with its memory; where the driver refuses, it is stopped
	AutostopSuspend
)

var autostopNames = [...]string{"off", "stop", "suspend"}

// String returns the mode's name as flags and JSON spell it.
func (a Autostop) String() string { return enum.String(autostopNames[:], uint8(a), "autostop") }

// Abandoned says what becomes of a request whose client has left before the machine has answered.
// Its slot is held in either case until the machine is done, as far as that can be known; package
// backhaul has the table.
type Abandoned uint8

// The modes.
const (
	// AbandonedTell closes the sending half of the connection to the machine, which ends the work
	// of apps that listen for it.
	AbandonedTell Abandoned = iota
	// AbandonedFinish tells the machine nothing: it works on, and its answer is read and dropped. A
	// hard limit then holds for what the app executes, whatever its clients do.
	AbandonedFinish
)

var abandonedNames = [...]string{"tell", "finish"}

// String returns the mode's name as flags and JSON spell it.
func (a Abandoned) String() string { return enum.String(abandonedNames[:], uint8(a), "abandoned") }

// MarshalText returns the mode's name.
func (a Abandoned) MarshalText() ([]byte, error) {
	if int(a) >= len(abandonedNames) {
		return nil, fmt.Errorf("balance: %v has no name", a)
	}
	return []byte(a.String()), nil
}

// UnmarshalText is the inverse of [Abandoned.MarshalText].
func (a *Abandoned) UnmarshalText(text []byte) error {
	i := slices.Index(abandonedNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("balance: unknown mode %q of abandoned requests: want one of %s",
			text, strings.Join(abandonedNames[:], ", "))
	}
	*a = Abandoned(i)
	return nil
}

// App is what an operator says about one app. It is a plain row; the comment on each field names
// the package that reads it. The zero value of every field but ID is valid: autostart and autostop
// off, no bounds, no limits.
type App struct {
	ID AppID

	// Autostart lets requests start machines. (autostart)
	Autostart bool
	// Autostop says what happens to machines that are not needed. (downscale)
	Autostop Autostop
	// Min is the number of machines kept started or starting, over all regions; the first of the
	// canonical order are kept. It starts machines when Autostart is on. (autostart, downscale)
	Min int
	// Max bounds the machines started or starting, over all regions; 0 means as many as there are.
	// (autostart)
	Max int
	// MinPerRegion is like Min within each region that has machines of the app. (autostart, downscale)
	MinPerRegion int
	// Spare is the number of machines kept beyond those that the load fills, as long as there is load,
	// so that a burst finds one that runs. (autostart, downscale)
	Spare int
	// Regions lists the home regions in order of preference; demand counts towards the first. Empty
	// means the region nearest to each edge. (autostart)
	Regions []string
	// Limits are the app's defaults; a machine's own Limits rule where they are not zero. (balance,
	// autostart)
	Limits Limits
	// BootHint is what a start is expected to take; it counts as one observed boot. 0 means unknown.
	// (autostart)
	BootHint time.Duration
	// KeepAlive is how long an app with no request keeps its machines above Min; 0 means downscale's
	// default. (downscale)
	KeepAlive time.Duration
	// IdleAfter is how long a long connection (WebSocket, event stream, gRPC stream, other upgrades)
	// may carry no data until it is idle: it then no longer keeps its machine, and is told to end
	// before that sleeps. 0 means never. (downscale)
	IdleAfter time.Duration
	// RestartAfter is how long a machine's checks may fail until it is stopped and started again; 0
	// means the starter's default, negative never. (autostart)
	RestartAfter time.Duration
	// SlowStart is how long a machine that has just started takes less than its soft limit, from a
	// tenth up; 0 means that it takes its full share at once. (balance)
	SlowStart time.Duration
	// BodyPause is how long a client may pause in sending a body that is awaited; then the request
	// is answered with 408. So it is where less than 240 bytes per second of that time come, in each
	// BodyPause: else a byte now and then would hold a slot. Time in which the machine does not read
	// is no pause, nor is the silence of a client whose gRPC call or answer is under way. 0 means
	// 60 s, what common servers allow; negative: no bound, for bodies that are streams with little
	// in them. (backhaul)
	BodyPause time.Duration
	// AnswerPause is how long a client may read nothing of an answer that waits for it; then the
	// request is broken off and its slot free. 0 means 6 h: people pause a download or a video for
	// a meal or a meeting and expect it to go on, and a machine without a hard limit loses little
	// by that. A machine that takes few requests at a time, such as a GPU, cannot be kept that
	// long: minutes suit it. Negative: no bound. (backhaul)
	AnswerPause time.Duration
	// UpgradeWait is how long a request for an upgrade may wait for the machine's 101; then it is
	// answered with 504. 0 means 60 s; negative: no bound. (backhaul)
	UpgradeWait time.Duration
	// Abandoned says what becomes of requests whose clients have left. (backhaul)
	Abandoned Abandoned
	// AbandonedHold is how long the slot of such a request is held when the machine does not say
	// that it is done. 0 means what the app has been seen to need: the 99th percentile of its
	// service times, from 1 s to 60 s, where the machine has closed the connection without an
	// answer, and 60 s where it is silent. (backhaul)
	AbandonedHold time.Duration
	// Strategy overrides the balancer's; nil means the balancer's own. (balance)
	Strategy Strategy
}

// validate returns an error that names the first field whose value makes no sense, or nil.
func (a App) validate() error {
	bad := func(field string, v any, want string) error {
		return fmt.Errorf("balance: app %q: %s %v: want %s", a.ID, field, v, want)
	}
	switch {
	case a.ID == "":
		return fmt.Errorf("balance: app without an ID: set App.ID")
	case a.Autostop > AutostopSuspend:
		return bad("Autostop", a.Autostop, "off, stop or suspend")
	case a.Min < 0:
		return bad("Min", a.Min, "0 or more")
	case a.Max < 0:
		return bad("Max", a.Max, "0 (no bound) or more")
	case a.MinPerRegion < 0:
		return bad("MinPerRegion", a.MinPerRegion, "0 or more")
	case a.Spare < 0:
		return bad("Spare", a.Spare, "0 or more")
	case a.Max > 0 && a.Min > a.Max:
		return bad("Min", a.Min, fmt.Sprintf("at most Max, which is %d", a.Max))
	case a.Max > 0 && a.MinPerRegion > a.Max:
		return bad("MinPerRegion", a.MinPerRegion, fmt.Sprintf("at most Max, which is %d", a.Max))
	case a.BootHint < 0:
		return bad("BootHint", a.BootHint, "0 (unknown) or more")
	case a.IdleAfter < 0:
		return bad("IdleAfter", a.IdleAfter, "0 (never) or more")
	case a.KeepAlive < 0:
		return bad("KeepAlive", a.KeepAlive, "0 (the default) or more")
	case a.SlowStart < 0:
		return bad("SlowStart", a.SlowStart, "0 (off) or more")
	case a.Abandoned > AbandonedFinish:
		return bad("Abandoned", a.Abandoned, "tell or finish")
	case a.AbandonedHold < 0:
		return bad("AbandonedHold", a.AbandonedHold, "0 (learned) or more")
	}
	if err := a.Limits.validate(); err != nil {
		return fmt.Errorf("balance: app %q: %w", a.ID, err)
	}
	return nil
}

// LimitsOf returns the limits that hold for m: its own where set, else the app's.
func (a App) LimitsOf(m Machine) Limits {
	return Limits{Soft: cmp.Or(m.Limits.Soft, a.Limits.Soft), Hard: cmp.Or(m.Limits.Hard, a.Limits.Hard)}
}

// MarshalText returns the autostop mode's name; a value without one is an error.
func (a Autostop) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: autostop mode", autostopNames[:], uint8(a))
}

// UnmarshalText is the inverse of [Autostop.MarshalText]; the error lists the names.
func (a *Autostop) UnmarshalText(text []byte) error {
	return enum.Unmarshal(a, "balance: autostop mode", autostopNames[:], text)
}

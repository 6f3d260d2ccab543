package waitroom

import "time"

// awaitMax bounds a wait in all, however many starts follow each other: a driver that keeps asking
// to be called later would hold requests for ever.
const awaitMax = 5 * time.Minute

// endless is a wait until the request's own context ends.
const endless time.Duration = 1 << 62

// Forecast is what the last decision tells waiting and arriving requests.
type Forecast struct {
	Off    bool // autostart is off: load is no reason for a decision
	Wait   time.Duration
	Await  time.Time // until when a start in flight is worth waiting for
	Coming time.Time // when a start in flight should be ready; zero when none is
	Refuse string
	Until  time.Time // of Refuse
	Doubt  string
}

// Patience returns how long to wait at most if no start in flight is worth waiting for longer.
// limit is the configured longest wait: 0 means none, and negative that waits do not end.
func (f *Forecast) Patience(limit time.Duration) time.Duration {
	switch {
	case limit < 0:
		return endless
	case limit > 0:
		return limit
	}
	return f.Wait
}

// Ends returns when the patience of a request ends that has waited since then.
func (f *Forecast) Ends(since time.Time, limit time.Duration) time.Time {
	wait := f.Patience(limit)
	end := since.Add(wait)
	if limit == 0 && f.Await.After(end) {
		end = f.Await
		if last := since.Add(max(2*wait, awaitMax)); end.After(last) {
			end = last
		}
	}
	return end
}

// Refused returns why starts are refused for a while, and for how long; "" if they are not.
func (f *Forecast) Refused(now time.Time) (why string, left time.Duration) {
	if f.Refuse == "" || !now.Before(f.Until) {
		return "", 0
	}
	return f.Refuse, f.Until.Sub(now)
}

// Back returns when to come back, at least after: when the next start should be ready and the
// waiting requests have been served, which takes drain, or else when the balancer expects a free
// slot.
func (f *Forecast) Back(now time.Time, drain, free, after time.Duration) time.Duration {
	if !f.Coming.IsZero() {
		return max(f.Coming.Sub(now)+drain, after)
	}
	return max(free, drain, time.Second)
}

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind says what a client does with a request, and so what it may expect.
type kind string

const (
	kindGet    kind = "get"    // a short answer; may be executed again
	kindPost   kind = "post"   // the same with a small body; executed at most once
	kindUpload kind = "upload" // a large body, sent slowly
	kindSlow   kind = "slow"   // a large answer, read slowly and with pauses
	kindStream kind = "stream" // an answer of unknown length, piece by piece
	kindEcho   kind = "echo"   // an upgraded connection
	kindCancel kind = "cancel" // the client leaves before the answer
	kindFails  kind = "fails"  // the app answers 500 or 503 itself
	kindCut    kind = "cut"    // the app breaks a chunked answer off
)

// request is what one client saw of one request.
type request struct {
	id     string
	kind   kind
	status int    // of the answer; 0 when there was none
	ours   bool   // the answer is the proxy's, not the app's
	sick   bool   // the answer is that of a machine that answers everything with an error
	left   bool   // the client went away before the end
	retry  bool   // the answer has a Retry-After
	whole  bool   // all of the answer came, and it was the right one
	detail string // what went wrong
	began  time.Time
	took   time.Duration
}

// life is one run of a machine.
type life struct {
	machine string
	pid     int
	began   time.Time
	killed  time.Time // zero: it was not
}

// execution is one run of a request by a machine.
type execution struct {
	id  string
	pid int
}

// stalled is a time in which a process stood still. Its pid is 0 when it is that of this program.
type stalled struct {
	pid       int
	from, til time.Time
}

// ledger is everything that happened in a run.
type ledger struct {
	requests   []request
	executions []execution
	lives      []life    // in the order in which they began
	stalls     []stalled // to a peer that asks, such a process is dead
	over       []string  // what machines said of more requests at once than their hard limit
	overTold   int       // how often those did that may: see mayExceed
	told       int       // executions that noticed that their client had left
	overheard  []string  // those of them that should not have
}

// onceOnly reports whether a second execution would be wrong.
func (k kind) onceOnly() bool { return k == kindPost || k == kindUpload || k == kindEcho }

// audit returns one sentence for each broken promise, at most limit of them, and how many there
// are.
func (l *ledger) audit(limit int) (said []string, broken int) {
	runs := map[string][]execution{}
	for _, e := range l.executions {
		runs[e.id] = append(runs[e.id], e)
	}
	say := func(format string, args ...any) {
		if broken++; len(said) < limit {
			said = append(said, fmt.Sprintf(format, args...))
		}
	}
	for _, o := range l.over {
		say("a machine had more at once than its hard limit: %s", o)
	}
	for _, o := range l.overheard {
		say("a machine that is to finish was told that a client had left: %s", o)
	}
	seen := map[string]bool{}
	for _, r := range l.requests {
		if seen[r.id] {
			say("%s: accounted for twice", r.id)
		}
		seen[r.id] = true
		if why := l.judge(r, runs[r.id]); why != "" {
			say("%s (%s, status %d, %v): %s; %s", r.id, r.kind, r.status, r.took.Round(time.Millisecond), why,
				cmp.Or(r.detail, "no detail"))
		}
	}
	for id := range runs {
		if !seen[id] {
			say("%s: executed, and no client sent it", id)
		}
	}
	slices.Sort(said)
	return said, broken
}

// judge returns what is wrong with how one request ended, or nothing.
func (l *ledger) judge(r request, runs []execution) string {
	if r.kind.onceOnly() && len(runs) > 1 {
		return fmt.Sprintf("executed %d times", len(runs))
	}
	died := slices.ContainsFunc(runs, func(e execution) bool { return l.killed(e.pid) }) ||
		len(runs) == 0 && l.killedUnread(r) || l.stoodStill(r, runs)
	switch {
	case r.left:
		return ""
	case r.ours && r.status == 503:
		if len(runs) > 0 && !died {
			return "refused, and executed all the same"
		}
		if !r.retry {
			return "refused without Retry-After"
		}
		return ""
	case r.ours && (r.status == 502 || r.status == 504):
		if !died {
			return "failed, and no machine that had it was killed"
		}
		return ""
	case r.ours:
		return "the proxy answered for the app"
	case r.kind == kindCut && r.status == 200:
		if r.whole {
			return "an answer that broke off ended well"
		}
		return ""
	case !r.whole:
		if !died {
			return "lost, and no machine that had it was killed"
		}
		return ""
	case len(runs) == 0:
		return "answered, and nobody executed it"
	}
	return ""
}

func (l *ledger) killed(pid int) bool {
	return slices.ContainsFunc(l.lives,
		func(v life) bool { return v.pid == pid && !v.killed.IsZero() })
}

// killedUnread reports whether a machine that the proxy names was killed while it may have had the
// request, before it read it: after the kill the connection is there until the kernel has ended the
// process.
func (l *ledger) killedUnread(r request) bool {
	for i, v := range l.lives {
		if v.killed.IsZero() || v.killed.After(r.began.Add(r.took)) ||
			!strings.Contains(r.detail, strconv.Quote(v.machine)) {
			continue
		}
		next := slices.IndexFunc(l.lives[i+1:], func(n life) bool { return n.machine == v.machine })
		if next < 0 || r.began.Before(l.lives[i+1+next].began) {
			return true
		}
	}
	return false
}

// stoodStill reports whether this process, or one that had the request, stood still under it.
func (l *ledger) stoodStill(r request, runs []execution) bool {
	return slices.ContainsFunc(l.stalls, func(s stalled) bool {
		return s.from.Before(r.began.Add(r.took)) && s.til.After(r.began) &&
			(s.pid == 0 || slices.ContainsFunc(runs, func(e execution) bool { return e.pid == s.pid }))
	})
}

// summary counts how the requests of each kind ended.
func (l *ledger) summary() string {
	counts := map[string]map[string]int{}
	for _, r := range l.requests {
		end := "whole"
		switch {
		case r.ours:
			end = fmt.Sprint(r.status)
		case r.left:
			end = "left"
		case r.whole && r.sick:
			end = "from a sick machine"
		case !r.whole:
			end = "broken off"
		}
		if counts[string(r.kind)] == nil {
			counts[string(r.kind)] = map[string]int{}
		}
		counts[string(r.kind)][end]++
	}
	var b strings.Builder
	for _, k := range sortedKeys(counts) {
		fmt.Fprintf(&b, "  %-7s", k)
		for i, end := range sortedKeys(counts[k]) {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, " %d %s", counts[k][end], end)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

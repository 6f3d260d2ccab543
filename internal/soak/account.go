package main

import (
	"cmp"
	"fmt"
	"slices"
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
	retry  bool   // the answer has a Retry-After
	whole  bool   // all of the answer came, and it was the right one
	detail string // what went wrong
	took   time.Duration
}

// execution is one run of a request by a machine.
type execution struct {
	id  string
	pid int
}

// ledger is everything that happened in a run.
type ledger struct {
	requests   []request
	executions []execution
	killed     map[int]bool // by pid
	over       []string     // what machines said of more requests at once than their hard limit
}

// onceOnly reports whether a second execution would be wrong.
func (k kind) onceOnly() bool { return k == kindPost || k == kindUpload || k == kindEcho }

// audit returns one sentence for each broken promise, at most limit of them, and how many there are.
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
	died := slices.ContainsFunc(runs, func(e execution) bool { return l.killed[e.pid] })
	switch {
	case r.kind == kindCancel && r.status == 0:
		return "" // it left
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

// summary counts how the requests of each kind ended.
func (l *ledger) summary() string {
	counts := map[string]map[string]int{}
	for _, r := range l.requests {
		end := "whole"
		switch {
		case r.ours:
			end = fmt.Sprint(r.status)
		case r.kind == kindCancel && r.status == 0:
			end = "left"
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
		fmt.Fprintf(&b, "  %-8s", k)
		for _, end := range sortedKeys(counts[k]) {
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

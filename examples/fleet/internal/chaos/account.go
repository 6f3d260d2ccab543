package chaos

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Account is the outcome of all requests.
type Account struct {
	Seed     uint64
	For      time.Duration
	Faults   []string
	Requests int
	Answered int
	// Failed counts the requests that were not answered with 200, by the reason why they may fail.
	Failed map[string]int
	// Again counts the idempotent requests that were executed more than once.
	Again int
	// Starts is how often a machine was started.
	Starts int
	// Slowest is the longest wait for an answer.
	Slowest time.Duration
	// Wrong lists violations, Lost the requests that failed although their edge lived.
	Wrong, Lost []string
	// Left is what the processes still hold at the end.
	Left []string
}

// wrongMax bounds how many violations are printed.
const wrongMax = 20

func (a *Account) wrong(format string, args ...any) {
	a.Wrong = append(a.Wrong, fmt.Sprintf(format, args...))
}

// margin is how much later than the system this process learns that another one has ended.
const margin = 500 * time.Millisecond

// beginMargin is how long a process may take from its start until it listens, on a busy host.
const beginMargin = 2 * time.Second

// requests accounts for requests.
func (a *Account) requests(all []result, done map[string]int) {
	a.Requests, a.Failed = len(all), map[string]int{}
	for _, r := range all {
		a.Slowest = max(a.Slowest, r.to.Sub(r.from))
		n := done[r.id]
		switch {
		case !r.idempotent && n > 1:
			a.wrong("%s was executed %d times and is not idempotent", r.id, n)
		case r.answered() && n == 0:
			a.wrong("%s was answered and never executed", r.id)
		case n > 1:
			a.Again++
		}
		if r.answered() {
			a.Answered++
			continue
		}
		why := r.excuse()
		if why == "" {
			a.Lost = append(
				a.Lost, fmt.Sprintf("%s failed at %s, which lived: %s", r.id, r.edge.Name, r.what()),
			)
			why = "the edge lived"
		}
		a.Failed[why]++
	}
}

// excuse returns why a request may have failed; empty: it must not fail.
func (r result) excuse() string {
	switch {
	case r.begun && r.err != nil:
		return "its answer had begun"
	case !r.idempotent && r.begun:
		return fmt.Sprintf("not idempotent, status %d", r.status)
	}
	after := margin
	if !r.dialed {
		after = beginMargin
	}
	for _, x := range r.edge.Disturbed() {
		if r.to.Before(x.From.Add(-margin)) || r.from.After(x.To.Add(after)) {
			continue
		}
		switch {
		case x.Ended && r.dialed:
			continue // it has to serve the requests that it had accepted
		case r.begun && !x.Paused:
			continue // the edge ran, and answered
		}
		return "its edge did not run"
	}
	if !r.idempotent && r.dialed {
		return "not idempotent, no answer"
	}
	return ""
}

func (r result) what() string {
	said, _, _ := strings.Cut(r.said, "\n")
	return fmt.Sprintf("status %d, error %v, after %v at %v %s", r.status, r.err,
		r.to.Sub(r.from).Round(time.Millisecond), r.to.Format("15:04:05.000"), said)
}

// executed reads what the app has recorded.
func (a *Account) executed(dir string) (done map[string]int, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	done = map[string]int{}
	a.Starts = len(files)
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			kind, what, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch kind {
			case "S":
				done[what]++
			case "X":
				a.wrong("%s had %s requests at once, more than its hard limit", f.Name(), what)
			}
		}
	}
	return done, nil
}

// Print writes the account.
func (a *Account) Print(w io.Writer) {
	fmt.Fprintf(
		w, "chaos: seed %d, %v: %d requests, %d answered, the slowest in %v\n", a.Seed, a.For, a.Requests,
		a.Answered, a.Slowest.Round(time.Millisecond),
	)
	for why, n := range a.Failed {
		fmt.Fprintf(w, "  %4d failed: %s\n", n, why)
	}
	fmt.Fprintf(
		w, "  %4d idempotent ones were executed again; machines were started %d times\n", a.Again,
		a.Starts,
	)
	for _, line := range append(a.Faults, a.Left...) {
		fmt.Fprintf(w, "  %s\n", line)
	}
	tell(w, "WRONG", a.Wrong)
	tell(w, "LOST", a.Lost)
	if len(a.Wrong)+len(a.Lost) == 0 {
		fmt.Fprintln(w, "  nothing is wrong")
	}
}

func tell(w io.Writer, what string, lines []string) {
	for i, line := range lines {
		if i == wrongMax {
			fmt.Fprintf(w, "  … and %d more\n", len(lines)-i)
			return
		}
		fmt.Fprintf(w, "  %s: %s\n", what, line)
	}
}

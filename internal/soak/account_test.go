package main

import (
	"strings"
	"testing"
)

// Each way in which a request can end is right or wrong, by what the machines did with it.
func TestEachEndIsJudged(t *testing.T) {
	run := func(pids ...int) (es []execution) {
		for _, p := range pids {
			es = append(es, execution{"1", p})
		}
		return es
	}
	const killed = 9
	for _, tt := range []struct {
		name string
		r    request
		runs []execution
		want string // part of the sentence; empty means that all is well
	}{
		{"answered", request{kind: kindGet, status: 200, whole: true}, run(1), ""},
		{"answered by nobody", request{kind: kindGet, status: 200, whole: true}, nil, "nobody executed"},
		{"a GET may run again", request{kind: kindGet, status: 200, whole: true}, run(killed, 1), ""},
		{"a POST may not", request{kind: kindPost, status: 200, whole: true}, run(killed, 1), "2 times"},
		{"the app's own error", request{kind: kindFails, status: 503, whole: true}, run(1), ""},
		{"refused", request{kind: kindPost, status: 503, ours: true, retry: true}, nil, ""},
		{"refused in silence", request{kind: kindPost, status: 503, ours: true}, nil, "Retry-After"},
		{"refused and executed", request{kind: kindPost, status: 503, ours: true, retry: true}, run(1), "executed all the same"},
		{"killed under it", request{kind: kindPost, status: 502, ours: true}, run(killed), ""},
		{"failed for no reason", request{kind: kindPost, status: 502, ours: true}, run(1), "no machine"},
		{"failed unsent", request{kind: kindPost, status: 502, ours: true}, nil, "no machine"},
		{"broken off by a kill", request{kind: kindSlow, status: 200}, run(killed), ""},
		{"broken off", request{kind: kindSlow, status: 200}, run(1), "lost"},
		{"no answer", request{kind: kindGet}, run(1), "lost"},
		{"left", request{kind: kindCancel}, run(1), ""},
		{"left too late", request{kind: kindCancel, status: 200, whole: true}, run(1), ""},
		{"cut", request{kind: kindCut, status: 200}, run(1), ""},
		{"cut and whole", request{kind: kindCut, status: 200, whole: true}, run(1), "ended well"},
		{"not our business", request{kind: kindGet, status: 404, ours: true}, nil, "for the app"},
	} {
		tt.r.id = "1"
		l := ledger{requests: []request{tt.r}, executions: tt.runs, killed: map[int]bool{killed: true}}
		said, broken := l.audit(10)
		if got := strings.Join(said, "\n"); (tt.want == "") != (broken == 0) || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Nothing is left out of the account: neither a request that nobody sent, nor one that is there twice.
func TestTheAccountIsWhole(t *testing.T) {
	l := ledger{
		requests:   []request{{id: "a", kind: kindGet, status: 200, whole: true}, {id: "a", kind: kindGet, status: 200, whole: true}},
		executions: []execution{{"a", 1}, {"b", 1}},
		over:       []string{"3 of 2"},
	}
	said, broken := l.audit(2)
	if broken != 3 || len(said) != 2 {
		t.Errorf("%d broken promises, %q; want 3, of which 2 are said", broken, said)
	}
}

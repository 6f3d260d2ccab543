package main

import (
	"strings"
	"testing"
	"time"
)

// Each way in which a request can end is right or wrong, by what the machines did with it.
func TestEachEndIsJudged(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	run := func(pids ...int) (es []execution) {
		for _, p := range pids {
			es = append(es, execution{"1", p})
		}
		return es
	}
	const killed, slow = 9, 8 // m is the machine that is killed, at 10, and starts again at 12
	during := func(r request, from, til int) request {
		r.began, r.took = at(from), at(til).Sub(at(from))
		return r
	}
	broken := request{kind: kindPost, status: 502, ours: true, detail: `machine "m" of app "a": reset`}
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
		{"killed before it read", during(broken, 9, 11), nil, ""},
		{"sent while the kernel ended it", during(broken, 11, 11), nil, ""},
		{"killed after the failure", during(broken, 8, 9), nil, "no machine"},
		{"killed in an earlier life", during(broken, 13, 14), nil, "no machine"},
		{"another was killed", during(request{kind: kindPost, status: 502, ours: true, detail: `machine "m2"`}, 9, 11), nil, "no machine"},
		{"stood still", during(broken, 19, 22), run(slow), ""},
		{"stood still before", during(broken, 25, 26), run(slow), "no machine"},
		{"another stood still", during(broken, 19, 22), run(1), "no machine"},
		{"all stood still", during(broken, 29, 31), run(1), ""},
		{"a sick machine's", request{kind: kindPost, status: 500, whole: true, sick: true}, run(1), ""},
		{"left", request{kind: kindCancel, left: true}, run(1), ""},
		{"lost, not left", request{kind: kindCancel}, run(1), "lost"},
		{"left too late", request{kind: kindCancel, status: 200, whole: true}, run(1), ""},
		{"cut", request{kind: kindCut, status: 200}, run(1), ""},
		{"cut and whole", request{kind: kindCut, status: 200, whole: true}, run(1), "ended well"},
		{"not our business", request{kind: kindGet, status: 404, ours: true}, nil, "for the app"},
	} {
		tt.r.id = "1"
		l := ledger{requests: []request{tt.r}, executions: tt.runs,
			lives:  []life{{"m", killed, at(1), at(10)}, {"m", 10, at(12), time.Time{}}},
			stalls: []stalled{{slow, at(20), at(21)}, {0, at(30), at(32)}},
		}
		said, broken := l.audit(10)
		if got := strings.Join(said, "\n"); (tt.want == "") != (broken == 0) || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Nothing is left out of the account: neither a request that nobody sent, nor one that is there
// twice.
func TestTheAccountIsWhole(t *testing.T) {
	l := ledger{
		requests:   []request{{id: "a", kind: kindGet, status: 200, whole: true}, {id: "a", kind: kindGet, status: 200, whole: true}},
		executions: []execution{{"a", 1}, {"b", 1}},
		over:       []string{"3 of 2"},
		overheard:  []string{"c"},
	}
	said, broken := l.audit(2)
	if broken != 4 || len(said) != 2 {
		t.Errorf("%d broken promises, %q; want 4, of which 2 are said", broken, said)
	}
}

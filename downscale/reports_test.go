package downscale

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

func told(incarnation, seq uint64, inFlight int) balance.Report {
	return balance.Report{App: "web", ID: "far-1", Load: balance.Load{InFlight: inFlight, Seq: seq}, Version: balance.Version{Incarnation: incarnation}}
}

// parts tells of 7 in flight, some of which are slots granted, and idle connections.
func parts(granted, idle int) balance.Report {
	r := told(1, 1, 7)
	r.Granted, r.Idle = granted, idle
	return r
}

func TestReports(t *testing.T) {
	for _, tc := range []struct {
		name string
		say  []balance.Report
		took string
		wait time.Duration
		want string
	}{
		{"nothing", nil, "", 0, "0 0 false"},
		{"one", []balance.Report{told(1, 1, 7)}, "true ", 0, "7 0 true"},
		{"fresh to the end", []balance.Report{told(1, 1, 7)}, "true ", 2 * sec, "7 0 true"},
		{"too old", []balance.Report{told(1, 1, 7)}, "true ", 2*sec + 1, "0 0 false"},
		{"the newest counts", []balance.Report{told(1, 3, 7), told(1, 4, 8)}, "true true ", 0, "8 0 true"},
		{"overtaken", []balance.Report{told(1, 4, 8), told(1, 3, 7)}, "true false ", 0, "8 0 true"},
		{"twice", []balance.Report{told(1, 4, 8), told(1, 4, 8)}, "true false ", 0, "8 0 true"},
		{"its owner has begun anew", []balance.Report{told(1, 90, 8), told(2, 1, 0)}, "true true ", 0, "0 0 true"},
		{"from before that", []balance.Report{told(2, 1, 0), told(1, 91, 8)}, "true false ", 0, "0 0 true"},
		{"what is idle", []balance.Report{parts(1, 2)}, "true ", 0, "6 2 true"},
		{"nonsense of parts", []balance.Report{parts(-1, 99)}, "true ", 0, "7 7 true"},
		{"more than there is", []balance.Report{parts(9, 1)}, "true ", 0, "0 0 true"},
		{"nonsense", []balance.Report{told(1, 1, -4)}, "true ", 0, "0 0 true"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, err := NewReports(2 * sec)
				if err != nil {
					t.Fatal(err)
				}
				took := ""
				for _, of := range tc.say {
					took += fmt.Sprint(r.Put(of), " ")
				}
				time.Sleep(tc.wait)
				n, idle, fresh := r.Load("web", "far-1")
				if got := fmt.Sprint(n, idle, fresh); took != tc.took || got != tc.want {
					t.Errorf("%sand then %s; want %sand %s", took, got, tc.took, tc.want)
				}
				if _, _, fresh := r.Load("web", "far-2"); fresh {
					t.Error("another machine's report counts")
				}
				r.Forget("web", "far-1")
				if _, _, fresh := r.Load("web", "far-1"); fresh {
					t.Error("it is known after it has been forgotten")
				}
			})
		})
	}
	if _, err := NewReports(-1); err == nil {
		t.Error("a negative age is taken")
	}
}

// A message that comes twice, late, does not make an old report fresh.
func TestReportsTwiceAreNotFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := NewReports(0)
		r.Put(told(1, 1, 7))
		time.Sleep(2 * sec)
		r.Put(told(1, 1, 7))
		time.Sleep(2 * sec)
		if _, _, fresh := r.Load("web", "far-1"); fresh {
			t.Error("fresh after 4 s")
		}
	})
}

func TestReportsCostNothing(t *testing.T) {
	r, _ := NewReports(0)
	seq := uint64(0)
	if n := testing.AllocsPerRun(100, func() {
		seq++
		r.Put(told(1, seq, 1))
		r.Load("web", "far-1")
	}); n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

package cities

import (
	"fmt"
	"testing"
	"time"
)

func ExampleRoundTrip() {
	for _, to := range []string{"nrt", "hkg", "fra", "atlantis"} {
		rtt, ok := RoundTrip("nrt", to)
		fmt.Println(to, rtt.Round(time.Millisecond), ok)
	}
	// Output:
	// nrt 0s true
	// hkg 37ms true
	// fra 226ms true
	// atlantis 140ms false
}

// The figures that one usually sees between data centres, roughly: the sketch has to come near
// them.
func TestRoundTripIsPlausible(t *testing.T) {
	for _, row := range []struct {
		a, b     string
		low, top int // milliseconds
	}{
		{"nrt", "hkg", 35, 60},
		{"nrt", "fra", 200, 260}, // not 140, as in a straight line
		{"nrt", "sjc", 90, 120},
		{"hkg", "sin", 28, 45},
		{"sin", "syd", 80, 110},
		{"sin", "fra", 140, 180},
		{"lhr", "ewr", 65, 80},
		{"fra", "ams", 5, 10},
		{"iad", "ewr", 4, 10},
		{"iad", "sjc", 50, 75},
		{"mia", "gru", 90, 120},
		{"jnb", "lhr", 140, 190},
		{"syd", "lax", 135, 165},
	} {
		got, ok := RoundTrip(row.a, row.b)
		if ms := int(got / time.Millisecond); !ok || ms < row.low || ms > row.top {
			t.Errorf("RoundTrip(%s, %s) = %v, %v; want %d to %d ms", row.a, row.b, got, ok, row.low, row.top)
		}
	}
}

func TestRoundTripIsADistance(t *testing.T) {
	for i, a := range cities {
		if rtt, ok := RoundTrip(a.Code, a.Code); rtt != 0 || !ok {
			t.Errorf("RoundTrip(%s, %[1]s) = %v, %v", a.Code, rtt, ok)
		}
		for _, b := range cities[:i] {
			there, _ := RoundTrip(a.Code, b.Code)
			back, _ := RoundTrip(b.Code, a.Code)
			straight := span(a, b).Round(10 * time.Microsecond)
			if there != back || there < straight || there > 400*time.Millisecond {
				t.Errorf("%s to %s takes %v, back %v, straight %v", a.Code, b.Code, there, back, straight)
			}
		}
	}
}

func TestSpansNameKnownPlaces(t *testing.T) {
	for _, s := range spans {
		for _, code := range s {
			if _, ok := position[code]; !ok {
				t.Errorf("span %v: no place is called %q", s, code)
			}
		}
	}
	if len(position) != len(places) {
		t.Errorf("%d places have %d codes", len(places), len(position))
	}
}

func TestInventedPlaces(t *testing.T) {
	for _, name := range []string{"", "eu-west-1", "home", "suez", "北京"} {
		once, ok := RoundTrip(name, "nrt")
		again, _ := RoundTrip("nrt", name)
		if ok || once != again || once <= 0 || once > 300*time.Millisecond {
			t.Errorf("RoundTrip(%q, nrt) = %v, %v, then %v", name, once, ok, again)
		}
		if rtt, _ := RoundTrip(name, name); rtt != 0 {
			t.Errorf("RoundTrip(%q, itself) = %v", name, rtt)
		}
		if Name(name) != "" {
			t.Errorf("Name(%q) = %q", name, Name(name))
		}
	}
	if got := Name("gru"); got != "São Paulo" {
		t.Errorf("Name(gru) = %q", got)
	}
}

func TestCitiesAreTheCallers(t *testing.T) {
	c := All()
	c[0].Code = "xxx"
	if got := All()[0].Code; got != "ams" {
		t.Errorf("the first city is now %q", got)
	}
}

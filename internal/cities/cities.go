// Package cities knows how far apart real cities are, for networks that are emulated. It is pure.
package cities

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// City is a place that can be named in a link.
type City struct {
	Code     string  // airport code in lower case, such as "nrt"
	Name     string  // in English, such as "Tokyo"
	Lat, Lon float64 // degrees; north and east are positive
}

// cities are real places; the coordinates are those of the city, to about ten kilometres.
var cities = []City{
	{"ams", "Amsterdam", 52.37, 4.90},
	{"arn", "Stockholm", 59.33, 18.07},
	{"atl", "Atlanta", 33.75, -84.39},
	{"bog", "Bogotá", 4.71, -74.07},
	{"bom", "Mumbai", 19.08, 72.88},
	{"bos", "Boston", 42.36, -71.06},
	{"cdg", "Paris", 48.86, 2.35},
	{"den", "Denver", 39.74, -104.99},
	{"dfw", "Dallas", 32.78, -96.80},
	{"eze", "Buenos Aires", -34.60, -58.38},
	{"ewr", "New York", 40.74, -74.17},
	{"fra", "Frankfurt", 50.11, 8.68},
	{"gru", "São Paulo", -23.55, -46.63},
	{"hkg", "Hong Kong", 22.32, 114.17},
	{"iad", "Ashburn", 39.04, -77.49},
	{"icn", "Seoul", 37.57, 126.98},
	{"jnb", "Johannesburg", -26.20, 28.05},
	{"lax", "Los Angeles", 34.05, -118.24},
	{"lhr", "London", 51.51, -0.13},
	{"mad", "Madrid", 40.42, -3.70},
	{"mel", "Melbourne", -37.81, 144.96},
	{"mia", "Miami", 25.76, -80.19},
	{"nrt", "Tokyo", 35.68, 139.77},
	{"ord", "Chicago", 41.88, -87.63},
	{"otp", "Bucharest", 44.43, 26.10},
	{"phx", "Phoenix", 33.45, -112.07},
	{"qro", "Querétaro", 20.59, -100.39},
	{"scl", "Santiago", -33.45, -70.67},
	{"sea", "Seattle", 47.61, -122.33},
	{"sin", "Singapore", 1.35, 103.82},
	{"sjc", "San Jose", 37.34, -121.89},
	{"syd", "Sydney", -33.87, 151.21},
	{"waw", "Warsaw", 52.23, 21.01},
	{"yul", "Montréal", 45.50, -73.57},
	{"yyz", "Toronto", 43.65, -79.38},
}

// waypoints are where cables turn; nobody lives there.
var waypoints = []City{
	{"suez", "", 29.97, 32.55},
	{"aden", "", 12.80, 45.03},
	{"galle", "", 5.90, 80.20}, // south of Sri Lanka
	{"mombasa", "", -4.04, 39.67},
	{"durban", "", -29.86, 31.02},
	{"marseille", "", 43.30, 5.37},
	{"fortaleza", "", -3.73, -38.52},
	{"cape", "", -33.92, 18.42},
	{"dakar", "", 14.69, -17.45},
	{"guam", "", 13.44, 144.79},
	{"perth", "", -31.95, 115.86},
}

// spans are the stretches of fibre between them, from the first to each of the others: a coarse
// sketch of where the real ones lie, so that Tokyo reaches Frankfurt through America or Suez and
// not in a straight line across Siberia.
var spans = [][]string{
	// Pacific and East Asia
	{"nrt", "icn", "hkg", "sea", "sjc", "lax", "guam", "sin"},
	{"hkg", "icn", "sin", "guam"},
	{"guam", "sin", "syd", "lax"},
	{"syd", "mel", "lax"},
	{"perth", "sin", "syd", "mel"},
	// Indian Ocean and Africa
	{"galle", "sin", "bom", "aden", "mombasa"},
	{"aden", "bom", "suez", "mombasa"},
	{"durban", "mombasa", "jnb"},
	{"cape", "jnb", "dakar", "fortaleza"},
	// Europe
	{"marseille", "suez", "cdg", "fra", "mad"},
	{"cdg", "lhr", "fra", "mad"},
	{"fra", "ams", "waw", "arn", "otp"},
	{"mad", "lhr", "dakar"},
	{"ams", "lhr", "arn"},
	{"waw", "otp", "arn"},
	// Atlantic
	{"lhr", "ewr", "bos", "yul"},
	{"iad", "cdg", "mad"},
	{"fortaleza", "mad", "mia", "ewr", "gru"},
	// America
	{"ewr", "bos", "iad", "yyz", "yul", "ord"},
	{"yyz", "yul", "ord"},
	{"iad", "ord", "atl", "dfw"},
	{"mia", "atl", "dfw", "bog", "scl"},
	{"dfw", "atl", "ord", "den", "phx", "qro"},
	{"den", "ord", "sjc", "sea"},
	{"lax", "phx", "sjc", "qro"},
	{"sea", "ord", "sjc"},
	{"scl", "bog", "eze", "gru"},
	{"eze", "gru"},
}

const (
	earthRadius = 6371.0 // kilometres

	// perKilometre is the round trip of one kilometre of fibre: light travels about 200 km per
	// millisecond in glass.
	perKilometre = 10 * time.Microsecond

	// detour is how much longer fibre is than the great circle between the two ends of a span.
	// Surveys of real routes find 1.2 to 1.5; the turns are in the sketch already.
	detour = 1.2

	// perSpan is the round trip spent at the ends of a span: in its equipment and on the way to it
	// through the city. It is what makes short spans slower than their length: Amsterdam to
	// Frankfurt takes 6 ms, not 4.
	perSpan = 2 * time.Millisecond
)

// All returns the known cities, in the order of their codes. The caller owns the slice.
func All() []City {
	return slices.SortedFunc(slices.Values(cities), func(a, b City) int { return strings.Compare(a.Code, b.Code) })
}

// Name returns the name of a known city, such as "Tokyo" for "nrt", or "".
func Name(code string) string {
	if i, ok := known(code); ok {
		return places[i].Name
	}
	return ""
}

// RoundTrip returns a plausible round trip between two cities. It is computed, not measured:
// great-circle distances along a sketch of the real cable routes, times 1.2, at the speed of
// light in glass, plus 2 ms for each span. Tokyo to Hong Kong gives 37 ms, London to New York 69
// ms, Tokyo to Frankfurt 226 ms.
//
// The round trip within a city is 0. A name that is not in the table is a place too: it is put at
// a position made from a hash of the name, always the same, and joined to each city by a straight
// line. ok says that both names are in the table.
func RoundTrip(a, b string) (rtt time.Duration, ok bool) {
	i, okA := known(a)
	j, okB := known(b)
	switch {
	case a == b:
		return 0, okA
	case okA && okB:
		return shortest[i][j].Round(10 * time.Microsecond), true
	}
	return span(place(a), place(b)).Round(10 * time.Microsecond), false
}

// known returns the index of a city in places.
func known(code string) (int, bool) {
	i, ok := position[code]
	return i, ok && i < len(cities)
}

// place returns the city of that code, or an invented one.
func place(code string) City {
	if i, ok := known(code); ok {
		return places[i]
	}
	h := xxhash.Sum64String(code)
	// Even in area between 45° south and 60° north, where people live.
	south, north := math.Sin(radians(-45)), math.Sin(radians(60))
	return City{
		Code: code,
		Lat:  math.Asin(south+(north-south)*float64(h>>32)/(1<<32)) * 180 / math.Pi,
		Lon:  float64(h&(1<<32-1))/(1<<32)*360 - 180,
	}
}

// span returns the round trip over one stretch of fibre.
func span(a, b City) time.Duration {
	return time.Duration(kilometres(a, b)*detour*float64(perKilometre)) + perSpan
}

// kilometres returns the great-circle distance (haversine).
func kilometres(a, b City) float64 {
	sinLat := math.Sin(radians(b.Lat-a.Lat) / 2)
	sinLon := math.Sin(radians(b.Lon-a.Lon) / 2)
	h := sinLat*sinLat + math.Cos(radians(a.Lat))*math.Cos(radians(b.Lat))*sinLon*sinLon
	return 2 * earthRadius * math.Asin(math.Sqrt(min(1, h)))
}

func radians(degrees float64) float64 { return degrees * math.Pi / 180 }

// Built once: places holds cities and waypoints, position finds them, shortest is the round trip
// of each pair.
var (
	places   = slices.Concat(cities, waypoints)
	position = index(places)
	shortest = routes(places, position, spans)
)

func index(places []City) map[string]int {
	m := make(map[string]int, len(places))
	for i, p := range places {
		m[p.Code] = i
	}
	return m
}

// unreached is longer than any route.
const unreached = time.Hour

// routes returns the shortest round trips over the spans (Floyd and Warshall).
func routes(places []City, position map[string]int, spans [][]string) [][]time.Duration {
	d := make([][]time.Duration, len(places))
	for i := range d {
		d[i] = slices.Repeat([]time.Duration{unreached}, len(places))
		d[i][i] = 0
	}
	for _, s := range spans {
		i := position[s[0]]
		for _, to := range s[1:] {
			j := position[to]
			d[i][j] = span(places[i], places[j])
			d[j][i] = d[i][j]
		}
	}
	for k := range d {
		for i := range d {
			for j := range d {
				d[i][j] = min(d[i][j], d[i][k]+d[k][j])
			}
		}
	}
	return d
}

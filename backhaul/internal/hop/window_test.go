package hop

import (
	"encoding/binary"
	"testing"
	"time"
)

// A request goes with bulk by the length of its body, or where one of the same route moved bulk
// lately.
func TestWhatIsBulk(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, tt := range []struct {
		length int64
		last   time.Time
		want   Lane
	}{
		{0, time.Time{}, LaneInteractive},
		{-1, time.Time{}, LaneInteractive},
		{BulkSize - 1, time.Time{}, LaneInteractive},
		{BulkSize, time.Time{}, LaneBulk},
		{0, now, LaneBulk},
		{0, now.Add(1 - bulkMemory), LaneBulk},
		{0, now.Add(-bulkMemory), LaneInteractive},
	} {
		if got := LaneOf(tt.length, tt.last, now); got != tt.want {
			t.Errorf("%d bytes, bulk last at %v: lane %v, want %v", tt.length, tt.last, got, tt.want)
		}
	}
}

func TestWindowsSuitThePath(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		rtt      time.Duration
		known    bool
		pressure float64
		had      int
		want     int // KiB
	}{
		{0, false, 0, -1, 4096},
		{0, true, 0, -1, 256},
		{4 * ms, true, 0, -1, 256},
		{16 * ms, true, 0, -1, 1024},
		{64 * ms, true, 0, -1, 4096},
		{128 * ms, true, 0, -1, 8192},
		{300 * ms, true, 0, -1, 16384},
		{-ms, true, 0, -1, 256},
		{128 * ms, true, 0.85, -1, 4096},
		{128 * ms, true, 0.95, -1, 2048},
		{4 * ms, true, 2, -1, 256},
		{16 * ms, true, 0, 3, 2048}, // 960 KiB: above three quarters of 1 MiB, no change for so little
		{10 * ms, true, 0, 3, 1024},
	} {
		if got := WindowOf(ChooseClass(tt.rtt, tt.known, DefaultBandwidth, tt.pressure, tt.had)) >> 10; got != tt.want {
			t.Errorf("%+v: got %d KiB", tt, got)
		}
	}
	for _, tt := range []struct {
		rtt   time.Duration
		known bool
		most  time.Duration
		want  time.Duration
	}{{0, false, 3 * time.Second, 3 * time.Second}, {0, true, 0, 300 * ms}, {100 * ms, true, 0, 500 * ms}, {time.Hour, true, 0, 3 * time.Second}, {time.Hour, true, time.Second, time.Second}} {
		if got := DialLimit(tt.rtt, tt.known, tt.most); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
	now := time.Unix(1e6, 0)
	for _, tt := range []struct {
		length int64
		last   time.Time
		want   Lane
	}{{0, time.Time{}, LaneInteractive}, {-1, time.Time{}, LaneInteractive}, {BulkSize, time.Time{}, LaneBulk}, {0, now.Add(-time.Second), LaneBulk}, {0, now.Add(-2 * time.Minute), LaneInteractive}} {
		if got := LaneOf(tt.length, tt.last, now); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
}

func rawFrame(kind, flags byte, stream uint32, payload ...byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

func FuzzSettings(f *testing.F) {
	f.Add(
		rawFrame(FrameSettings, 0, 0, 0, SettingStreams, 0, 0, 0, 10, 0, settingWindow, 0, 1, 0, 0), 3,
	)
	f.Add([]byte(ClientPreface), 7)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		var whole, parts Settings
		whole.Feed(b)
		at = max(0, min(at, len(b)))
		parts.Feed(b[:at])
		parts.Feed(b[at:])
		if whole.Done != parts.Done || whole.OK != parts.OK || whole.Streams != parts.Streams ||
			whole.Window != parts.Window {
			t.Errorf("%+v in one piece, %+v in two", whole, parts)
		}
		Sniff(b)
	})
}

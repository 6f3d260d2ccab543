package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

var write = flag.Bool(
	"write", false, "write the golden bytes of this version, which must not be there yet",
)

func header(kind string, seq uint64) Header {
	return Header{Cluster: "prod", Kind: kind, Incarnation: 1764345600123, Seq: seq}
}

var fullRow = Row{Index: 300, Machine: balance.Machine{
	ID: "m1", App: "web", Region: "nrt", Addr: "10.0.0.1:8080", Revision: "v7",
	Limits: balance.Limits{
		Soft: 20, Hard: 25,
	}, State: balance.StateStarted, Health: balance.HealthFailing,
	Recent: true, Doubtful: true, Cordon: balance.CordonSoft, CordonGen: 9, Epoch: 4, Fault: "connection refused: 10.0.0.1:8080 · it listens elsewhere",
}}

// samples are one message of each kind, with every field set. The golden bytes of all versions
// decode to them, except that a field that a later version adds is zero there.
var samples = map[string]any{
	"rows": Rows{header("row", 7), []Row{fullRow, {Index: 2, Removed: true, Machine: balance.Machine{App: "web", ID: "m2"}}}},
	"load": Load{
		Header: header(
			"load", 8,
		), Hop: "10.0.0.1:9000", Probe: "10.0.0.1:9001", Edge: true, Worker: true, Leaving: true, Rows: 7, Acks: 11,
		Reports: []Report{{
			Index: 300, Load: balance.Load{InFlight: 19, Limits: balance.Limits{Soft: 20, Hard: 25}, State: balance.StateStarted, Cordon: balance.CordonSoft, CordonGen: 9, Epoch: 4, Seq: 123456},
			Granted: 1, Idle: 2, Cost: 1<<32 - 1, Pressure: 255, Queue: 65535,
		}, {}},
	},
	"acks":     Acks{header("ack", 11), []Ack{{"worker-1", 1764345600001, 42}, {"worker-2", 1, 0}}},
	"asks":     Asks{header("ask", 12), 1, 3, []Demand{{"web", "nrt", 5, 6}, {"api", "", 0, 1}}},
	"question": Ask{Header: header("snap", 41), Node: "edge-1", Part: 3, Cut: 40, Older: 99},
	"snapshot": Snapshot{header("snap", 7), 2, 5, []Row{fullRow}},
}

func encode(m any) []byte {
	rows := func(rs []Row) (bs [][]byte) {
		for _, r := range rs {
			bs = append(bs, EncodeRow(r))
		}
		return bs
	}
	switch m := m.(type) {
	case Rows:
		return EncodeRows(m.Header, rows(m.Rows))
	case Load:
		return m.Encode()
	case Acks:
		return m.Encode()
	case Asks:
		return m.Encode()
	case Ask:
		return m.Encode()
	case Snapshot:
		return EncodeSnapshot(m.Header, m.Part, m.Parts, rows(m.Rows))
	}
	panic(fmt.Sprintf("%T", m))
}

func decodeAs(name string, b []byte) (m any, err error) {
	switch name {
	case "rows":
		return DecodeRows(b)
	case "load":
		return DecodeLoad(b)
	case "acks":
		return DecodeAcks(b)
	case "asks":
		return DecodeAsks(b)
	case "question":
		return DecodeAsk(b)
	}
	return DecodeSnapshot(b)
}

// byText compares the errors of rows by their text.
var byText = cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) })

func golden(t *testing.T, file string) map[string][]byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string][]byte{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		name, text, _ := strings.Cut(s.Text(), " ")
		if out[name], err = hex.DecodeString(text); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

const goldenFile = "testdata/v1.txt"

// Every later release reads what a release has written. A file of golden bytes is never changed: a
// release that writes more adds a file.
func TestGolden(t *testing.T) {
	if *write {
		f, err := os.OpenFile(goldenFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(f, "# Messages as the first release wrote them. Not to be changed.")
		for _, name := range slices.Sorted(maps.Keys(samples)) {
			fmt.Fprintf(f, "%s %x\n", name, encode(samples[name]))
		}
		f.Close()
	}
	for name, b := range golden(t, goldenFile) {
		m, err := decodeAs(name, b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(samples[name], m, byText); d != "" {
			t.Errorf("%s is read otherwise than it was written (-written +read)\n%s", name, d)
		}
		if d := cmp.Diff(b, encode(samples[name])); d != "" {
			t.Errorf("%s is written otherwise; that needs golden bytes of its own\n%s", name, d)
		}
	}
}

// later adds fields of all types that this release does not know: in front, behind and inside.
func later(b []byte) []byte {
	var e encoder
	e.uint(99, 77)
	e.text(100, "of a later release")
	e.tag(101, typeFixed32)
	e.b = append(e.b, 1, 2, 3, 4)
	e.tag(102, typeFixed64)
	e.b = append(e.b, 1, 2, 3, 4, 5, 6, 7, 8)
	return slices.Concat(b[:1], e.b, b[1:], e.b)
}

func TestFieldsOfALaterReleaseArePassedOver(t *testing.T) {
	for name, m := range samples {
		got, err := decodeAs(name, later(encode(m)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(m, got, byText); d != "" {
			t.Errorf("%s (-want +got)\n%s", name, d)
		}
	}
	row := later(append([]byte{0}, EncodeRow(fullRow)...))[1:]
	got, err := DecodeRows(EncodeRows(Header{}, [][]byte{row}))
	if d := cmp.Diff([]Row{fullRow}, got.Rows, byText); d != "" || err != nil {
		t.Errorf("row: %v\n%s", err, d)
	}
}

func TestABadRowSpoilsNoOther(t *testing.T) {
	bad := append(
		EncodeRow(Row{Machine: balance.Machine{App: "web", ID: "bad"}}), 0x0f,
	) // ends inside a field
	long := fullRow
	long.Machine.Addr = strings.Repeat("x", 256)
	m, err := DecodeRows(EncodeRows(Header{}, [][]byte{bad, EncodeRow(fullRow), {}, EncodeRow(long)}))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		`field 1 of unknown type 7`,
		``,
		`row of machine "" of app "": both have to be set`,
		`field 6 has 256 bytes: at most 255`,
	} {
		if got := m.Rows[i].Err; (got == nil) != (want == "") ||
			got != nil && !strings.HasSuffix(got.Error(), want) {
			t.Errorf("row %d: error %v, want %q", i, got, want)
		}
	}
	if m.Rows[0].Machine.Key() != (balance.MachineKey{App: "web", ID: "bad"}) {
		t.Errorf("of the bad row %v is known", m.Rows[0].Machine.Key())
	}
}

func TestBadMessages(t *testing.T) {
	big := binary.AppendUvarint([]byte{Version, 8<<3 | typeBytes}, 1<<40)
	for _, c := range []struct {
		what, want string
		b          []byte
	}{
		{"empty", "empty", nil},
		{"too large", "at most 1048576", make([]byte, MaxMessage+1)},
		{"a later version", "version 2, this release reads 1", []byte{2}},
		{"no kind", `of kind "": want "row"`, []byte{Version}},
		{"another kind", `of kind "ack": want "row"`, (&Acks{}).Encode()},
		{"ends in a number", "does not end", []byte{Version, 0x80}},
		{"number of 11 bytes", "does not end", append([]byte{Version, 24}, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1)},
		{"a length beyond the end", "of 1099511627776 bytes where 0 are left", big},
		{"field 0", "field number 0", []byte{Version, 0, 0}},
		{"a group", "unknown type 3", []byte{Version, 8<<3 | 3}},
		{"cluster as a number", "field 1 has type 0: want 2", []byte{Version, 1 << 3, 1}},
		{"no UTF-8", "no UTF-8", []byte{Version, 1<<3 | 2, 1, 0xff}},
	} {
		if _, err := DecodeRows(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.what, err, c.want)
		}
	}
	if _, err := DecodeRows([]byte{2}); !errors.Is(err, ErrVersion) {
		t.Errorf("another version: %v, want ErrVersion", err)
	}
	for _, field := range []int{reportCost, reportPressure, reportQueue, reportInFlight} {
		e := (&Header{Kind: "load"}).encode()
		e.message(loadReport, func(e *encoder) { e.uint(field, 1<<40) })
		if _, err := DecodeLoad(e.b); err == nil || !strings.Contains(err.Error(), "too large") {
			t.Errorf("field %d beyond its size: %v", field, err)
		}
	}
}

func TestALongFaultIsCutBetweenCharacters(t *testing.T) {
	r := fullRow
	r.Machine.Fault = strings.Repeat("ä", 600) + "!"
	m, err := DecodeRows(EncodeRows(Header{}, [][]byte{EncodeRow(r)}))
	if err != nil || m.Rows[0].Err != nil {
		t.Fatal(err, m.Rows[0].Err)
	}
	if got := m.Rows[0].Machine.Fault; got != strings.Repeat("ä", 512) {
		t.Errorf("%d bytes", len(got))
	}
}

// FuzzDecode checks that whatever decodes without an error can be encoded, and decodes to the same.
func FuzzDecode(f *testing.F) {
	names := slices.Sorted(maps.Keys(samples))
	for i, name := range names {
		f.Add(uint8(i), encode(samples[name]))
		f.Add(uint8(i), later(encode(samples[name])))
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		name := names[int(kind)%len(names)]
		m, err := decodeAs(name, b)
		if err != nil {
			return
		}
		switch m := m.(type) {
		case Rows:
			if badRow(m.Rows) {
				return
			}
		case Snapshot:
			if badRow(m.Rows) {
				return
			}
		}
		again, err := decodeAs(name, encode(m))
		if err != nil {
			t.Fatalf("%+v is not read again: %v", m, err)
		}
		if d := cmp.Diff(m, again, byText); d != "" {
			t.Fatal(d)
		}
	})
}

func badRow(rows []Row) bool {
	return slices.ContainsFunc(rows, func(r Row) bool { return r.Err != nil || r.Removed })
}

func BenchmarkLoad(b *testing.B) {
	m := Load{Header: header("load", 8)}
	for i := range 100 {
		r := Report{Index: uint32(i)}
		r.Load = balance.Load{
			InFlight: i, Limits: balance.Limits{Soft: 20, Hard: 25}, State: balance.StateStarted, Epoch: 4,
			Seq: uint64(100000 + i),
		}
		m.Reports = append(m.Reports, r)
	}
	b.Run("do=encode/machines=100", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Encode()
		}
	})
	bytes := m.Encode()
	b.Run("do=decode/machines=100", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(bytes)))
		for b.Loop() {
			DecodeLoad(bytes)
		}
	})
}

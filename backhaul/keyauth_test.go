package backhaul

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

var (
	nonceA = [nonceSize]byte{1, 2, 3}
	nonceB = [nonceSize]byte{4, 5, 6}
	boundA = bytes.Repeat([]byte{7}, bindingSize)
)

// prefaceOf does the whole exchange and returns its messages, with what each end says.
func prefaceOf(edge, owner []authKey, edgeBinding, ownerBinding []byte) (hello, reply, confirm []byte, s authStatus, why refusal) {
	hello = appendHello(nil, edge, nonceA, edgeBinding)
	mine, s := judgeHello(hello, owner, ownerBinding)
	if s > authConfirm {
		reply = appendRefusal(nil, s)
	} else {
		reply = appendReply(nil, s, owner[mine], hello, nonceB, ownerBinding)
	}
	key, why := judgeReply(reply, hello, edge, edgeBinding)
	if why == "" {
		p := confirmation(edge[key], hello, reply)
		confirm = p[:]
		if s == authConfirm && !confirms(confirm, owner[mine], hello, reply) {
			why = "the owner does not believe the confirmation"
		}
	}
	return hello, reply, confirm, s, why
}

func TestEndsWithACommonKeyAcceptEachOther(t *testing.T) {
	for _, tt := range []struct {
		edge, owner string
		want        authStatus // in clear
	}{
		{"old", "old", authConfirm},
		{"old", "new", authUnknown},
		{"old", "", authKeyless},
		// While the key changes, in any order of the nodes.
		{"new old", "old", authConfirm},
		{"old", "new old", authConfirm},
		{"new old", "new old", authConfirm},
		{"new old", "new", authConfirm},
		{"new", "new old", authConfirm},
		{"new", "old", authUnknown},
		{"new old", "other another", authUnknown},
	} {
		edge, owner := authKeys(strings.Fields(tt.edge)...), authKeys(strings.Fields(tt.owner)...)
		for _, binding := range [][]byte{nil, boundA} {
			want := tt.want
			if want == authConfirm && binding != nil {
				want = authWelcome
			}
			_, _, _, got, why := prefaceOf(edge, owner, binding, binding)
			if got != want || (why == "") != (want <= authConfirm) {
				t.Errorf("edge %q, owner %q, bound %v: %d, %q; want %d", tt.edge, tt.owner, binding != nil, got, why, want)
			}
			if want > authConfirm && string(why) != want.words() {
				t.Errorf("edge %q, owner %q: says %q", tt.edge, tt.owner, why)
			}
		}
	}
}

func TestEndsThatSeeDifferentConnectionsRefuseEachOther(t *testing.T) {
	keys := authKeys("key")
	other := bytes.Repeat([]byte{8}, bindingSize)
	for _, tt := range []struct {
		edge, owner []byte
		want        authStatus
	}{
		{nil, boundA, authUnbound},
		{boundA, nil, authUnbound},
		{boundA, other, authUnknown}, // somebody ends TLS in between
	} {
		if _, _, _, got, why := prefaceOf(keys, keys, tt.edge, tt.owner); got != tt.want || why == "" {
			t.Errorf("%v, %v: %d, %q; want %d", tt.edge != nil, tt.owner != nil, got, why, tt.want)
		}
	}
	// An owner that says it is content without a confirmation, where it must want one.
	hello := appendHello(nil, keys, nonceA, nil)
	if _, why := judgeReply(appendReply(nil, authWelcome, keys[0], hello, nonceB, nil), hello, keys, nil); why != refusalForged {
		t.Errorf("an edge in clear was not asked to confirm: %q", why)
	}
}

// Whatever is changed on the way, and wherever a message is used that was meant for something else.
func TestNoOtherMessageWillDo(t *testing.T) {
	keys := authKeys("new", "old")
	seen := map[string]bool{}
	for _, k := range keys {
		seen[string(k.hello)], seen[string(k.reply)], seen[string(k.confirm)] = true, true, true
	}
	if len(seen) != 6 {
		t.Error("two kinds of message have the same key")
	}
	for _, binding := range [][]byte{nil, boundA} {
		hello, reply, confirm, _, why := prefaceOf(keys, keys, binding, binding)
		if why != "" {
			t.Fatal(why)
		}
		for i := range hello {
			bad := bytes.Clone(hello)
			bad[i] ^= 0x10
			key, s := judgeHello(bad, keys, binding)
			other := i >= helloSigned // one proof of two is left
			if s <= authConfirm != other {
				t.Errorf("byte %d of a hello: key %d, status %d", i, key, s)
			}
			if s <= authConfirm { // then the ends disagree about what was said, and find out
				r := appendReply(nil, s, keys[key], bad, nonceB, binding)
				if _, why := judgeReply(r, hello, keys, binding); why != refusalForged {
					t.Errorf("byte %d of a hello: the edge does not notice: %q", i, why)
				}
			}
		}
		for i := range reply {
			bad := bytes.Clone(reply)
			bad[i] ^= 0x10
			if _, why := judgeReply(bad, hello, keys, binding); why == "" {
				t.Errorf("byte %d of a reply does not matter", i)
			}
		}
		for i := range confirm {
			bad := bytes.Clone(confirm)
			bad[i] ^= 0x10
			if confirms(bad, keys[0], hello, reply) {
				t.Errorf("byte %d of a confirmation does not matter", i)
			}
		}
		// To another hello, and on another connection.
		again := appendHello(nil, keys, nonceB, binding)
		if _, why := judgeReply(reply, again, keys, binding); why != refusalForged {
			t.Errorf("a reply to another hello: %q", why)
		}
		second := appendReply(nil, authStatus(reply[magicSize]), keys[0], hello, [nonceSize]byte{9}, binding)
		if confirms(confirm, keys[0], hello, second) {
			t.Error("a confirmation is good for another connection")
		}
		// Sent back.
		for name, b := range map[string][]byte{"reply": append(bytes.Clone(reply), make([]byte, helloSize-replySize)...), "nothing": nil, "short": hello[:helloSize-1]} {
			if _, s := judgeHello(b, keys, binding); s <= authConfirm {
				t.Errorf("%s is taken for a hello", name)
			}
		}
		if _, why := judgeReply(hello[:replySize], hello, keys, binding); why != refusalAlien {
			t.Errorf("a hello is taken for a reply: %q", why)
		}
		forged := append(bytes.Clone(hello[:helloSigned]), bytes.Repeat(confirm, 2)...)
		if _, s := judgeHello(forged, keys, binding); s <= authConfirm {
			t.Error("a confirmation proves a hello")
		}
	}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	for s := authUnknown; s < authStatuses; s++ {
		hello := appendHello(nil, authKeys("k"), nonceA, nil)
		_, why := judgeReply(appendRefusal(nil, s), hello, authKeys("k"), nil)
		if string(why) != s.words() || len(why) < 20 || len(strangerWords[s]) < 20 {
			t.Errorf("status %d: %q, %q", s, why, strangerWords[s])
		}
	}
	if _, why := judgeReply(appendRefusal(nil, authStatuses), nil, authKeys("k"), nil); !strings.Contains(string(why), "does not know") {
		t.Errorf("a status of a later version: %q", why)
	}
	for _, b := range []string{"", "HTTP/1.1 400 Bad Request\r\n\r\n", strings.Repeat("x", replySize), replyMagic} {
		if _, why := judgeReply([]byte(b), nil, authKeys("k"), nil); why != refusalAlien {
			t.Errorf("%q: %q", b, why)
		}
	}
}

// recorded is a connection whose other end has said all that it will.
type recorded struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *recorded) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *recorded) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *recorded) Close() error                     { return nil }
func (s *recorded) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *recorded) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *recorded) SetDeadline(time.Time) error      { return nil }
func (s *recorded) SetReadDeadline(time.Time) error  { return nil }
func (s *recorded) SetWriteDeadline(time.Time) error { return nil }

// copied reports whether b begins with what hello signs and one of its proofs: nobody else could have made that.
func copied(b, hello []byte) bool {
	proof := hello[helloSigned:][:proofSize]
	return bytes.HasPrefix(b, hello[:helloSigned]) &&
		(bytes.Equal(b[helloSigned:][:proofSize], proof) || bytes.Equal(b[helloSigned+proofSize:helloSize], proof))
}

// Whatever comes first on a connection, it ends, nobody gets in without the key, and an honest owner says so.
func FuzzPreface(f *testing.F) {
	keys := authKeys("key")
	fleet, err := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	if err != nil {
		f.Fatal(err)
	}
	h, err := NewHandler(fleet, HandlerConfig{Key: "key"})
	if err != nil {
		f.Fatal(err)
	}
	hello := appendHello(nil, keys, someNonce, nil)
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte(clientPreface))
	f.Add(hello)
	f.Add(append(bytes.Clone(hello), make([]byte, proofSize)...))
	f.Add(appendHello(nil, keys, someNonce, someBinding))
	f.Add(hello[:20])
	f.Add([]byte("\x00ebbK2\r\nand more than any other version needs, whatever it may look like, and so on, and so on, and so on"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &recorded{in: bytes.NewReader(b)}
		p := newPending(-1)
		c := newOwnerConn(s, h, p, time.Hour)
		n, err := c.Read(make([]byte, 1))
		if n > 0 || err == nil || c.known.Load() || p.len() != 0 {
			t.Fatalf("%q: read %d, %v, known %v, %d pending", b, n, err, c.known.Load(), p.len())
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Fatal("said something to a stranger")
		}
		out := s.out.Bytes()
		switch {
		case len(b) == 0:
		case !beginsHello(b):
			if !bytes.HasPrefix(out, []byte("HTTP/1.1 403 ")) {
				t.Fatalf("%q: answered %q", b, out)
			}
		case len(b) >= helloSize:
			if _, why := judgeReply(out, b[:helloSize], keys, nil); why == "" != copied(b, hello) {
				t.Fatalf("%q: answered %q: %q", b, out, why)
			}
		case len(out) > 0:
			t.Fatalf("%q: answered %q", b, out)
		}
		// The same bytes as a reply.
		if _, why := judgeReply(b, hello, keys, nil); why == "" {
			t.Fatalf("%q is a reply", b)
		}
		if reply, err := readReply(&recorded{in: bytes.NewReader(b)}); err == nil && len(reply) > replySize {
			t.Fatalf("%q: %d bytes of a reply", b, len(reply))
		} else if err != nil && len(b) >= magicSize && !bytes.HasPrefix(b, []byte(replyMagic)) {
			t.Fatalf("%q: %v", b, err)
		}
	})
}

func BenchmarkPreface(b *testing.B) {
	for _, binding := range [][]byte{nil, boundA} {
		b.Run(fmt.Sprintf("bound=%v", binding != nil), func(b *testing.B) {
			keys := authKeys("new", "old")
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, _, why := prefaceOf(keys, keys, binding, binding); why != "" {
					b.Fatal(why)
				}
			}
		})
	}
}

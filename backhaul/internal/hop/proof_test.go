package hop

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

var (
	nonceA = [NonceSize]byte{1, 2, 3}
	nonceB = [NonceSize]byte{4, 5, 6}
	boundA = bytes.Repeat([]byte{7}, BindingSize)
)

// prefaceOf does the whole exchange and returns its messages, with what each end says.
func prefaceOf(
	edge, owner []AuthKey, edgeBinding, ownerBinding []byte,
) (hello, reply, confirm []byte, s authStatus, why refusal) {
	hello = AppendHello(nil, edge, nonceA, edgeBinding)
	mine, s := JudgeHello(hello, owner, ownerBinding)
	if s > AuthConfirm {
		reply = AppendRefusal(nil, s)
	} else {
		reply = AppendReply(nil, s, owner[mine], hello, nonceB, ownerBinding)
	}
	key, why := JudgeReply(reply, hello, edge, edgeBinding)
	if why == "" {
		p := Confirmation(edge[key], hello, reply)
		confirm = p[:]
		if s == AuthConfirm && !Confirms(confirm, owner[mine], hello, reply) {
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
		{"old", "old", AuthConfirm},
		{"old", "new", AuthUnknown},
		{"old", "", authKeyless},
		// While the key changes, in any order of the nodes.
		{"new old", "old", AuthConfirm},
		{"old", "new old", AuthConfirm},
		{"new old", "new old", AuthConfirm},
		{"new old", "new", AuthConfirm},
		{"new", "new old", AuthConfirm},
		{"new", "old", AuthUnknown},
		{"new old", "other another", AuthUnknown},
	} {
		edge, owner := AuthKeys(strings.Fields(tt.edge)...), AuthKeys(strings.Fields(tt.owner)...)
		for _, binding := range [][]byte{nil, boundA} {
			want := tt.want
			if want == AuthConfirm && binding != nil {
				want = AuthWelcome
			}
			_, _, _, got, why := prefaceOf(edge, owner, binding, binding)
			if got != want || (why == "") != (want <= AuthConfirm) {
				t.Errorf(
					"edge %q, owner %q, bound %v: %d, %q; want %d", tt.edge, tt.owner, binding != nil, got, why,
					want,
				)
			}
			if want > AuthConfirm && string(why) != want.words() {
				t.Errorf("edge %q, owner %q: says %q", tt.edge, tt.owner, why)
			}
		}
	}
}

func TestEndsThatSeeDifferentConnectionsRefuseEachOther(t *testing.T) {
	keys := AuthKeys("key")
	other := bytes.Repeat([]byte{8}, BindingSize)
	for _, tt := range []struct {
		edge, owner []byte
		want        authStatus
	}{
		{nil, boundA, authUnbound},
		{boundA, nil, authUnbound},
		{boundA, other, AuthUnknown}, // somebody ends TLS in between
	} {
		if _, _, _, got, why := prefaceOf(keys, keys, tt.edge, tt.owner); got != tt.want || why == "" {
			t.Errorf("%v, %v: %d, %q; want %d", tt.edge != nil, tt.owner != nil, got, why, tt.want)
		}
	}
	// An owner that says it is content without a confirmation, where it must want one.
	hello := AppendHello(nil, keys, nonceA, nil)
	if _, why := JudgeReply(AppendReply(nil, AuthWelcome, keys[0], hello, nonceB, nil), hello, keys, nil); why != refusalForged {
		t.Errorf("an edge in clear was not asked to confirm: %q", why)
	}
}

// Whatever is changed on the way, and wherever a message is used that was meant for something else.
func TestNoOtherMessageWillDo(t *testing.T) {
	keys := AuthKeys("new", "old")
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
			key, s := JudgeHello(bad, keys, binding)
			other := i >= HelloSigned // one proof of two is left
			if s <= AuthConfirm != other {
				t.Errorf("byte %d of a hello: key %d, status %d", i, key, s)
			}
			if s <= AuthConfirm { // then the ends disagree about what was said, and find out
				r := AppendReply(nil, s, keys[key], bad, nonceB, binding)
				if _, why := JudgeReply(r, hello, keys, binding); why != refusalForged {
					t.Errorf("byte %d of a hello: the edge does not notice: %q", i, why)
				}
			}
		}
		for i := range reply {
			bad := bytes.Clone(reply)
			bad[i] ^= 0x10
			if _, why := JudgeReply(bad, hello, keys, binding); why == "" {
				t.Errorf("byte %d of a reply does not matter", i)
			}
		}
		for i := range confirm {
			bad := bytes.Clone(confirm)
			bad[i] ^= 0x10
			if Confirms(bad, keys[0], hello, reply) {
				t.Errorf("byte %d of a confirmation does not matter", i)
			}
		}
		// To another hello, and on another connection.
		again := AppendHello(nil, keys, nonceB, binding)
		if _, why := JudgeReply(reply, again, keys, binding); why != refusalForged {
			t.Errorf("a reply to another hello: %q", why)
		}
		second := AppendReply(
			nil, authStatus(reply[MagicSize]), keys[0], hello, [NonceSize]byte{9}, binding,
		)
		if Confirms(confirm, keys[0], hello, second) {
			t.Error("a confirmation is good for another connection")
		}
		// Sent back.
		for name, b := range map[string][]byte{"reply": append(bytes.Clone(reply), make([]byte, HelloSize-ReplySize)...), "nothing": nil, "short": hello[:HelloSize-1]} {
			if _, s := JudgeHello(b, keys, binding); s <= AuthConfirm {
				t.Errorf("%s is taken for a hello", name)
			}
		}
		if _, why := JudgeReply(hello[:ReplySize], hello, keys, binding); why != refusalAlien {
			t.Errorf("a hello is taken for a reply: %q", why)
		}
		forged := append(bytes.Clone(hello[:HelloSigned]), bytes.Repeat(confirm, 2)...)
		if _, s := JudgeHello(forged, keys, binding); s <= AuthConfirm {
			t.Error("a confirmation proves a hello")
		}
	}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	for s := AuthUnknown; s < authStatuses; s++ {
		hello := AppendHello(nil, AuthKeys("k"), nonceA, nil)
		_, why := JudgeReply(AppendRefusal(nil, s), hello, AuthKeys("k"), nil)
		if string(why) != s.words() || len(why) < 20 || len(OwnerWords[s]) < 20 {
			t.Errorf("status %d: %q, %q", s, why, OwnerWords[s])
		}
	}
	if _, why := JudgeReply(AppendRefusal(nil, authStatuses), nil, AuthKeys("k"), nil); !strings.Contains(
		string(why), "does not know",
	) {
		t.Errorf("a status of a later version: %q", why)
	}
	for _, b := range []string{"", "HTTP/1.1 400 Bad Request\r\n\r\n", strings.Repeat("x", ReplySize), ReplyMagic} {
		if _, why := JudgeReply([]byte(b), nil, AuthKeys("k"), nil); why != refusalAlien {
			t.Errorf("%q: %q", b, why)
		}
	}
}

func BenchmarkPreface(b *testing.B) {
	for _, binding := range [][]byte{nil, boundA} {
		b.Run(fmt.Sprintf("bound=%v", binding != nil), func(b *testing.B) {
			keys := AuthKeys("new", "old")
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, _, why := prefaceOf(keys, keys, binding, binding); why != "" {
					b.Fatal(why)
				}
			}
		})
	}
}

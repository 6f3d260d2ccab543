package hop

import (
	"crypto/hmac"
	"crypto/sha256"
)

// An edge and an owner prove to each other, on each connection and before HTTP, that they know the
// cluster's key:
//
//	edge -> owner   hello    8 magic, version | 1 bound | 32 nonce | 32 proof | 32 proof by the second key, or the same again
//	owner -> edge   reply    8 magic, version | 1 status | 32 nonce | 32 proof
//	edge -> owner   confirm  32 proof; in clear only
//
// A proof is HMAC-SHA256 with a key derived from the cluster's key and the message's name, over all
// that came before it on the connection, both nonces included once there are two, and over the
// binding: where the connection is TLS, 32 bytes of its exported keying material (RFC 5705, RFC
// 8446 7.5; label "EXPORTER-ebb-hop-1"), else nothing. The byte "bound" says which; ends that do
// not agree about it refuse each other.
//
// Over TLS the keying material contains randomness of both ends, so that a hello is good for one
// connection only. The edge sends the head of its first request right after it, and everything
// else once it has verified the reply: no round trip is added. The owner acts on a request once it
// has verified the hello.
//
// In clear a copy of a hello is as good as the hello; only the owner's reply on the same connection
// makes it fresh. So the edge sends nothing after it: it waits for the reply, verifies it, and
// sends confirm, followed by its whole request. The owner acts on a request once it has verified
// confirm. That costs one round trip for each new connection, as a TLS handshake does, and needs no
// clock and no memory of past hellos. The hello still has a proof, so that a stranger gets no reply
// from which to guess weak keys; the proof also names the key to use.
//
// What others can do:
//
//   - Replay: whoever records a connection and sends a copy, to this owner or another, now or
//     later, gets at most a reply in clear, and not even that over TLS. Nothing is executed, and
//     the owner only holds a connection for HeaderTimeout.
//   - Reflection: a message sent back to the same node or another is refused, because each message
//     has its own key.
//   - Relay: over TLS a relay needs a certificate that the edge accepts, and still fails, because
//     the two halves have different keying material. In clear a relay works, as does anyone who
//     can change packets: it can read everything, alter requests and answers, and add its own. In
//     clear the key authenticates the beginning of a connection and protects nothing that follows.
//   - Impersonation: whoever holds a key can act as any node of the cluster. Only certificates tell
//     nodes apart.
//   - Guessing: whoever sees a hello, or makes an edge connect to them, can try keys on it offline.
//     So a key must be random, with 128 bits or more.
const (
	// No method of HTTP begins with 0, and the end of a line has a server that knows nothing of this
	// say so at once.
	helloMagic = "\x00ebbK1\r\n"
	ReplyMagic = "\x00ebbO1\r\n"
	MagicSize  = 8
	versionAt  = 5
	NonceSize  = 32
	ProofSize  = sha256.Size

	HelloSigned = MagicSize + 1 + NonceSize // what the proofs of a hello cover, with the binding
	HelloSize   = HelloSigned + 2*ProofSize
	replySigned = MagicSize + 1 + NonceSize // what the proof of a reply covers besides
	ReplySize   = replySigned + ProofSize

	ExporterLabel = "EXPORTER-ebb-hop-1"
	BindingSize   = 32
)

// authStatus is an owner's verdict on a hello.
type authStatus uint8

const (
	AuthWelcome authStatus = iota // the edge is authenticated
	AuthConfirm                   // the edge is to confirm
	AuthUnknown                   // none of the proofs is by a key of the owner's
	authUnbound                   // one end sees TLS and the other does not
	authKeyless                   // the owner has no key
	authVersion                   // the owner does not speak this version
	authStatuses
)

var edgeWords = [authStatuses]string{
	AuthUnknown: "it does not know the key: one of Config.Keys has to be one of its HandlerConfig.Keys",
	authUnbound: "one end of the connection sees TLS and the other does not, so something ends TLS in between: " +
		"let the nodes end it themselves, with Config.Dial returning the *tls.Conn and the owner serving a tls.Listener",
	authKeyless: "it has no key: set HandlerConfig.Keys there, or leave Config.Keys empty here",
	authVersion: "it speaks another version of the preface: update the older node",
}

// words describes a refusal from the edge's side.
func (s authStatus) words() string {
	if s < authStatuses {
		return edgeWords[s]
	}
	return "it refuses for a reason that this version does not know: update this node"
}

// OwnerWords describe a refusal from the owner's side.
var OwnerWords = [authStatuses]string{
	AuthUnknown: "it does not know the key: one of its Config.Keys has to be one of HandlerConfig.Keys",
	authUnbound: "one end of the connection sees TLS and the other does not",
	authKeyless: "it wants to prove a key, and HandlerConfig.Keys is empty",
	authVersion: "its preface is of another version",
}

// AuthKey is a cluster's key, as both ends use it.
type AuthKey struct{ hello, reply, confirm []byte }

func newAuthKey(secret string) AuthKey {
	derive := func(what string) []byte {
		p := sign([]byte(secret), []byte("ebb hop 1 "+what))
		return p[:]
	}
	return AuthKey{derive("hello"), derive("reply"), derive("confirm")}
}

// AuthKeys returns the keys that are set.
func AuthKeys(secrets ...string) (keys []AuthKey) {
	for _, s := range secrets {
		if s != "" {
			keys = append(keys, newAuthKey(s))
		}
	}
	return keys
}

// sign returns the HMAC of parts, whose sizes are fixed or follow from an earlier part.
func sign(key []byte, parts ...[]byte) (proof [ProofSize]byte) {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(proof[:0])
	return proof
}

// AppendHello writes a hello with proofs by one or two keys. The binding is nil in clear.
func AppendHello(b []byte, keys []AuthKey, nonce [NonceSize]byte, binding []byte) []byte {
	at := len(b)
	b = append(b, helloMagic...)
	b = append(b, boundByte(binding))
	b = append(b, nonce[:]...)
	signed := b[at:]
	for _, k := range []AuthKey{keys[0], keys[len(keys)-1]} {
		p := sign(k.hello, signed[:HelloSigned], binding)
		b = append(b, p[:]...)
	}
	return b
}

func boundByte(binding []byte) byte {
	if binding != nil {
		return 1
	}
	return 0
}

// BeginsHello reports whether b may be the beginning of a hello, of any version.
func BeginsHello(b []byte) bool {
	n := min(len(b), versionAt)
	return string(b[:n]) == helloMagic[:n]
}

// JudgeHello judges a hello of HelloSize bytes: it returns which of the owner's keys proves it, or
// why none does.
func JudgeHello(hello []byte, keys []AuthKey, binding []byte) (key int, s authStatus) {
	switch {
	case len(hello) != HelloSize || string(hello[:MagicSize]) != helloMagic:
		return 0, authVersion
	case len(keys) == 0:
		return 0, authKeyless
	case hello[MagicSize] != boundByte(binding):
		return 0, authUnbound
	}
	key = -1
	for i, k := range keys { // each with each: how long it takes does not tell which it was
		want := sign(k.hello, hello[:HelloSigned], binding)
		first := hmac.Equal(want[:], hello[HelloSigned:][:ProofSize])
		second := hmac.Equal(want[:], hello[HelloSigned+ProofSize:])
		if first || second {
			key = i
		}
	}
	switch {
	case key < 0:
		return 0, AuthUnknown
	case binding == nil:
		return key, AuthConfirm
	}
	return key, AuthWelcome
}

// AppendReply writes the reply to a hello that was proven by k.
func AppendReply(
	b []byte, s authStatus, k AuthKey, hello []byte, nonce [NonceSize]byte, binding []byte,
) []byte {
	at := len(b)
	b = append(b, ReplyMagic...)
	b = append(b, byte(s))
	b = append(b, nonce[:]...)
	p := sign(k.reply, hello, b[at:], binding)
	return append(b, p[:]...)
}

// AppendRefusal writes the reply to any other hello. It has no proof, as the owner may have no key.
func AppendRefusal(b []byte, s authStatus) []byte {
	b = append(append(b, ReplyMagic...), byte(s))
	return append(b, make([]byte, ReplySize-MagicSize-1)...)
}

// refusal says why a reply is invalid or not to be trusted. A refusal proves nothing: whoever can
// forge one can also cut the connection.
type refusal string

const (
	refusalAlien  refusal = "it does not answer the preface: serve its Handler with NewServer, or wrap the listener of another server with Handler.Listener"
	refusalForged refusal = "it cannot prove that it knows the key: this is not the owner, or something alters what passes"
)

// JudgeReply decides about a reply of replySize bytes, or what came instead of one: by which of the
// edge's keys the owner proves itself, or why the connection is of no use ("" means that it is).
func JudgeReply(reply, hello []byte, keys []AuthKey, binding []byte) (key int, why refusal) {
	if len(reply) != ReplySize || string(reply[:MagicSize]) != ReplyMagic {
		return 0, refusalAlien
	}
	s, want := authStatus(reply[MagicSize]), AuthConfirm
	if binding != nil {
		want = AuthWelcome
	}
	if s > AuthConfirm {
		return 0, refusal(s.words())
	}
	key = -1
	for i, k := range keys {
		p := sign(k.reply, hello, reply[:replySigned], binding)
		if hmac.Equal(p[:], reply[replySigned:]) {
			key = i
		}
	}
	if key < 0 || s != want {
		return 0, refusalForged
	}
	return key, ""
}

// Confirmation is the proof that ends the exchange in clear.
func Confirmation(k AuthKey, hello, reply []byte) [ProofSize]byte {
	return sign(k.confirm, hello, reply)
}

// Confirms reports whether a confirmation is right.
func Confirms(proof []byte, k AuthKey, hello, reply []byte) bool {
	want := Confirmation(k, hello, reply)
	return hmac.Equal(want[:], proof)
}

package tcp

import (
	"net"
	"syscall"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/internal/tcpinfo"
)

// Kernel asks the kernel how many bytes a TCP connection has received. Peeking for waiting bytes
// would not do: another goroutine may have taken them without having counted them, while this count
// only grows. If the kernel has no answer, unasked bytes are noticed only when the reading
// goroutine has seen them, shortly after they arrive. It is not safe for concurrent use.
type Kernel struct {
	raw  syscall.RawConn // nil: no answer
	info tcpinfo.Reader
	base int64 // received before this type was attached, such as a preface
}

func (k *Kernel) Watch(c net.Conn) {
	tcp, ok := c.(*net.TCPConn) // the kernel does not know what TLS reads ahead
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	if i, ok := k.info.Info(raw); ok {
		k.raw, k.base = raw, int64(i.Received)
	}
}

// Holds reports whether the peer has sent more than the got bytes that were read, or has ended the
// connection.
func (k *Kernel) Holds(got int64) bool {
	if k.raw == nil {
		return false
	}
	i, ok := k.info.Info(k.raw)
	return ok && (!i.Established || int64(i.Received)-k.base > got)
}

// tcpStateOf returns what the guards look at, or false if the kernel has no answer.
func tcpStateOf(r *tcpinfo.Reader, raw syscall.RawConn) (hop.TCPState, bool) {
	i, ok := r.Info(raw)
	return hop.TCPState{
		Unacked: i.Unacked, Unsent: i.Unsent, Probes: i.Probes, Resent: i.Resent,
		Received: i.Segments, Sent: i.LastSent, Heard: i.LastHeard,
	}, ok
}

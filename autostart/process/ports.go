package process

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports come from this range. It lies below the ports that systems give to outgoing connections
// (32768 and up on Linux, 49152 and up on darwin and Windows): from the moment a port is found free
// until the machine listens, which may be a long boot, no connection of this host can take it. It
// also lies below the 30000 and up that a cluster's node ports take, where packets can be diverted
// before they reach any listener.
//
// A socket that holds the port until the machine listens would close the rest of the gap, but would
// lock out every program which does not set SO_REUSEADDR. The remaining risk is another program
// that listens on the same port in the meantime: then the machine cannot listen, usually ends, and
// its next start gets another port.
const (
	firstPort = 20000
	lastPort  = 29999
)

// ports is shared by all drivers of the process.
var ports = portPool{used: make(map[int]bool), next: firstPort + rand.IntN(lastPort-firstPort+1)}

// portPool hands out ports in turn, so that a port which was given back is not used again soon: old
// connections and late packets to it are gone by then. It begins at a random port, so that two
// processes seldom collide.
type portPool struct {
	mu   sync.Mutex
	used map[int]bool
	next int
}

// take returns a port of host that nobody listens on.
func (p *portPool) take(host string) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var last error
	for range lastPort - firstPort + 1 {
		port := p.next
		if p.next++; p.next > lastPort {
			p.next = firstPort
		}
		if p.used[port] {
			continue
		}
		if last = tryPort(host, port); last == nil {
			p.used[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port from %d to %d on %s: stop something that listens there (%v)", firstPort, lastPort, host, last)
}

// release gives port back.
func (p *portPool) release(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.used, port)
}

// tryPort returns why nobody can listen on port, or nil.
func tryPort(host string, port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}

package parse

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// tcpListen is the state of a listening socket, as in the kernel's tcp_states.h.
const tcpListen = "0A"

// Listening is a socket that accepts connections, as /proc/<pid>/net/tcp and tcp6 list them.
type Listening struct {
	Addr  netip.AddrPort
	inode string
}

// ParseListening returns the sockets of such a list that accept connections. Malformed lines are
// skipped.
func ParseListening(text string) (all []Listening) {
	for line := range strings.Lines(text) {
		// number, local, remote, state, queues, timer, retransmits, uid, timeout, inode...
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != tcpListen {
			continue
		}
		if a, ok := parseHexAddr(f[1]); ok {
			all = append(all, Listening{a, f[9]})
		}
	}
	return all
}

// parseHexAddr reads an address as the kernel prints it: words of four bytes in this machine's
// order, a colon, and the port.
func parseHexAddr(s string) (a netip.AddrPort, ok bool) {
	host, port, found := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if !found || err != nil || len(host) != 8 && len(host) != 32 {
		return a, false
	}
	var bytes []byte
	for ; host != ""; host = host[8:] {
		word, err := strconv.ParseUint(host[:8], 16, 32)
		if err != nil {
			return a, false
		}
		bytes = binary.NativeEndian.AppendUint32(bytes, uint32(word))
	}
	ip, ok := netip.AddrFromSlice(bytes)
	return netip.AddrPortFrom(ip.Unmap(), uint16(p)), ok
}

// SocketOf returns the inode of the socket that a link in /proc/<pid>/fd names.
func SocketOf(link string) (inode string, ok bool) {
	inode, ok = strings.CutPrefix(link, "socket:[")
	return strings.TrimSuffix(inode, "]"), ok
}

// Addresses returns where the sockets with these inodes accept connections, in order and each once.
func Addresses(all []Listening, inodes map[string]bool) []string {
	var as []netip.AddrPort
	for _, l := range all {
		if inodes[l.inode] {
			as = append(as, l.Addr)
		}
	}
	slices.SortFunc(as, netip.AddrPort.Compare)
	as = slices.Compact(as)
	s := make([]string, len(as))
	for i, a := range as {
		s[i] = a.String()
	}
	return s
}

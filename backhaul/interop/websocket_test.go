package interop

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net/http"
)

// echoWebSocket gives every frame of a WebSocket back (RFC 6455), the closing one included.
func echoWebSocket(w http.ResponseWriter, r *http.Request) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+
		base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
	for rw.Flush() == nil {
		first, payload, err := readFrame(rw.Reader)
		if err != nil {
			return
		}
		rw.WriteByte(first)
		switch n := len(payload); {
		case n < 126:
			rw.WriteByte(byte(n))
		case n < 1<<16:
			rw.Write(binary.BigEndian.AppendUint16([]byte{126}, uint16(n)))
		default:
			rw.Write(binary.BigEndian.AppendUint64([]byte{127}, uint64(n)))
		}
		rw.Write(payload)
		if first&0xf == 8 { // the closing frame
			rw.Flush()
			return
		}
	}
}

// readFrame returns a frame's first byte and what it says.
func readFrame(br *bufio.Reader) (first byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return 0, nil, err
	}
	size, length := uint64(head[1]&0x7f), []byte(nil)
	switch size {
	case 126:
		length = make([]byte, 2)
	case 127:
		length = make([]byte, 8)
	}
	if length != nil {
		if _, err := io.ReadFull(br, length); err != nil {
			return 0, nil, err
		}
		size = 0
		for _, b := range length {
			size = size<<8 | uint64(b)
		}
	}
	rest := make([]byte, 4+min(size, 1<<20)) // browsers mask
	if _, err := io.ReadFull(br, rest); err != nil {
		return 0, nil, err
	}
	for i := range rest[4:] {
		rest[4+i] ^= rest[i%4]
	}
	return head[0], rest[4:], nil
}

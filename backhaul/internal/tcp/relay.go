package tcp

import (
	"io"
	"sync"
)

// The buffers of a copy. Bodies use the large one; upgraded connections, most of which are idle
// most of the time, hold a small one and take a large one while they have much to say.
const (
	BufferSize = 32 << 10
	SmallSize  = 1 << 10 // what chats and pings say at once
)

var buffers sync.Pool

// GetBuffer takes a large buffer from those that are not in use.
func GetBuffer() *[BufferSize]byte {
	if b, ok := buffers.Get().(*[BufferSize]byte); ok {
		return b
	}
	return new([BufferSize]byte)
}

// PutBuffer gives one back.
func PutBuffer(b *[BufferSize]byte) { buffers.Put(b) }

// Relay copies one direction of an upgraded connection until src ends.
func Relay(dst io.Writer, src io.Reader) (written int64, err error) {
	small := make([]byte, SmallSize)
	buf := small
	var large *[BufferSize]byte
	defer func() {
		if large != nil {
			PutBuffer(large)
		}
	}()
	for {
		n, err := src.Read(buf)
		if n > 0 {
			m, werr := dst.Write(buf[:n])
			written += int64(m)
			if werr != nil {
				return written, werr
			}
		}
		switch {
		case err == io.EOF:
			return written, nil
		case err != nil:
			return written, err
		case n == len(buf) && large == nil:
			large = GetBuffer()
			buf = large[:]
		case n < SmallSize && large != nil:
			PutBuffer(large)
			large, buf = nil, small
		}
	}
}

package tcp

import (
	"io"
	"sync"
)

// The buffers of a copy. Bodies use the large one; upgraded connections, which are usually idle,
// hold a small one and take a large one while they carry much.
const (
	BufferSize = 32 << 10
	SmallSize  = 1 << 10 // enough for chat messages and pings
)

var buffers sync.Pool

// GetBuffer takes a large buffer from the pool.
func GetBuffer() *[BufferSize]byte {
	if b, ok := buffers.Get().(*[BufferSize]byte); ok {
		return b
	}
	return new([BufferSize]byte)
}

// PutBuffer returns a buffer to the pool.
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

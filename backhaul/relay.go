package backhaul

import (
	"io"
	"sync"
)

// The buffers of a copy. Bodies use the large one; upgraded connections, most of which are idle most of the time, hold a
// small one and take a large one while they have much to say.
const (
	bufferSize = 32 << 10
	smallSize  = 1 << 10 // what chats and pings say at once
)

var buffers sync.Pool

// getBuffer takes a large buffer from those that are not in use.
func getBuffer() *[bufferSize]byte {
	if b, ok := buffers.Get().(*[bufferSize]byte); ok {
		return b
	}
	return new([bufferSize]byte)
}

// putBuffer gives one back.
func putBuffer(b *[bufferSize]byte) { buffers.Put(b) }

// relay copies one direction of an upgraded connection until src ends.
func relay(dst io.Writer, src io.Reader) (written int64, err error) {
	small := make([]byte, smallSize)
	buf := small
	var large *[bufferSize]byte
	defer func() {
		if large != nil {
			putBuffer(large)
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
			large = getBuffer()
			buf = large[:]
		case n < smallSize && large != nil:
			putBuffer(large)
			large, buf = nil, small
		}
	}
}

package rtt

import (
	"net"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// The kernel's timestamp is the time of arrival, not that of the read.
func TestKernelStamp(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := newSocket(c)
	defer s.close()
	if _, ok := s.(*udpSocket); !ok {
		t.Skipf("this kernel has no SO_TIMESTAMPNS: %T", s)
	}
	to := addrPort(s.addr())
	buf := make([]byte, 10)
	for range 2 {
		before := time.Now()
		if err := s.write([]byte("x"), to); err != nil {
			t.Fatal(err)
		}
		n, from, stamp, err := s.read(buf)
		if err != nil || n != 1 || from != to {
			t.Fatalf("%d bytes from %v: %v", n, from, err)
		}
		if d := time.Duration(stamp - before.UnixNano()); d < -time.Millisecond || d > time.Minute {
			t.Errorf("stamped %v after the send", d)
		}
	}
	if n := testing.AllocsPerRun(2000, func() {
		s.write(buf[:1], to)
		s.read(buf)
	}); n != 0 {
		t.Errorf("%v allocations per write and read", n)
	}
}

func TestStampOf(t *testing.T) {
	const head = syscall.SizeofCmsghdr
	size := int(unsafe.Sizeof(syscall.Timespec{}))
	message := func(level, kind int32, length int) []byte {
		var room [16]uint64
		b := unsafe.Slice((*byte)(unsafe.Pointer(&room)), unsafe.Sizeof(room))
		h := (*syscall.Cmsghdr)(unsafe.Pointer(&b[0]))
		h.Level, h.Type = level, kind
		h.SetLen(length)
		*(*syscall.Timespec)(unsafe.Pointer(&b[head])) = syscall.NsecToTimespec(12_345_678_901)
		return b[:head+size]
	}
	good := message(syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, head+size)
	other := message(syscall.SOL_IP, 8, head+size)
	for _, row := range []struct {
		name string
		oob  []byte
		want int64
	}{
		{"nothing", nil, 0},
		{"one", good, 12_345_678_901},
		{"another kind", other, 0},
		{"after another kind", append(append([]byte(nil), other...), good...), 12_345_678_901},
		{"cut short", good[:head+4], 0},
		{"cut in the header", good[:4], 0},
		{"length of nothing", message(syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 0), 0},
		{"length beyond the end", message(syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 4096), 0},
		{"too short for a stamp", message(syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, head+4), 0},
	} {
		if got := stampOf(row.oob); got != row.want {
			t.Errorf("%s: %d, want %d", row.name, got, row.want)
		}
	}
}

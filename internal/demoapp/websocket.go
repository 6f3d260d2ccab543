package demoapp

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// This file is the server's half of a WebSocket (RFC 6455) that sends each message back.

const (
	maxMessage = 1 << 20 // bytes; a longer message ends the connection with status 1009
	maxControl = 125     // bytes; the protocol's limit for ping, pong and close

	wsWriteTimeout = 10 * time.Second
	wsCloseTimeout = 2 * time.Second // for the client's close frame, after ours
)

// The opcodes.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// closeStatus is a status code of a close frame.
type closeStatus uint16

const (
	closeNormal    closeStatus = 1000
	closeGoingAway closeStatus = 1001
	closeProtocol  closeStatus = 1002
	closeNotUTF8   closeStatus = 1007
	closeTooBig    closeStatus = 1009
)

// closeError is a reason to close that the client is told.
type closeError struct {
	status closeStatus
	text   string
	answer bool // to the client's close frame, after which it sends nothing
}

func (e *closeError) Error() string { return fmt.Sprintf("close %d: %s", e.status, e.text) }

func broken(text string) error { return &closeError{status: closeProtocol, text: text} }

// webSocket upgrades the connection and echoes until either side closes.
func (a *App) webSocket(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	raw, err := base64.StdEncoding.DecodeString(key)
	switch {
	case r.Method != http.MethodGet || !hasToken(r.Header, "Connection", "upgrade") || !hasToken(r.Header, "Upgrade", "websocket"):
		w.Header().Set("Upgrade", "websocket")
		text(w, http.StatusUpgradeRequired, "this is a WebSocket: connect with a client for those, such as websocat\n")
		return
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		w.Header().Set("Sec-WebSocket-Version", "13")
		text(w, http.StatusUpgradeRequired, "only version 13 is spoken here\n")
		return
	case err != nil || len(raw) != 16:
		text(w, http.StatusBadRequest, "Sec-WebSocket-Key %q: want 16 bytes in base 64\n", key)
		return
	}
	a.upgraded.Add(1)
	defer a.upgraded.Done()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		text(w, http.StatusInternalServerError, "this connection cannot be upgraded: %v\n", err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Time{}) // the server's own are for requests

	h := w.Header() // what ServeHTTP has set
	h.Set("Upgrade", "websocket")
	h.Set("Connection", "Upgrade")
	h.Set("Sec-WebSocket-Accept", accept(key))
	head := bytes.NewBufferString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(head)
	head.WriteString("\r\n")
	s := &socket{conn: conn, in: buffered.Reader}
	if s.send(head.Bytes(), false) != nil {
		return
	}
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-a.closing:
			s.close(closeGoingAway, "the machine is stopping")
		case <-done:
		}
	})
	s.echo()
	close(done)
	watching.Wait()
}

// accept returns the answer to a Sec-WebSocket-Key.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// hasToken reports whether a header that is a list holds token.
func hasToken(h http.Header, name, token string) bool {
	for _, value := range h.Values(name) {
		for item := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}

// socket is an upgraded connection. One goroutine reads; any may write.
type socket struct {
	conn net.Conn
	in   *bufio.Reader

	mu     sync.Mutex
	closed bool // a close frame was sent: nothing may follow it
}

// echo sends back each message until the connection ends.
func (s *socket) echo() {
	for {
		op, message, err := s.message()
		if err == nil {
			err = s.frame(op, message)
		}
		if why, ok := errors.AsType[*closeError](err); ok {
			s.close(why.status, why.text)
			if !why.answer {
				s.drain()
			}
			return
		}
		if err != nil {
			return
		}
	}
}

// message reads the next text or binary message, and answers control frames that come before or
// within it. The client's close frame is a closeError with the status to answer.
func (s *socket) message() (op byte, message []byte, err error) {
	var b bytes.Buffer
	for {
		final, frameOp, size, mask, err := s.header()
		if err != nil {
			return 0, nil, err
		}
		if frameOp >= opClose {
			payload := new(bytes.Buffer)
			if err := s.payload(payload, size, mask); err != nil {
				return 0, nil, err
			}
			if err := s.control(frameOp, payload.Bytes()); err != nil {
				return 0, nil, err
			}
			continue
		}
		switch {
		case frameOp == opContinuation && op == 0:
			return 0, nil, broken("a continuation without a message to continue")
		case frameOp != opContinuation && op != 0:
			return 0, nil, broken("a message within a message")
		case frameOp != opContinuation:
			op = frameOp
		}
		if size > uint64(maxMessage-b.Len()) {
			return 0, nil, &closeError{status: closeTooBig, text: fmt.Sprintf("messages may have %d bytes", maxMessage)}
		}
		if err := s.payload(&b, size, mask); err != nil {
			return 0, nil, err
		}
		if !final {
			continue
		}
		if op == opText && !utf8.Valid(b.Bytes()) {
			return 0, nil, &closeError{status: closeNotUTF8, text: "a text that is not UTF-8"}
		}
		return op, b.Bytes(), nil
	}
}

// header reads and checks a frame's header.
func (s *socket) header() (final bool, op byte, size uint64, mask [4]byte, err error) {
	var b [8]byte
	if _, err = io.ReadFull(s.in, b[:2]); err != nil {
		return
	}
	final, op, size = b[0]&0x80 != 0, b[0]&0x0F, uint64(b[1]&0x7F)
	switch {
	case b[0]&0x70 != 0:
		err = broken("a reserved bit is set")
	case op > opBinary && op < opClose || op > opPong:
		err = broken("an unknown opcode")
	case b[1]&0x80 == 0:
		err = broken("a frame without a mask")
	case op >= opClose && (size > maxControl || !final):
		err = broken("a control frame that is long or in parts")
	}
	if err != nil {
		return
	}
	least := uint64(0)
	switch size {
	case 126:
		_, err = io.ReadFull(s.in, b[:2])
		size, least = uint64(binary.BigEndian.Uint16(b[:2])), 126
	case 127:
		_, err = io.ReadFull(s.in, b[:8])
		size, least = binary.BigEndian.Uint64(b[:8]), 1<<16
	}
	if err == nil && (size < least || size > 1<<63-1) {
		err = broken("a length that is not in its shortest form")
	}
	if err == nil {
		_, err = io.ReadFull(s.in, mask[:])
	}
	return
}

// payload appends size unmasked bytes to b, which grows with what arrives and not with what is
// announced.
func (s *socket) payload(b *bytes.Buffer, size uint64, mask [4]byte) error {
	begin := b.Len()
	if _, err := io.CopyN(b, s.in, int64(size)); err != nil {
		return err
	}
	data := b.Bytes()[begin:]
	for i := range data {
		data[i] ^= mask[i&3]
	}
	return nil
}

// control answers a control frame.
func (s *socket) control(op byte, payload []byte) error {
	switch op {
	case opPing:
		return s.frame(opPong, payload)
	case opClose:
		return closeAnswer(payload)
	}
	return nil // a pong nobody asked for
}

// closeAnswer returns the close to answer a close frame with.
func closeAnswer(payload []byte) *closeError {
	if len(payload) == 0 {
		return &closeError{closeNormal, "", true}
	}
	if len(payload) == 1 {
		return &closeError{closeProtocol, "half a status", true}
	}
	status := binary.BigEndian.Uint16(payload)
	switch {
	case status < 1000 || status >= 5000 || 1004 <= status && status <= 1006 || 1015 <= status && status < 3000:
		return &closeError{closeProtocol, "a status that may not be sent", true}
	case !utf8.Valid(payload[2:]):
		return &closeError{closeNotUTF8, "a reason that is not UTF-8", true}
	}
	return &closeError{closeStatus(status), string(payload[2:]), true}
}

// frame sends an unmasked frame that is a whole message.
func (s *socket) frame(op byte, payload []byte) error {
	b := []byte{0x80 | op}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return s.send(append(b, payload...), false)
}

// close sends a close frame, unless one was sent, and gives the client a while to answer.
func (s *socket) close(status closeStatus, text string) {
	text = text[:min(len(text), maxControl-2)]
	b := binary.BigEndian.AppendUint16([]byte{0x80 | opClose, byte(2 + len(text))}, uint16(status))
	_ = s.send(append(b, text...), true)
	_ = s.conn.SetReadDeadline(time.Now().Add(wsCloseTimeout))
}

// send writes b, which is a whole frame, the last one or not. What comes after the last one is
// dropped: the connection then only waits for the client's own close frame.
func (s *socket) send(b []byte, last bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = last
	_ = s.conn.SetWriteDeadline(time.Now().Add(wsWriteTimeout))
	_, err := s.conn.Write(b)
	return err
}

// drain ends our half and reads what the client still sends, so that the close frame is not lost
// to a reset.
func (s *socket) drain() {
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, s.in, maxMessage)
}

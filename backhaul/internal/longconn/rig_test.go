package longconn

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"testing"

	"github.com/ebbkit/ebb/balance"
)

var m1 = balance.Machine{ID: "m1", App: "web"}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func grpcMessage(flag byte, payload int) []byte {
	b := binary.BigEndian.AppendUint32([]byte{flag}, uint32(payload))
	return append(b, bytes.Repeat([]byte{1}, payload)...)
}

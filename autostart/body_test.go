package autostart

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/ebbkit/ebb/balance"
)

// counting counts what a client's transport takes of a body.
type counting struct {
	io.Reader
	n atomic.Int64
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// Invariant A7: of a body nothing is read before a slot is there, however large it is, and then all
// of it arrives.
func TestBodyIsReadAfterTheHandOver(t *testing.T) {
	const size = 50 << 20
	_, a := warm(t, 1, balance.Limits{Hard: 1})
	a.config.MaxWait = -1
	held, err := a.Acquire(t.Context(), &balance.Request{App: "web"})
	if err != nil {
		t.Fatal(err)
	}
	parked := make(chan struct{}, 1)
	a.config.Trace.Parked = func(balance.AppID, int) { parked <- struct{}{} }
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		slot, err := a.Acquire(r.Context(), &balance.Request{App: "web"})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer slot.Release(balance.OutcomeDone)
		digest := sha256.New()
		io.Copy(digest, r.Body)
		w.Write(digest.Sum(nil))
	}))
	defer s.Close()
	want := sha256.New()
	io.CopyN(want, rand.New(rand.NewSource(1)), size)
	body := &counting{Reader: io.LimitReader(rand.New(rand.NewSource(1)), size)}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = size
	req.Header.Set("Expect", "100-continue")
	client := &http.Client{Transport: &http.Transport{}} // without a timeout for the 100: it waits
	defer client.CloseIdleConnections()
	client.Transport.(*http.Transport).ExpectContinueTimeout = 1 << 50
	type answer struct {
		digest []byte
		err    error
	}
	answers := make(chan answer)
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			answers <- answer{nil, err}
			return
		}
		defer resp.Body.Close()
		digest, err := io.ReadAll(resp.Body)
		answers <- answer{digest, err}
	}()
	<-parked
	if n := body.n.Load(); n != 0 {
		t.Errorf("%d bytes of the body are under way before there is a slot", n)
	}
	held.Release(balance.OutcomeDone)
	if got := <-answers; got.err != nil || !bytes.Equal(got.digest, want.Sum(nil)) {
		t.Errorf("digest %x, %v; want %x", got.digest, got.err, want.Sum(nil))
	}
}

package world

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/ebbkit/ebb/internal/status"
)

// Machines are stopped for maintenance, one after the other, while clients use them: no request
// fails.
func TestMaintenanceCostsNoRequest(t *testing.T) {
	for _, suspend := range []string{"false", "true"} {
		virtual(t, func(c *Config) { c.Regions = []Region{{"nrt", 3}} }, func(t *testing.T, p *play) {
			p.get("/")
			ctx, cancel := context.WithCancel(t.Context())
			var clients sync.WaitGroup
			for range 8 {
				clients.Go(func() {
					for ctx.Err() == nil {
						if a := p.get("/slow?ms=5"); a.status != http.StatusOK {
							t.Errorf("GET beside maintenance: %d %s", a.status, a.body)
							return
						}
					}
				})
			}
			for range 3 {
				var id string
				p.until("a machine runs", func(s status.Snapshot) bool {
					for _, m := range s.Machines {
						if m.State == "started" && m.Load > 0 {
							id = m.ID
						}
					}
					return id != ""
				})
				form := url.Values{
					"machine": {id}, "drain": {"30s"}, "suspend": {suspend}, "reason": {"new kernel"},
				}
				resp, err := p.client.PostForm("http://"+p.page.Addr().String()+"/stop", form)
				if err != nil {
					t.Fatal(err)
				}
				says, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK || !strings.Contains(string(says), id) {
					t.Errorf("stop of %s: %d %s", id, resp.StatusCode, says)
				}
			}
			cancel()
			clients.Wait()
			if !strings.Contains(p.told(), "new kernel") {
				t.Errorf("the log does not say why:\n%s", p.told())
			}
		})
	}
}

func TestMaintenanceOfNoMachine(t *testing.T) {
	virtual(t, nil, func(t *testing.T, p *play) {
		resp, err := p.client.PostForm(
			"http://"+p.page.Addr().String()+"/stop", url.Values{"machine": {"nrt-9"}},
		)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("status %d, want 404", resp.StatusCode)
		}
	})
}

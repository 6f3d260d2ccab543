package world

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/internal/demoapp"
	"github.com/ebbkit/ebb/internal/status"
)

// brokenVariable names the file that says how the app is broken; see brokenApp.
const brokenVariable = "WORLD_BROKEN"

// brokenApp is the app of a beginner. At each start it behaves as the file says; unless the file
// says how it is broken, it is the demo app.
func brokenApp(file string) int {
	kind, err := os.ReadFile(file)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	right := net.JoinHostPort("127.0.0.1", os.Getenv("PORT"))
	switch string(kind) {
	case "wrong port":
		return answerAll("127.0.0.1:0", http.StatusOK)
	case "wrong family":
		return answerAll(net.JoinHostPort("::1", os.Getenv("PORT")), http.StatusOK)
	case "missing module":
		fmt.Fprintln(os.Stderr,
			"Traceback (most recent call last):\nModuleNotFoundError: No module named 'flask'")
		return 1
	case "exits":
		return 0
	case "hangs":
		fmt.Println("connecting to the database")
		<-time.After(time.Hour)
	case "fails":
		return answerAll(right, http.StatusInternalServerError)
	}
	return demoapp.Main()
}

func answerAll(addr string, code int) int {
	err := http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "KeyError: DATABASE_URL", code)
	}))
	fmt.Println(err)
	return 1
}

// Whatever is wrong with an app is named in the answer, in the log and on the page; once it is
// mended it is served, without a restart of the proxy. Package autostart, where time is virtual,
// checks that this takes no longer than 6 s.
func TestBrokenAppsAreNamedAndCured(t *testing.T) {
	for _, tc := range []struct {
		kind   string
		answer string
		told   string // in the log and on the page, if that is different
	}{
		{"wrong port", "and not at 127.0.0.1:", ""},
		{"wrong family", "it listens at [::1]:", ""},
		{"missing module", "ModuleNotFoundError: No module named 'flask'", ""},
		{"exits", "it ended while starting: exit status 0", ""},
		{"hangs", "it listens nowhere and does nothing (set App.BootHint if its boots take longer); it last wrote: connecting to the database", ""},
		{"fails", "KeyError: DATABASE_URL", "500 Internal Server Error"},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			t.Parallel()
			if unseen := []string{"wrong port", "wrong family", "hangs"}; runtime.GOOS != "linux" &&
				slices.Contains(unseen, tc.kind) {
				t.Skip("only Linux says what a process does")
			}
			if tc.kind == "wrong family" {
				l, err := net.Listen("tcp6", "[::1]:0")
				if err != nil {
					t.Skip(err)
				}
				l.Close()
			}
			file := filepath.Join(t.TempDir(), "app")
			become := func(kind string) {
				if err := os.WriteFile(file, []byte(kind), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			become(tc.kind)
			p := newPlay(t, func(c *Config) {
				c.Driver = command(t,
					process.Config{Argv: []string{os.Args[0]}, Env: []string{brokenVariable + "=" + file}})
			})
			told := tc.told
			if told == "" {
				told = tc.answer
			}
			if a := p.get("/"); a.status < 500 || !strings.Contains(a.body, tc.answer) {
				t.Errorf("the answer: %d %q; want %q", a.status, a.body, tc.answer)
			}
			p.until("it stands on the page", func(s status.Snapshot) bool {
				for _, m := range s.Machines {
					if strings.Contains(m.Fault, told) {
						return true
					}
				}
				return false
			})
			p.until("it stands in the log",
				func(status.Snapshot) bool { return strings.Contains(p.told(), told) })
			become("well")
			switch tc.kind {
			case "hangs": // it is given 15 s before it is restarted
				return
			case "fails": // it runs: it must be stopped by hand
				for _, m := range p.Snapshot().Machines {
					if m.State != "started" {
						continue
					}
					resp, err := p.client.PostForm("http://"+p.page.Addr().String()+"/stop",
						url.Values{"machine": {m.ID}})
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
				}
			}
			p.until("it serves", func(status.Snapshot) bool {
				a, err := p.try("GET", "/", nil)
				return err == nil && a.status == http.StatusOK
			})
			p.until("nothing is said against it any more", func(s status.Snapshot) bool {
				for _, m := range s.Machines {
					if m.State == "started" {
						return m.Fault == ""
					}
				}
				return false
			})
		})
	}
}

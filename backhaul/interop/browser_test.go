package interop

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"
)

// browserPage talks over a WebSocket and tells the server how that went.
const browserPage = `<!doctype html><title>talk</title><script>
const big = "x".repeat(300000), all = "hello" + big + "bye";
let got = "";
const tell = how => fetch("/told?" + encodeURIComponent(how));
const ws = new WebSocket("ws://" + location.host + "/echo");
ws.onopen = () => { ws.send("hello"); ws.send(big); ws.send("bye"); };
ws.onmessage = m => {
  got += m.data;
  if (got.length >= all.length) ws.close(1000, "done");
};
ws.onerror = () => tell("error");
ws.onclose = e => tell((got === all) + " " + e.code + " " + e.wasClean);
</script>`

// A browser's WebSocket through both hops: it opens, says small and large things and gets them back, and closes cleanly.
func TestABrowsersWebSocket(t *testing.T) {
	var browser string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			browser = p
			break
		}
	}
	if browser == "" {
		t.Skip("no Chromium on PATH: install one to test WebSockets with a browser")
	}
	told := make(chan string, 10)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, browserPage)
	})
	mux.HandleFunc("/told", func(w http.ResponseWriter, r *http.Request) {
		select {
		case told <- r.URL.RawQuery:
		default:
		}
	})
	mux.HandleFunc("/echo", echoWebSocket)
	front := "http://" + path(t, serveHTTP(t, mux), false)

	dir, err := os.MkdirTemp("", "browser") // not t.TempDir: the browser may still write while it ends
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var out bytes.Buffer
	cmd := exec.Command(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--user-data-dir="+dir, "--remote-debugging-port=0", front+"/")
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	defer func() {
		cmd.Process.Signal(os.Interrupt) // it takes its children with it
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-exited
		}
	}()
	want := "true%201000%20true"
	select {
	case got := <-told:
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	case <-exited:
		t.Skipf("%s does not run here:\n%s", browser, &out)
	case <-time.After(2 * time.Minute):
		t.Error("the browser did not say how it went")
	}
}

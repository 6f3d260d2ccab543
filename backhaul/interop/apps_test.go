package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func need(t *testing.T, program string) string {
	t.Helper()
	p, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed", program)
	}
	return p
}

// freePort returns an address that was free a moment ago.
func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a program until the test ends or stop is called, which waits for its exit. It returns
// when the program listens.
func start(t *testing.T, addr, program string, args ...string) (stop func()) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	stop = sync.OnceFunc(func() {
		cmd.Process.Signal(os.Interrupt)
		deaf := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		defer deaf.Stop()
		<-exited
	})
	t.Cleanup(stop)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(60 * time.Second); ; {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return stop
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("%s: %v\n%s", program, err, &out)
		case <-poll.C:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen\n%s", program, &out)
		}
	}
}

func get(t *testing.T, method, url string, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

func TestNginx(t *testing.T) {
	nginx := need(t, "nginx")
	dir := t.TempDir()
	large := bytes.Repeat([]byte("0123456789abcdef"), 300<<10/16)
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "large"), large, 0o644)); err != nil {
		t.Fatal(err)
	}
	addr := freePort(t)
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `
daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
	access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	client_max_body_size 1m;
	server {
		listen %[2]s; root %[1]s;
		location /said { return 200 "$request_method $http_x_test $content_length"; }
		location /moved { return 302 /large; }
	}
}`, dir, addr), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, addr, nginx, "-p", dir, "-c", conf)
	front := "http://" + path(t, addr, false)
	if resp, b := get(t, "GET", front+"/large", nil); resp.StatusCode != 200 || !bytes.Equal(b, large) {
		t.Errorf("large: %d, %d bytes", resp.StatusCode, len(b))
	}
	if resp, b := get(t, "HEAD", front+"/large", nil); resp.ContentLength != int64(len(large)) || len(b) != 0 {
		t.Errorf("HEAD: length %d", resp.ContentLength)
	}
	req, _ := http.NewRequest("GET", front+"/large", nil)
	req.Header.Set("Range", "bytes=10-19")
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != 206 {
		t.Errorf("range: %v, %v", resp, err)
	} else {
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(b) != string(large[10:20]) {
			t.Errorf("range: %q", b)
		}
	}
	if _, b := get(t, "POST", front+"/said", strings.NewReader("hello")); string(b) != "POST  5" {
		t.Errorf("said: %q", b)
	}
	if resp, _ := get(t, "GET", front+"/none", nil); resp.StatusCode != 404 {
		t.Errorf("none: %d", resp.StatusCode)
	}
	// nginx answers before it has read a body that is too large, and closes: its answer counts, although we fail to write.
	for range 20 {
		if resp, _ := get(t, "POST", front+"/large", bytes.NewReader(make([]byte, 8<<20))); resp.StatusCode != 413 {
			t.Errorf("too large: %d", resp.StatusCode)
		}
	}
	// It closes idle connections after a while and after a number of requests: none of that is seen.
	for i := range 2500 {
		if resp, b := get(t, "GET", front+"/said", nil); resp.StatusCode != 200 || string(b) != "GET  " {
			t.Fatalf("request %d: %d %q", i, resp.StatusCode, b)
		}
	}
}

// nginx ends a connection of HTTP/2 after so many requests, with a GOAWAY: no POST is lost by that,
// and none sent twice.
func TestNginxThatEndsItsConnections(t *testing.T) {
	nginx := need(t, "nginx")
	posts := 1000
	if testing.Short() {
		posts = 300
	}
	dir, addr := t.TempDir(), freePort(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conf, accesses := filepath.Join(dir, "nginx.conf"), filepath.Join(dir, "accesses")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `
daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
	log_format id $http_x_id; access_log %[3]s id; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	server {
		listen %[2]s http2; keepalive_requests 20;
		location / { return 200 "$http_x_id $content_length"; }
	}
}`, dir, addr, accesses), 0o644); err != nil {
		t.Fatal(err)
	}
	stop := start(t, addr, nginx, "-p", dir, "-c", conf)
	for form, through := range map[string]func(testing.TB, string, bool) string{"hop": path, "one process": near} {
		front := "http://" + through(t, addr, true)
		var clients sync.WaitGroup
		for c := range 20 {
			clients.Go(func() {
				for n := range posts / 20 {
					id := fmt.Sprintf("%s-%d-%d", strings.Fields(form)[0], c, n)
					req, _ := http.NewRequest("POST", front, strings.NewReader("hello"))
					req.Header.Set("X-Id", id)
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						t.Errorf("%s: %v", form, err)
						continue
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != 200 || string(b) != id+" 5" {
						t.Errorf("%s: %s: %d %q, %v", form, id, resp.StatusCode, b, err)
					}
				}
			})
		}
		clients.Wait()
	}
	stop() // it has written all it has to say by then
	log, err := os.ReadFile(accesses)
	if err != nil {
		t.Fatal(err)
	}
	executed := map[string]int{}
	for id := range strings.FieldsSeq(string(log)) {
		if executed[id]++; executed[id] == 2 {
			t.Errorf("%s was executed twice", id)
		}
	}
	if len(executed) != 2*posts {
		t.Errorf("%d requests were executed, of %d", len(executed), 2*posts)
	}
}

// pythonApp speaks HTTP/1.0 as http.server does by default, and closes each connection.
const pythonApp = `
import hashlib, http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("X-Version", self.request_version); self.end_headers()
        self.wfile.write(b"hello " + self.path.encode())
    def do_POST(self):
        h, n = hashlib.sha256(), 0
        if self.headers.get("Transfer-Encoding") == "chunked":
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                h.update(self.rfile.read(size)); n += size; self.rfile.readline()
                if size == 0: break
        else:
            n = int(self.headers.get("Content-Length", 0)); h.update(self.rfile.read(n))
        self.send_response(200); self.end_headers()
        self.wfile.write(("%d %s" % (n, h.hexdigest())).encode())
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
`

func startPython(t *testing.T) (front string) {
	python := need(t, "python3")
	addr := freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	start(t, addr, python, "-c", pythonApp, port)
	return "http://" + path(t, addr, false)
}

func TestPython(t *testing.T) {
	front := startPython(t)
	for range 50 {
		if resp, b := get(t, "GET", front+"/x", nil); resp.StatusCode != 200 || string(b) != "hello /x" {
			t.Fatalf("%d %q", resp.StatusCode, b)
		}
	}
	for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1, 3 << 20} {
		data := bytes.Repeat([]byte{'x'}, size)
		want := fmt.Sprintf("%d %x", size, sha256.Sum256(data))
		for _, chunked := range []bool{false, true} {
			var body io.Reader = bytes.NewReader(data)
			if chunked {
				body = io.NopCloser(body)
			}
			if _, b := get(t, "POST", front+"/", body); string(b) != want {
				t.Errorf("%d bytes, chunked %v: %q", size, chunked, b)
			}
		}
	}
}

// curl sends bodies in every form it knows.
func TestCurl(t *testing.T) {
	curl := need(t, "curl")
	front := startPython(t)
	file := filepath.Join(t.TempDir(), "data")
	data := bytes.Repeat([]byte("curl"), 500<<10/4)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%d %x", len(data), sha256.Sum256(data))
	small := fmt.Sprintf("%d %x", 5, sha256.Sum256([]byte("a=b&c")))
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"form", small, []string{"-d", "a=b&c"}},
		{"binary with Expect", want, []string{"--data-binary", "@" + file, "-H", "Expect: 100-continue"}},
		{"binary without Expect", want, []string{"--data-binary", "@" + file, "-H", "Expect:"}},
		{"chunked", want, []string{"--data-binary", "@" + file, "-H", "Transfer-Encoding: chunked", "-H", "Expect:"}},
		{"chunked with Expect", want, []string{"--data-binary", "@" + file, "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"}},
		{"upload", want, []string{"-T", file, "-X", "POST"}},
		{"HTTP/1.0", small, []string{"-0", "-d", "a=b&c"}},
		{"empty", fmt.Sprintf("0 %x", sha256.Sum256(nil)), []string{"-X", "POST", "-H", "Content-Length: 0"}},
		{"h2c", want, []string{"--http2-prior-knowledge", "--data-binary", "@" + file}},
		{"h2c chunked", want, []string{"--http2-prior-knowledge", "-T", file, "-X", "POST", "-H", "Content-Length:"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, curl, append([]string{"-sS", front + "/"}, tt.args...)...).CombinedOutput()
			if bytes.Contains(out, []byte("the installed libcurl version doesn't support")) {
				t.Skip("curl without HTTP/2")
			}
			if err != nil || string(out) != tt.want {
				t.Errorf("got %q, %v; want %q", out, err, tt.want)
			}
		})
	}
}

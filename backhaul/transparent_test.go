package backhaul

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/balance"
)

// exchangeRaw sends a request as it is and returns the answer.
func exchangeRaw(t *testing.T, addr, text string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return resp, string(body)
}

// What the client put into the request line and Host is what the app reads there.
func TestTheTargetReachesTheAppAsItWasSent(t *testing.T) {
	for _, h2 := range []bool{false, true} { // the machine speaks HTTP/2
		both(t, func(t *testing.T, local bool) {
			if overHTTP2(t) { // the front is asked in raw HTTP/1.1
				return
			}
			speaks := func(balance.Machine) bool { return h2 }
			r := newRig(
				t,
				rigConfig{
					app: roomy, local: local, config: Config{MachineConfig: MachineConfig{H2: speaks}},
					handler: HandlerConfig{MachineConfig: MachineConfig{H2: speaks}},
				},
			)
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Target", r.RequestURI)
				w.Header().Set("X-Host", "<"+r.Host+">")
			}))
			h2c(s)
			s.Start()
			t.Cleanup(s.Close)
			r.host("m1", s.Listener.Addr().String())
			for _, target := range []string{
				"/", "/x?", "/x?a=1;b=2", "/x?a=%zz&b=2", "/x?a=b%", "/x?a|b", "/x?\xe4\xf6", "/x?a#b", "/x??",
				"/a%2Fb", "/a%2Fb|c", "/a%2fb%7c", "/a%2Fb^`{}", `/a%2Fb"<>\`, "/a%2Fb/\xff\xfe", "/caf\xc3\xa9", "/caf%C3%A9%2F",
				"/a;b=c,d/", "/%41", "/a//b", "//a/b", "/a/../b/./c", "/[a]%2F", "/a#b", "/a%2Fb#c",
			} {
				resp, body := exchangeRaw(t, r.front.Listener.Addr().String(), "GET "+target+" HTTP/1.1\r\nHost: App.example:80\r\nConnection: close\r\n\r\n")
				if got := resp.Header.Get("X-Target"); got != target {
					t.Errorf("target %q: %d %s, the app got %q", target, resp.StatusCode, body, got)
				}
				if got := resp.Header.Get("X-Host"); got != "<App.example:80>" {
					t.Errorf("target %q: the app got Host %q", target, got)
				}
			}
			// As it stands, this would be a host: what may not stand in a path is escaped, and nothing else.
			resp, _ := exchangeRaw(t, r.front.Listener.Addr().String(), "GET //a%2Fb|c/\xff HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			if got := resp.Header.Get("X-Target"); got != "//a%2Fb%7Cc/%FF" {
				t.Errorf("the app got %q", got)
			}
			none := "<>"
			if h2 {
				none = "<invalid>" // there is no empty one
			}
			for _, tt := range []struct{ head, host string }{
				{"GET / HTTP/1.1\r\nHost: ", none},
				{"GET / HTTP/1.1\r\nHost:", none},
				{"GET / HTTP/1.0", none},
				{"GET / HTTP/1.0\r\nHost: h", "<h>"},
				{"GET http://h:81/x HTTP/1.1\r\nHost: other", "<h:81>"}, // RFC 9112, 3.2.2
			} {
				resp, body := exchangeRaw(t, r.front.Listener.Addr().String(), tt.head+"\r\nConnection: close\r\n\r\n")
				if got := resp.Header.Get("X-Host"); got != tt.host {
					t.Errorf(
						"%q: %d %s, the app got Host %q, want %q", tt.head, resp.StatusCode, body, got, tt.host,
					)
				}
			}
		})
	}
}

// A path that somebody on the way has changed is what is sent.
func TestAChangedPathIsSent(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy})
	r.serve(
		"m1",
		http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) },
		),
	)
	for _, tt := range []struct{ target, want string }{
		{"/api/a%2Fb|c?x;y", "/a%2Fb|c?x;y"},
		{"/api/a%2Fb", "/a%2Fb"},
		{"/api/\xff", "/\xff"},
	} {
		proxy, err := NewProxy(r.transport, ProxyConfig{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		front := httptest.NewServer(http.StripPrefix("/api", proxy))
		_, got := exchangeRaw(t, front.Listener.Addr().String(), "GET "+tt.target+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		front.Close()
		if got != tt.want {
			t.Errorf("%q without its prefix: the app got %q, want %q", tt.target, got, tt.want)
		}
	}
	rewrite := func(p *httputil.ProxyRequest) {
		Rewrite(p)
		p.Out.URL.Host = "web"
		p.Out.URL.Path = "/else where"
	}
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: rewrite, Transport: r.transport})
	defer front.Close()
	_, got := exchangeRaw(t, front.Listener.Addr().String(), "GET /a%2Fb|c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	if got != "/else%20where" {
		t.Errorf("the app got %q", got)
	}
}

// An answer has the Content-Type that the app gave it: none, if it gave none.
func TestNoContentTypeIsGuessed(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			if r.URL.Path == "/hints" {
				w.WriteHeader(http.StatusEarlyHints)
			}
			io.WriteString(w, "<script>alert('hi')</script>")
		}))
		for _, tt := range []struct {
			method, path string
			body         io.Reader
		}{{"GET", "/", nil}, {"GET", "/hints", nil}, {"POST", "/", strings.NewReader("a body")}} {
			resp, body := fetch(t, r.front.Client(), request(t, tt.method, r.front.URL+tt.path, tt.body))
			if got, ok := resp.Header["Content-Type"]; ok || resp.StatusCode != 200 || len(body) != 28 {
				t.Errorf("%s: %d %q, Content-Type %q", tt.path, resp.StatusCode, body, got)
			}
		}
	})
}

// A client that closes its sending side after its request has left: the machine hears of it.
func TestAHalfClosedClientHasLeft(t *testing.T) {
	for _, local := range []bool{false, true} {
		left := make(chan struct{})
		began := make(chan struct{})
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(began)
			<-r.Context().Done()
			close(left)
		}))
		c, err := net.Dial("tcp", r.front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		<-began
		c.(*net.TCPConn).CloseWrite()
		<-left
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil &&
			resp.StatusCode != statusClientGone {
			t.Errorf("local %v: the client got %d", local, resp.StatusCode)
		}
		c.Close()
		r.quiet()
	}
}

func TestForwardedHeaders(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, k := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
			fmt.Fprintf(w, "%q ", r.Header[k])
		}
		for k := range r.Header {
			if strings.Contains(k, "_") && !strings.EqualFold(k, "X_Mine") {
				t.Errorf("the app got %s", k)
			}
		}
	}))
	own := func(r *http.Request) bool { return r.Header.Get("X-Of") == "ours" }
	proxy, err := NewProxy(r.transport, ProxyConfig{App: "web", TrustForwarded: own})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()
	const said = "Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nX-Forwarded-Host: public\r\nX-Forwarded-Proto: https\r\n"
	for _, tt := range []struct{ headers, want string }{
		{"", `[] ["127.0.0.1"] ["h:1"] ["http"] `},
		{said, `[] ["127.0.0.1"] ["h:1"] ["http"] `},
		{said + "Connection: X-Forwarded-For\r\n", `[] ["127.0.0.1"] ["h:1"] ["http"] `},
		{said + "X-Of: ours\r\n", `["for=1.2.3.4"] ["1.2.3.4, 5.6.7.8, 127.0.0.1"] ["public"] ["https"] `},
		{"X-Of: ours\r\n", `[] ["127.0.0.1"] ["h:1"] ["http"] `},
		{"X_Forwarded_For: 1.2.3.4\r\nx-forwarded_host: public\r\nX_Forwarded-Proto: https\r\nX_Mine: 1\r\n", `[] ["127.0.0.1"] ["h:1"] ["http"] `},
	} {
		if _, got := exchangeRaw(t, front.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: h:1\r\n"+tt.headers+"\r\n"); got != tt.want {
			t.Errorf("%q: the app got %s, want %s", tt.headers, got, tt.want)
		}
	}
}

// Without an app of its own a Proxy goes by the Host.
func TestAProxyRoutesByHost(t *testing.T) {
	r := newRig(t, rigConfig{app: balance.App{ID: "web.example", Limits: roomy.Limits}})
	if _, err := r.worker.Host(balance.Machine{ID: "m1", App: "web.example", Region: "nrt"}); err != nil { // not started
		t.Fatal(err)
	}
	proxy, err := NewProxy(r.transport, ProxyConfig{})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()
	for _, tt := range []struct {
		host   string
		status int
	}{{"web.example", 503}, {"WEB.example.:8080", 503}, {"other.example", 404}, {"", 404}} {
		resp, _ := exchangeRaw(t, front.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: "+tt.host+"\r\n\r\n")
		if resp.StatusCode != tt.status {
			t.Errorf("Host %q: %d, want %d", tt.host, resp.StatusCode, tt.status)
		}
	}
	for host, want := range map[string]balance.AppID{
		"web": "web", "web:80": "web", "Web.Example.": "web.example", "[::1]": "[::1]", "[2001:DB8::1]:80": "[2001:db8::1]", "": "",
	} {
		if got := appOf(host); got != string(want) {
			t.Errorf("Host %q is of app %q, want %q", host, got, want)
		}
	}
	if _, err := NewProxy(nil, ProxyConfig{}); err == nil ||
		!strings.Contains(err.Error(), "NewTransport") {
		t.Errorf("a proxy over nothing: %v", err)
	}
}

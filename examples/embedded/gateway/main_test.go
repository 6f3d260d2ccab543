package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// beGateway makes the test binary the example. Where the example starts python3, it starts the test
// binary again, which is then an app.
const beGateway = "GATEWAY_EXAMPLE"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv("MACHINE") != "":
		port := os.Args[slices.Index(os.Args, "http.server")+1]
		fmt.Println(http.ListenAndServe("127.0.0.1:"+port,
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, os.Args[len(os.Args)-1], " by ", os.Getenv("MACHINE"))
			})))
		os.Exit(1)
	case os.Getenv(beGateway) != "":
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The program starts each app for its first request, and stops all machines when it is told to end.
func TestTheProgramServesTwoApps(t *testing.T) {
	bin := t.TempDir()
	if err := os.Symlink(os.Args[0], filepath.Join(bin, "python3")); err != nil {
		t.Skip(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	var out bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), beGateway+"=1", "LISTEN="+addr,
		"PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v: %s", err, out.String())
		case <-poll.C:
		}
	}
	for _, app := range []string{"blog.localhost", "shop.localhost"} {
		req, err := http.NewRequest("GET", "http://"+addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = app
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !strings.HasPrefix(string(body), app+" by "+app+"-") {
			t.Errorf("%s: %d %q %v", app, resp.StatusCode, body, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cmd.Process.Signal(syscall.SIGTERM)
	if err := <-ended; err != nil {
		t.Errorf("after SIGTERM: %v: %s", err, out.String())
	}
	for _, want := range []string{"started", "stopped"} {
		if strings.Count(out.String(), " INFO "+want+" ") != 2 {
			t.Errorf("each machine is %s once: %s", want, out.String())
		}
	}
}

// The README shows the program word for word.
func TestReadmeShowsTheProgram(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(readme), "```go\n")
	block, _, ok := strings.Cut(block, "```")
	if !ok {
		t.Fatal("the README has no Go program")
	}
	_, program, _ := strings.Cut(string(source), "\npackage main")
	if program = "package main" + program; block != program {
		t.Error("the README shows another program than main.go: copy it from \"package main\" on")
	}
	if n := strings.Count(program, "\n"); n > 40 {
		t.Errorf("the program has %d lines, want at most 40", n)
	}
}

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("MACHINE") != "" {
		http.ListenAndServe(
			"127.0.0.1:"+os.Getenv("PORT"),
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, "hello from ", os.Getenv("MACHINE"))
			}),
		)
		os.Exit(1)
	}
	if os.Getenv("SPLIT") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Either edge serves by machines of the workers, and all of it ends when it is told.
func TestSplit(t *testing.T) {
	var addrs []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, l.Addr().String())
		l.Close()
	}
	cmd := exec.Command(os.Args[0], addrs[0], addrs[1], strconv.Quote(os.Args[0]))
	cmd.Env, cmd.Stderr = append(os.Environ(), "SPLIT=1"), os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for _, addr := range addrs {
		for deadline := time.Now().Add(time.Minute); ; <-look.C {
			resp, err := http.Get("http://" + addr)
			if err != nil {
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
				continue // it does not listen yet
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || !strings.HasPrefix(string(body), "hello from web-worker-") {
				t.Errorf("%s: %d %q", addr, resp.StatusCode, body)
			}
			break
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

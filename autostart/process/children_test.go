//go:build linux || darwin

package process_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// childEnv makes the test binary run as a child: its value is the kind of child.
const childEnv = "PROCESS_TEST_CHILD"

func TestMain(m *testing.M) {
	if kind := os.Getenv(childEnv); kind != "" {
		os.Exit(children[kind]())
	}
	os.Exit(m.Run())
}

// children are the programs the tests run: their kinds and what they do.
var children = map[string]func() int{
	"serve":    serve,
	"polite":   polite,
	"stubborn": stubborn,
	"chatter":  chatter,
	"parent":   parent,
	"family":   family,
	"leaf":     leaf,
	"moaner":   moaner,
	"flood":    flood,
	"astray":   astray,
	"exit7":    func() int { return 7 },
	"exit0":    func() int { return 0 },
	"kill9":    func() int { return die(syscall.SIGKILL) },
	"hangup":   func() int { return die(syscall.SIGHUP) },
}

// die ends the process by a signal.
func die(s syscall.Signal) int {
	_ = syscall.Kill(os.Getpid(), s)
	select {}
}

// serve answers with its environment until a signal ends it. For some machines it never answers.
func serve() int {
	if strings.HasPrefix(os.Getenv("MACHINE"), "silent-") {
		select {}
	}
	var count atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"PORT", "MACHINE", "REGION", "EPOCH", "APP", "EXTRA"} {
			fmt.Fprintf(w, "%s=%s\n", name, os.Getenv(name))
		}
		dir, _ := os.Getwd()
		fmt.Fprintf(w, "args %v\ndir %s\n", os.Args[1:], dir)
	})
	mux.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, count.Add(1)) })
	mux.HandleFunc("/terms", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, terms.Load()) })
	mux.HandleFunc("/pid", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, os.Getpid()) })
	mux.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), mux))
	return 1
}

// polite ends with status 42 when it gets SIGTERM.
func polite() int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go serve()
	<-term
	return 42
}

// terms is how often stubborn was asked to end.
var terms atomic.Int64

// stubborn does not end when it gets SIGTERM.
func stubborn() int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		for range term {
			terms.Add(1)
		}
	}()
	return serve()
}

// chatter prints much and ends.
func chatter() int {
	for i := range 100 {
		fmt.Println("a line on stdout", i)
		fmt.Fprintln(os.Stderr, "a line on stderr", i)
	}
	return 0
}

// moaner prints what it lacks and ends.
func moaner() int {
	fmt.Println("starting")
	fmt.Fprint(os.Stderr, "Traceback (most recent call last):\n  File \"app.py\", line 1\n\x1b[31mModuleNotFoundError\x1b[0m: nosuchmodule")
	return 3
}

// flood prints without end.
func flood() int {
	line := []byte(strings.Repeat("a line of a program that has lost its mind\n", 1000))
	for {
		if _, err := os.Stdout.Write(line); err != nil {
			return 1
		}
	}
}

// astray listens at an unexpected address, and so does its child.
func astray() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if os.Getenv("CHILD") == "" {
		c := exec.Command(os.Args[0])
		c.Env, c.Stdout = append(os.Environ(), "CHILD=1"), os.Stdout
		if err := c.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Println("listening at", l.Addr())
	select {}
}

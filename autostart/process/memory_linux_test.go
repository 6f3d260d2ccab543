package process_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process"
)

func init() {
	children["hungry"] = hungry
	children["confined"] = confined
}

const groupEnv = "PROCESS_TEST_GROUP" // the control group that confined moves to

// hungry uses memory until it is killed, or gives up.
func hungry() int {
	var all [][]byte
	for range 1024 {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 512 {
			b[i] = 1
		}
		all = append(all, b)
	}
	fmt.Fprintln(os.Stderr, len(all), "MiB and nobody minds")
	return 0
}

// confined moves into a control group and prints how two machines end there: one that wants too
// much memory and one that is killed by somebody else.
func confined() int {
	if err := os.WriteFile(filepath.Join(os.Getenv(groupEnv), "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		fmt.Println(err)
		return 1
	}
	for _, kind := range []string{"hungry", "kill9"} {
		d, err := process.New(config(kind))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if _, err := d.Start(context.Background(), aMachine()); err != nil {
			fmt.Println(err)
			return 1
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_ = d.Watch(ctx, func(e machine.Exit) {
			fmt.Println(kind, e.Signal, strings.Contains(e.Reason, "(out of memory)"))
			cancel()
		})
		_ = d.Close()
	}
	return 0
}

// The exit of a machine that the kernel kills for lack of memory says so; that of one that somebody
// kills does not. It needs a control group with a limit, so it runs only where EBB_TEST_OOM=1 asks
// for it, as root.
func TestOutOfMemory(t *testing.T) {
	if os.Getenv("EBB_TEST_OOM") != "1" {
		t.Skip("set EBB_TEST_OOM=1 to run this, as root")
	}
	root, limit := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(root); err != nil {
		root, limit = "/sys/fs/cgroup", "memory.max"
	}
	group := filepath.Join(root, "ebb-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Rmdir(group) }()
	if err := os.WriteFile(filepath.Join(group, limit), []byte("100M"), 0); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(filepath.Join(group, "memory.swap.max"), []byte("0"), 0)
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"=confined", groupEnv+"="+group)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if want := "hungry killed true\nkill9 killed false\n"; err != nil || string(out) != want {
		t.Errorf("got\n%s(%v) want\n%s", out, err, want)
	}
}

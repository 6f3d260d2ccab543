package parse

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestSplitWords(t *testing.T) {
	for _, test := range []struct {
		in   string
		want []string
		err  string
	}{
		{in: "", want: nil},
		{in: "  \t\n", want: nil},
		{in: "a", want: []string{"a"}},
		{in: " a  bc\td\n", want: []string{"a", "bc", "d"}},
		{in: `'a b' c`, want: []string{"a b", "c"}},
		{in: `"a b" c`, want: []string{"a b", "c"}},
		{in: `a'b c'd"e f"g`, want: []string{"ab cde fg"}},
		{in: `'' ""`, want: []string{"", ""}},
		{in: `a\ b \'c \\ \"`, want: []string{"a b", "'c", `\`, `"`}},
		{in: `'a\ b"' "it's \"so\" \\ \n"`, want: []string{`a\ b"`, `it's "so" \ \n`}},
		{in: "grüße 'ä ö'", want: []string{"grüße", "ä ö"}},
		// no shell
		{in: "a | b && c > d $(e) *", want: []string{"a", "|", "b", "&&", "c", ">", "d", "$(e)", "*"}},
		{in: `a 'b`, err: "single quote is not closed"},
		{in: `a "b`, err: "double quote is not closed"},
		{in: `a "b\"`, err: "double quote is not closed"},
		{in: `a \`, err: "backslash at the end"},
	} {
		got, err := Words(test.in)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: error %v, want %q", test.in, err, test.err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", test.in, err, diff)
		}
	}
}

// Words that are quoted in any of the three ways come back as they were.
func TestSplitWordsUndoesQuoting(t *testing.T) {
	quote := map[string]func(string) string{
		"single": func(w string) string { return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'" },
		"double": func(w string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(w) + `"` },
		"backslash": func(w string) string {
			var b strings.Builder
			for i := range len(w) {
				b.WriteByte('\\')
				b.WriteByte(w[i])
			}
			return b.String()
		},
	}
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOf(rapid.StringN(1, 20, -1)).Draw(t, "words")
		var line strings.Builder
		for _, w := range words {
			line.WriteString(
				quote[rapid.SampledFrom([]string{"single", "double", "backslash"}).Draw(t, "quotes")](w),
			)
			line.WriteString(rapid.SampledFrom([]string{" ", "\t", "\n  "}).Draw(t, "blank"))
		}
		got, err := Words(line.String())
		if err != nil || len(got) != len(words) || len(words) > 0 && !cmp.Equal(words, got) {
			t.Fatalf("%q: %q, %v, want %q", line.String(), got, err, words)
		}
	})
}

func TestExpand(t *testing.T) {
	v := Variables{"8080", "nrt-1", "nrt", "7", "demo"}
	for in, want := range map[string]string{
		"":                          "",
		"$PORT":                     "8080",
		"127.0.0.1:$PORT":           "127.0.0.1:8080",
		"${PORT}1":                  "80801",
		"$PORT1":                    "$PORT1", // another name
		"$PORT-1":                   "8080-1",
		"$MACHINE/$REGION/$EPOCH":   "nrt-1/nrt/7",
		"/srv/$APP/run":             "/srv/demo/run",
		"$HOME ${HOME} ${PORT $ $$": "$HOME ${HOME} ${PORT $ $$",
		"$$PORT":                    "$8080",
		"{ print $1 }":              "{ print $1 }",
		"ünï$PORT":                  "ünï8080",
	} {
		if got := v.Expand(in); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
		if got, want := UsesVariable(in), in != want; got != want {
			t.Errorf("usesVariable(%q) = %v, want %v", in, got, want)
		}
	}
	want := []string{"PORT=8080", "MACHINE=nrt-1", "REGION=nrt", "EPOCH=7", "APP=demo"}
	if diff := cmp.Diff(want, v.Environ()); diff != "" {
		t.Error(diff)
	}
}

func TestReason(t *testing.T) {
	for _, test := range []struct {
		ending Ending
		want   string
	}{
		{Ending{Code: 1, Life: time.Hour}, "exit status 1"},
		{Ending{Code: 0, Life: time.Hour}, "exit status 0"},
		{Ending{Code: 1, Life: 12345 * time.Microsecond}, "exit status 1, 12ms after its start"},
		{Ending{Code: -1, Signal: "segmentation fault", Life: time.Hour}, "killed by signal: segmentation fault"},
		{Ending{Code: -1, Signal: "killed", Life: time.Hour, Memory: true}, "killed by signal: killed (out of memory)"},
		{Ending{Code: 1, Life: 12 * time.Millisecond, Said: "cannot open config"}, "exit status 1, 12ms after its start: cannot open config"},
		{Ending{Code: 0, Life: time.Second, Asked: true, Said: "bye"}, "stopped: exit status 0"},
		{Ending{Code: 0, Life: time.Second, Asked: true}, "stopped: exit status 0"},
		{Ending{Code: -1, Signal: "terminated", Life: time.Hour, Asked: true}, "stopped: killed by signal: terminated"},
		{Ending{Code: -1, Signal: "killed", Life: time.Hour, Asked: true, Overdue: 5 * time.Second},
			"stopped: killed by signal: killed (still there 5s after it was asked to stop)"},
	} {
		if got := test.ending.Reason(); got != test.want {
			t.Errorf("%+v: %q, want %q", test.ending, got, test.want)
		}
	}
}

func TestCounterFiles(t *testing.T) {
	paths := func(cgroup string) []string {
		var got []string
		for _, f := range CounterFiles(cgroup) {
			got = append(got, f.Path)
		}
		return got
	}
	for _, test := range []struct {
		name, cgroup string
		want         []string
	}{
		{"version 2", "0::/user.slice/app.scope\n",
			[]string{"/sys/fs/cgroup/user.slice/app.scope/memory.events", "/sys/fs/cgroup/memory.events", "/proc/vmstat"}},
		{"version 2, in a container", "0::/\n", []string{"/sys/fs/cgroup/memory.events", "/proc/vmstat"}},
		{"version 1", "9:name=systemd:/\n5:cpu,memory:/docker/abc\n1:cpuset:/\n",
			[]string{"/sys/fs/cgroup/memory/docker/abc/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat"}},
		{"a colon in the name", "0::/a:b\n", []string{"/sys/fs/cgroup/a:b/memory.events", "/sys/fs/cgroup/memory.events", "/proc/vmstat"}},
		{"nothing", "", []string{"/proc/vmstat"}},
		{"rubbish", "x\n1:2\n", []string{"/proc/vmstat"}},
	} {
		if diff := cmp.Diff(test.want, paths(test.cgroup)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

func TestCounter(t *testing.T) {
	const events = "low 0\nhigh 2\noom 3\noom_kill 4\noom_group_kill 5\n"
	if n, ok := Counter(events, "oom_kill"); n != 4 || !ok {
		t.Errorf("counter = %d, %v, want 4", n, ok)
	}
	for _, text := range []string{"", "oom_kill", "oom_kill x", "oom 3\n"} {
		if n, ok := Counter(text, "oom_kill"); ok {
			t.Errorf("counter of %q = %d, want none", text, n)
		}
	}
}

package interop

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// connectSuite is the conformance suite of the Connect project, which also covers gRPC and gRPC-Web.
const connectSuite = "connectrpc.com/conformance@v1.0.7"

// connectEnv makes the test binary a server under test: the suite's own reference server, behind an edge in one of two
// forms.
const (
	connectEnv  = "INTEROP_CONNECT_REFERENCE"
	connectForm = "INTEROP_CONNECT_FORM"
)

// What the reference server can do and we pass on. TLS is not ours to test here.
const connectFeatures = `features:
  versions: [HTTP_VERSION_1, HTTP_VERSION_2]
  protocols: [PROTOCOL_CONNECT, PROTOCOL_GRPC, PROTOCOL_GRPC_WEB]
  codecs: [CODEC_PROTO, CODEC_JSON]
  compressions: [COMPRESSION_IDENTITY, COMPRESSION_GZIP]
  supportsH2c: true
  supportsTls: false
  supportsTrailers: true
  supportsHalfDuplexBidiOverHttp1: true
`

// Connect, gRPC and gRPC-Web over both versions of HTTP, by the cases of their conformance suite.
func TestConnectConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the suite, which takes a minute, and runs some thousand cases")
	}
	dir := buildConnectSuite(t)
	config := filepath.Join(dir, "features.yaml")
	if err := os.WriteFile(config, []byte(connectFeatures), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"one process", "hop"} {
		t.Run(form, func(t *testing.T) {
			suite := exec.CommandContext(t.Context(), filepath.Join(dir, "connectconformance"),
				"--mode", "server", "--conf", config, "--", os.Args[0])
			suite.Env = append(os.Environ(), connectEnv+"="+filepath.Join(dir, "referenceserver"), connectForm+"="+form)
			out, err := suite.CombinedOutput()
			counts := regexp.MustCompile(`(?m)^Total cases: (\d+)\n(\d+) passed, (\d+) failed`).FindStringSubmatch(string(out))
			if err != nil || counts == nil {
				t.Fatalf("%v\n%s", err, last(string(out), 6000))
			}
			t.Logf("%s cases: %s passed, %s failed", counts[1], counts[2], counts[3])
			if total, _ := strconv.Atoi(counts[1]); total < 1000 || counts[3] != "0" {
				t.Errorf("%s", last(string(out), 6000))
			}
		})
	}
}

// buildConnectSuite returns a directory with the suite's programs. It skips the test where the
// suite, or what it is built from, cannot be downloaded.
func buildConnectSuite(t *testing.T) string {
	run := func(args ...string) ([]byte, error) {
		var problems strings.Builder
		c := exec.CommandContext(t.Context(), "go", args...)
		c.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
		c.Stderr = &problems
		out, err := c.Output()
		if err != nil {
			err = fmt.Errorf("go %s: %w\n%s%s", strings.Join(args, " "), err, last(string(out), 3000),
				last(problems.String(), 3000))
		}
		return out, err
	}
	out, err := run("mod", "download", "-json", connectSuite)
	if err != nil {
		t.Skip("the suite cannot be downloaded: ", err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	if _, err := run("-C", module.Dir, "mod", "download"); err != nil {
		t.Skip("what the suite is built from cannot be downloaded: ", err)
	}
	dir := t.TempDir()
	if _, err := run("-C", module.Dir, "build", "-o", dir, "./cmd/connectconformance", "./cmd/referenceserver"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// last returns the end of a long text.
func last(s string, n int) string { return s[max(0, len(s)-n):] }

// sutTB lets the helpers of tests run in the server under test.
type sutTB struct {
	testing.TB
	cleanups []func()
}

func (*sutTB) Helper()            {}
func (t *sutTB) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }
func (*sutTB) Fatal(args ...any)  { panic(fmt.Sprint(args...)) }

// serveConnect runs the reference server behind both hops until SIGTERM. Like it, it reads one request and writes one
// answer, each behind its length; the answer names our front in place of the server.
func serveConnect(reference string) error {
	request, err := readSized(os.Stdin)
	if err != nil {
		return err
	}
	server := exec.Command(reference)
	server.Stderr = os.Stderr
	in, err := server.StdinPipe()
	if err != nil {
		return err
	}
	out, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer server.Wait()
	defer server.Process.Signal(syscall.SIGTERM)
	if err := writeSized(in, request); err != nil {
		return err
	}
	in.Close()
	answer, err := readSized(out)
	if err != nil {
		return err
	}
	const host, port, httpVersion, version2 = 1, 2, 2, 2
	t := new(sutTB)
	defer func() {
		for i := len(t.cleanups) - 1; i >= 0; i-- {
			t.cleanups[i]()
		}
	}()
	addr := net.JoinHostPort(string(field(answer, host).bytes), fmt.Sprint(field(answer, port).number))
	through := path
	if os.Getenv(connectForm) != "hop" {
		through = near
	}
	front := through(t, addr, field(request, httpVersion).number == version2)
	frontHost, frontPort, _ := net.SplitHostPort(front)
	n, _ := strconv.Atoi(frontPort)
	var ours []byte
	ours = protowire.AppendString(protowire.AppendTag(ours, host, protowire.BytesType), frontHost)
	ours = protowire.AppendVarint(protowire.AppendTag(ours, port, protowire.VarintType), uint64(n))
	if err := writeSized(os.Stdout, ours); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	<-stop
	return nil
}

type value struct {
	bytes  []byte
	number uint64
}

// field returns a field of a protobuf message.
func field(message []byte, want protowire.Number) (v value) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return v
		}
		message = message[n:]
		n = protowire.ConsumeFieldValue(number, kind, message)
		if n < 0 {
			return v
		}
		if number == want && kind == protowire.BytesType {
			v.bytes, _ = protowire.ConsumeBytes(message)
		} else if number == want && kind == protowire.VarintType {
			v.number, _ = protowire.ConsumeVarint(message)
		}
		message = message[n:]
	}
	return v
}

func readSized(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeSized(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// connectMain is the test binary as the server under test.
func connectMain() bool {
	reference := os.Getenv(connectEnv)
	if reference == "" || strings.Contains(strings.Join(os.Args, " "), "-test.") {
		return false
	}
	if err := serveConnect(reference); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
	return true
}

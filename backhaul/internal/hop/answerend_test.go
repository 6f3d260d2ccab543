package hop

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// ended feeds an answer in pieces and returns after how many bytes it has ended; -1: not yet.
func endOfAnswer(answer string, bodiless bool, piece func(rest int) int) (int, *AnswerEnd) {
	t := new(AnswerEnd)
	for at := 0; at < len(answer); {
		n := piece(len(answer) - at)
		for i := range n { // what comes with the end in one piece does not matter
			t.Feed([]byte(answer[at+i:at+i+1]), bodiless)
			if t.Done() {
				return at + i + 1, t
			}
		}
		at += n
	}
	return -1, t
}

func TestTheEndOfAnAnswer(t *testing.T) {
	long := strings.Repeat("x", 500)
	for name, tt := range map[string]struct {
		answer   string // | stands where it ends, or where it is known to be none
		bodiless bool
		rest     bool // it ends with the connection
	}{
		"nothing":              {answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n|HTTP/1.1"},
		"no content":           {answer: "HTTP/1.1 204 No Content\r\n\r\n|x"},
		"not modified":         {answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n|x"},
		"head":                 {answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n|x", bodiless: true},
		"sized":                {answer: "HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello|x"},
		"chunked":              {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\nA;ext=1\r\n0123456789\r\n0\r\n\r\n|x"},
		"chunked, and a size":  {answer: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n|x"},
		"trailers":             {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: 1\r\nB: " + long + "\r\n\r\n|x"},
		"newlines alone":       {answer: "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello|x"},
		"hints before it":      {answer: "HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok|x"},
		"a switch":             {answer: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n|x"},
		"long lines":           {answer: "HTTP/1.1 200 " + long + "\r\nCookie: " + long + "\r\nContent-Length: 2\r\n\r\nok|x"},
		"until the end":        {answer: "HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello", rest: true},
		"HTTP/1.0":             {answer: "HTTP/1.0 200 OK\r\n\r\nhello", rest: true},
		"in its head":          {answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"},
		"in its body":          {answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"},
		"in a chunk":           {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell"},
		"no size":              {answer: "HTTP/1.1 200 OK\r\nContent-Length: five\r\n|\r\nhello"},
		"no size of a chunk":   {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n|"},
		"no end of a chunk":    {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n|0\r\n\r\n"},
		"another coding":       {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n|\r\n0\r\n\r\n"},
		"a size beyond counts": {answer: "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n|\r\nhello"},
		"a chunk beyond":       {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n|0\r\n\r\n"},
		"no HTTP":              {answer: "SSH-2.0-OpenSSH\r\n|\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			want := strings.IndexByte(tt.answer, '|')
			answer := strings.Replace(tt.answer, "|", "", 1)
			got, end := endOfAnswer(answer, tt.bodiless, func(rest int) int { return rest })
			if got != want || end.Ends() != tt.rest {
				t.Errorf("ends after %d bytes, with the connection: %v; want %d, %v", got, end.Ends(), want,
					tt.rest)
			}
			whole := new(AnswerEnd)
			whole.Feed([]byte(answer), tt.bodiless)
			if whole.Done() != (want >= 0) || whole.Ends() != tt.rest {
				t.Errorf("in one piece: ended %v, with the connection %v", whole.Done(), whole.Ends())
			}
		})
	}
}

// Whatever net/http takes for an answer ends where it ends for net/http, however it is cut into
// pieces.
func TestAnswersEndWhereNetHTTPFindsTheirEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		for range rapid.IntRange(0, 2).Draw(t, "hints") {
			b.WriteString("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
		}
		method := rapid.SampledFrom([]string{"GET", "HEAD", "POST"}).Draw(t, "method")
		status := rapid.SampledFrom([]int{200, 201, 204, 304, 404, 500}).Draw(t, "status")
		fmt.Fprintf(&b, "HTTP/1.1 %d X\r\n", status)
		body := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body")
		name := func(s string) string {
			return rapid.SampledFrom([]string{s, strings.ToLower(s), strings.ToUpper(s)}).Draw(t, "case")
		}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			h := rapid.SampledFrom(
				[]string{"Cookie: a", "Trailer-X: 1", "Content-Type: text/html", "T: c", "Content-Lengths: 7"},
			).Draw(t, "header")
			b.WriteString(h + strings.Repeat("y", rapid.IntRange(0, 200).Draw(t, "more")) + "\r\n")
		}
		bodiless := method == "HEAD" || status == 204 || status == 304
		if rapid.Bool().Draw(t, "chunked") && status != 204 {
			fmt.Fprintf(&b, "%s: chunked\r\n\r\n", name("Transfer-Encoding"))
			for rest := body; !bodiless; {
				n := min(len(rest), rapid.IntRange(1, 100).Draw(t, "chunk"))
				fmt.Fprintf(&b, "%x%s\r\n", n,
					rapid.SampledFrom([]string{"", ";a=b", " "}).Draw(t, "extension"))
				if n == 0 {
					b.WriteString(rapid.SampledFrom([]string{"", "A: b\r\n"}).Draw(t, "trailers") + "\r\n")
					break
				}
				b.Write(rest[:n])
				b.WriteString("\r\n")
				rest = rest[n:]
			}
		} else {
			if status != 204 {
				fmt.Fprintf(&b, "%s:%s%d\r\n", name("Content-Length"), rapid.SampledFrom([]string{"", " "}).Draw(t, "space"), len(body))
			}
			b.WriteString("\r\n")
			if !bodiless {
				b.Write(body)
			}
		}
		answer := b.String()
		const next = "HTTP/1.1 200 OK\r\n"

		from := bufio.NewReader(bytes.NewReader([]byte(answer + next)))
		for {
			resp, err := http.ReadResponse(from, &http.Request{Method: method})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode >= 200 {
				break
			}
		}
		rest, _ := io.ReadAll(from)
		if string(rest) != next {
			t.Fatalf("net/http leaves %q", rest)
		}
		end := new(AnswerEnd)
		for at := 0; at < len(answer); {
			if end.Done() {
				t.Fatalf("ended after %d bytes of %d: %q", at, len(answer), answer)
			}
			n := min(len(answer)-at, rapid.IntRange(1, 200).Draw(t, "piece"))
			end.Feed([]byte(answer[at:at+n]), method == "HEAD")
			at += n
		}
		if !end.Done() {
			t.Fatalf("not ended: %q", answer)
		}
	})
}

func BenchmarkTail(b *testing.B) {
	answer := []byte(
		"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: application/json\r\n" +
			"Cache-Control: no-store\r\nContent-Length: 1024\r\nX-Request-Id: 0123456789abcdef\r\n\r\n" + strings.Repeat("x", 1024),
	)
	b.ReportAllocs()
	for b.Loop() {
		var t AnswerEnd
		t.Feed(answer, false)
		if !t.Done() {
			b.Fatal("not ended")
		}
	}
}

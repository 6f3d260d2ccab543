package embedded_test

import (
	"os"
	"strings"
	"testing"
)

// The README shows the example word for word.
func TestReadmeShowsTheExample(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(readme), "```go\n")
	block, _, ok := strings.Cut(block, "```")
	if !ok {
		t.Fatal("the README has no Go example")
	}
	_, body, _ := strings.Cut(string(source), "func Example() {\n")
	body, _, _ = strings.Cut(body, "\t// Output:")
	body = strings.ReplaceAll(strings.TrimPrefix(body, "\t"), "\n\t", "\n")
	if block != body {
		t.Errorf("README:\n%s\nexample_test.go:\n%s", block, body)
	}
	if n := strings.Count(block, "\n"); n > 30 {
		t.Errorf("the example has %d lines, want at most 30", n)
	}
}

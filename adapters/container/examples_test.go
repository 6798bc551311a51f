package container

import (
	"os"
	"strings"
	"testing"
)

// TestDocumentedExample: the page for embedders shows the example as it is, which apps/e2e runs.
func TestDocumentedExample(t *testing.T) {
	program, err := os.ReadFile("examples/hello/main.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/embedding.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```go\n"+string(program)+"```\n") {
		t.Error("docs/embedding.md does not show examples/hello/main.go as it is")
	}
}

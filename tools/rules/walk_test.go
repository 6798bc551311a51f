package rules

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var hopRow = regexp.MustCompile("(?m)^\\| \\d+ \\| `([^`]+)` \\| ([^|]+) \\|")

// TestWalk reads the walk of a run in docs/architecture.md: it is short, and each function is in its file.
func TestWalk(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	hops := hopRow.FindAllStringSubmatch(string(page), -1)
	if len(hops) == 0 || len(hops) > 12 {
		t.Errorf("the walk has %d hops instead of 1 to 12", len(hops))
	}
	for _, hop := range hops {
		source, err := os.ReadFile(filepath.Join(root, hop[1]))
		if err != nil {
			t.Error(err)
			continue
		}
		for name := range strings.SplitSeq(strings.ReplaceAll(hop[2], "`", ""), ", ") {
			declaration := name
			if receiver, method, isMethod := strings.Cut(name, "."); isMethod {
				declaration = `\(\w+ \*?` + receiver + `\) ` + method
			}
			if !regexp.MustCompile(`(?m)^func ` + declaration + `\(`).Match(source) {
				t.Errorf("%s has no function %s", hop[1], name)
			}
		}
	}
}

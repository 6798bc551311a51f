package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocumentation types what the pages for users show, and wants the output that they show.
func TestDocumentation(t *testing.T) {
	u := newUser(t)
	u.env = []string{"MOAT_EGRESS="}
	u.docker("tag", image, "busybox") // the engine reaches no registry that has it
	u.Cleanup(func() { u.docker("rmi", "busybox") })
	for _, page := range []string{"README.md", "docs/running.md", "docs/embedding.md"} {
		text, err := os.ReadFile("../../" + page)
		if err != nil {
			t.Fatal(err)
		}
		transcripts := consoleBlock.FindAllStringSubmatch(string(text), -1)
		if len(transcripts) == 0 {
			t.Errorf("%s shows nothing to type", page)
		}
		for _, transcript := range transcripts {
			if strings.HasPrefix(transcript[1], "$ make demo\n") {
				continue // which needs no second test, and prints this machine's kernel
			}
			typed, shown := splitTranscript(transcript[1])
			want(u, page+": "+typed, u.typed(typed), shown)
		}
	}
}

var consoleBlock = regexp.MustCompile("(?s)```console\n(.*?)```")

// splitTranscript separates the commands from their output.
func splitTranscript(text string) (typed, shown string) {
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			typed += command
		} else {
			shown += line
		}
	}
	return typed, shown
}

// goCaches are those of who runs the tests, found before TestMain gives the process another home.
var goCaches = func() []string {
	values, _ := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output() // empty: go then tells
	cache, modules, _ := strings.Cut(strings.TrimSpace(string(values)), "\n")
	return []string{"GOCACHE=" + cache, "GOMODCACHE=" + modules}
}()

// typed runs shell commands at the top of the repository, with the binary of the tests for the built
// one, and returns what they write.
func (u *user) typed(commands string) string {
	u.Helper()
	top, err := filepath.Abs("../..")
	if err != nil {
		u.Fatal(err)
	}
	commands = strings.NewReplacer("make build\n", "", "bin/moat", binary).Replace(commands)
	shell := exec.CommandContext(u.Context(), "bash", "-c", commands) // which may compile, so it has the test's time
	shell.Dir = top
	shell.Env = slices.Concat(u.command().Env, goCaches)
	found := u.finish(u.start(shell))
	if found.stderr != "" {
		u.Errorf("%q wrote on stderr: %s", commands, found.stderr)
	}
	return found.stdout
}

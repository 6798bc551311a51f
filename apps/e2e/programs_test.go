package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// ways are those to run a program: their flags go before the image or the container.
var ways = []string{"run", "run -t", "run --service", "exec", "exec -t"}

// programs makes a directory of what can be executed and what cannot, and returns the
// exit statuses of the latter.
func (u *user) programs() (directory string, statuses map[string]int) {
	u.Helper()
	directory = u.TempDir()
	own, err := os.ReadFile(binary)
	if err != nil {
		u.Fatal(err)
	}
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	foreign, err := os.ReadFile("../../adapters/docker/programs/gate-" + other)
	if err != nil {
		u.Fatal(err)
	}
	for name, content := range map[string]string{
		"text": "echo no\n", "empty": "", "cut": string(own[:100]), "foreign": string(foreign), "orphan": "#!/no/such/interpreter\n",
		"private": "#!/bin/sh\n", "script": "#!/bin/sh\nexit 5\n",
	} {
		mode := os.FileMode(0o755)
		if name == "private" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(directory, name), []byte(content), mode); err != nil {
			u.Fatal(err)
		}
	}
	u.shell("cd $0 && mkdir directory && ln -s loop loop && ln -s nowhere dangling", directory)
	return directory, map[string]int{
		"/p/text": 126, "/p/empty": 126, "/p/cut": 126, "/p/foreign": 126, "/p/private": 126, "/p/directory": 126, "/p/loop": 126, "text": 126,
		"/p/orphan": 127, "/p/dangling": 127, "/p/script/x": 127, "/p/nothing": 127, "nothing": 127,
	}
}

// TestProgramsThatCannotRun compares the exit statuses of all ways to run them.
func TestProgramsThatCannotRun(t *testing.T) {
	for _, sandbox := range sandboxes {
		for _, way := range ways {
			t.Run(way+sandbox, func(t *testing.T) {
				u := newServiceUser(t)
				directory, statuses := u.programs()
				flags := []string{sandbox, "-v", directory + ":/p", "-e", "PATH=/bin:/p"}
				if way == "run --service" { // each takes a service
					statuses = map[string]int{"/p/text": 126, "/p/orphan": 127, "nothing": 127}
				}
				run := u.way(way, flags)
				for program, status := range statuses {
					found := u.moat(append(slices.Clone(run), program)...)
					want(u, fmt.Sprintf("%s: the exit status of %s (%s)", way, program, found.stderr), found.code, status)
					want(u, fmt.Sprintf("%s: the output of %s", way, program), found.stdout, "")
					wantText(u, found.stderr, filepath.Base(program), "moat: ")
				}
				want(u, way+": the exit status of a program", u.moat(append(run, "/p/script")...).code, 5)
			})
		}
	}
}

// way returns the arguments before a program's, in a new container or a running one.
func (u *user) way(way string, flags []string) []string {
	u.Helper()
	verb, more, _ := strings.Cut(way, " ")
	if verb == "exec" {
		return slices.Concat(strings.Fields(way), []string{u.background(flags...)})
	}
	args := append([]string{"--rm"}, strings.Fields(more)...)
	if more == "--service" {
		args = append(args, "redis:7")
	}
	return u.labelled(slices.Concat(args, flags, []string{image})...)
}

// TestOthersWords has programs say what the engine, the gate or runc's init says.
func TestOthersWords(t *testing.T) {
	for _, sandbox := range sandboxes {
		for _, way := range ways {
			t.Run(way+sandbox, func(t *testing.T) {
				u := newServiceUser(t)
				run := u.way(way, []string{sandbox})
				for words, status := range map[string]int{
					"moat: sh: no such program, or no interpreter for it": 127, "moat: sh: cannot be executed": 126,
					"OCI runtime exec failed: exec: permission denied": 126, "unable to find user x": 126, "exec /bin/sh: exec format error": 1,
				} {
					for _, stream := range []string{"1", "2"} {
						script := fmt.Sprintf("echo '%s' >&%s; exit %d", words, stream, status)
						found := u.moat(append(slices.Clone(run), "sh", "-c", script)...)
						said := strings.ReplaceAll(found.stdout+quietly(found.stderr), "\r", "")
						want(u, fmt.Sprintf("%s: the output of %q", way, script), said, words+"\n")
						want(u, fmt.Sprintf("%s: the exit status of %q", way, script), found.code, status)
						if way == "run --service" {
							break // each takes a service
						}
					}
				}
			})
		}
	}
}

// TestPrompts has programs ask as the engine, the gate or runc's init complain.
func TestPrompts(t *testing.T) {
	for _, way := range []string{"run -it", "exec -it", "run -it --service"} {
		t.Run(way, func(t *testing.T) {
			u := newServiceUser(t)
			run := u.way(way, []string{"--no-sandbox"})
			if strings.HasSuffix(way, "--service") {
				run = slices.Insert(run, len(run)-2, "redis:7")
			}
			for _, prompt := range []string{"moat: your name? ", "OCI runtime exec failed: again? ", "unable to find user x: another? ", "exec /bin/sh: "} {
				p := u.sit(append(slices.Clone(run), "sh", "-c", fmt.Sprintf("printf '%s'; read name; exit 3", prompt))...)
				p.reads(strings.TrimSpace(prompt))
				p.types("me\r")
				want(u, "the exit status", p.leaves(), 3)
			}
		})
	}
}

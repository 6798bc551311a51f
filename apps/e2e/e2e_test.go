// Package e2e runs the moat binary against a real engine, as a person would.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/core"
)

const (
	image  = "moat/test-base"
	engine = "MOAT_TEST_ENGINE"
	newest = "MOAT_TEST_ENGINE_CURRENT"

	// patience is how long may take what should come soon.
	patience = time.Minute
)

// sandboxes are both ways to run: in gVisor, and on the host's kernel.
var sandboxes = []string{"--no-sandbox=false", "--no-sandbox"}

var binary string

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	folder, err := os.MkdirTemp("", "moat-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	binary = filepath.Join(folder, "moat")
	for program, tags := range map[string]string{binary: "moat_without_builder", binary + "-build": ""} { // as `make build` does
		build := exec.Command("go", "build", "-tags", tags, "-o", program, "./cmd/moat")
		build.Dir = ".."
		// Somebody else runs it too, in a test.
		if out, err := build.CombinedOutput(); errors.Join(err, os.Chmod(folder, 0o755)) != nil {
			fmt.Fprintf(os.Stderr, "%v: %s", err, out)
			return 1
		}
	}
	proxy := exec.Command("go", "build", "-o", filepath.Join(folder, "moat-proxy"), "./cmd/moat-proxy")
	proxy.Dir, proxy.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := proxy.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %s", err, out)
		return 1
	}
	if err := settleForeign(folder); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// user is somebody with a home of their own, whose containers carry a label of their own.
type user struct {
	*testing.T
	past   string // where the engine is, whatever way the user takes
	engine string
	home   string
	label  string
	env    []string // more of it

	credential *syscall.Credential // nil: that of the test
}

// newUser runs the test beside others. What the user leaves behind fails it.
func newUser(t *testing.T) *user { t.Helper(); return newUserOn(t, engine) }

// newUserOn is newUser on the engine that a variable names.
func newUserOn(t *testing.T, variable string) *user {
	t.Helper()
	t.Parallel()
	host, adapter := os.Getenv(variable), "docker"
	if variable == newest {
		adapter = "docker-current"
	}
	dockertest.Need(t, adapter, dockertest.Absence(host, variable))
	u := &user{T: t, past: host, engine: host, home: t.TempDir(), label: "e2e=" + unique(t)}
	t.Cleanup(func() {
		if left := u.left(); left != "" {
			t.Errorf("left on the engine: %s", left)
			u.docker(append([]string{"rm", "-f"}, strings.Fields(u.docker("ps", "-aq", "--filter", "label="+u.label))...)...)
		}
		for _, files := range []string{"moat/runs/*", "moat/evidence/*"} {
			if left, _ := filepath.Glob(filepath.Join(u.home, files)); len(left) > 0 {
				t.Errorf("left at home: %q", left)
			}
		}
	})
	return u
}

// unique is a name that no other test, and no other run of the tests, takes.
func unique(t *testing.T) string {
	return fmt.Sprintf("%s-%d", regexp.MustCompile("[^a-zA-Z0-9]+").ReplaceAllString(t.Name(), "-"), os.Getpid())
}

// left lists the user's containers, whatever their state.
func (u *user) left() string {
	u.Helper()
	return u.docker("ps", "-a", "--filter", "label="+u.label, "--format", "{{.Names}} {{.Status}}")
}

// docker asks the engine past moat.
func (u *user) docker(args ...string) string {
	u.Helper()
	out, err := exec.Command("docker", append([]string{"-H", u.past}, args...)...).CombinedOutput()
	if err != nil {
		u.Fatalf("docker %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// command is a moat process that has not been started. It is killed when it does not end.
func (u *user) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(u.Context(), 2*patience)
	u.Cleanup(cancel)
	command := exec.CommandContext(ctx, binary, args...)
	command.Dir = u.home
	command.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + u.home, "TMPDIR=" + u.home, "XDG_STATE_HOME=" + u.home, "XDG_CACHE_HOME=" + u.home,
		"DOCKER_HOST=" + u.engine, "MOAT_EGRESS=open",
	}, u.env...)
	command.SysProcAttr = &syscall.SysProcAttr{Credential: u.credential}
	return command
}

// labelled is a run with the user's label.
func (u *user) labelled(args ...string) []string {
	return append([]string{"run", "--label", u.label}, args...)
}

type outcome struct {
	stdout, stderr string
	code           int
}

func (u *user) start(command *exec.Cmd) *exec.Cmd {
	u.Helper()
	if command.Stdout == nil {
		command.Stdout = new(bytes.Buffer)
	}
	command.Stderr = new(bytes.Buffer)
	if err := command.Start(); err != nil {
		u.Fatal(err)
	}
	return command
}

func (u *user) finish(command *exec.Cmd) outcome {
	u.Helper()
	err := command.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		u.Fatalf("%q: %v", command.Args, err)
	} else if ok && exit.Sys().(syscall.WaitStatus).Signaled() {
		u.Fatalf("%q died: %v", command.Args, err)
	}
	found := outcome{code: command.ProcessState.ExitCode(), stderr: fmt.Sprint(command.Stderr)}
	if out, ok := command.Stdout.(*bytes.Buffer); ok {
		found.stdout = out.String()
	}
	return found
}

func (u *user) signal(command *exec.Cmd, signal syscall.Signal) {
	u.Helper()
	if err := command.Process.Signal(signal); err != nil {
		u.Fatal(err)
	}
}

// moat runs a command to its end.
func (u *user) moat(args ...string) outcome {
	u.Helper()
	return u.finish(u.start(u.command(args...)))
}

// run runs a container in the foreground.
func (u *user) run(args ...string) outcome { u.Helper(); return u.moat(u.labelled(args...)...) }

// must is moat for commands that succeed.
func (u *user) must(args ...string) string {
	u.Helper()
	found := u.moat(args...)
	if found.code != 0 {
		u.Fatalf("moat %q exited with %d: %s%s", args, found.code, found.stdout, found.stderr)
	}
	return found.stdout
}

// reading is a process whose output the test reads line by line.
type reading struct {
	*exec.Cmd
	end    *os.File // of the pipe
	stdout *bufio.Reader
}

func (u *user) reading(args ...string) *reading {
	u.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		u.Fatal(err)
	}
	defer write.Close()
	u.Cleanup(func() { read.Close() })
	if err := read.SetReadDeadline(time.Now().Add(patience)); err != nil {
		u.Fatal(err)
	}
	command := u.command(args...)
	command.Stdout = write
	return &reading{u.start(command), read, bufio.NewReader(read)}
}

// until reads the lines up to one.
func (r *reading) until(u *user, line string) {
	u.Helper()
	for got := ""; got != line+"\n"; {
		var err error
		if got, err = r.stdout.ReadString('\n'); err != nil {
			u.Fatalf("%q wrote %q, %v instead of %q; %s", r.Args, got, err, line, r.Stderr)
		}
	}
}

// await reads the next line.
func (r *reading) await(u *user, line string) {
	u.Helper()
	if got, err := r.stdout.ReadString('\n'); got != line+"\n" {
		u.Fatalf("%q wrote %q, %v; want %q; %s", r.Args, got, err, line, r.Stderr)
	}
}

// eventually waits for a state of which there is no event.
func (u *user) eventually(what string, holds func() bool) {
	u.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			u.Fatalf("still not so: %s", what)
		}
	}
}

func want[T comparable](u *user, what string, got, want T) {
	u.Helper()
	if got != want {
		u.Errorf("%s: got %#v, want %#v", what, got, want)
	}
}

// wantText checks for texts that a person needs.
func wantText(u *user, where string, texts ...string) {
	u.Helper()
	for _, text := range texts {
		if !strings.Contains(where, text) {
			u.Errorf("%q is missing from %q", text, where)
		}
	}
}

// cleaned cleans, and returns what of runs that was. Adapters' own containers belong to
// none: the next clean removes those that other tests have done with.
func (u *user) cleaned() []map[string]any {
	u.Helper()
	return slices.DeleteFunc(u.rows("clean", "--json"), func(row map[string]any) bool {
		return row["role"] == core.RoleAdapter
	})
}

// rows reads what a command prints with --json: one array of objects, with keys in
// lower case and whole IDs.
func (u *user) rows(args ...string) []map[string]any {
	u.Helper()
	var rows []map[string]any
	out := u.must(args...)
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		u.Fatalf("moat %q printed %q: %v", args, out, err)
	}
	for _, row := range rows {
		u.checkRow(args, row)
	}
	return rows
}

var wholeID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{64}$`)

func (u *user) checkRow(args []string, row map[string]any) {
	u.Helper()
	for key, value := range row {
		if key != strings.ToLower(key) {
			u.Errorf("moat %q: key %q", args, key)
		}
		if key == "id" && !wholeID.MatchString(fmt.Sprint(value)) {
			u.Errorf("moat %q: id %q", args, value)
		}
		if inner, ok := value.(map[string]any); ok {
			u.checkRow(args, inner)
		}
	}
}

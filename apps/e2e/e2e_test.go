// Package e2e runs the moat binary against a real engine, as a person would.
package e2e

import (
	"bufio"
	"bytes"
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
)

const (
	image = "moat/test-base"

	// patience is how long may take what should come soon.
	patience = time.Minute
)

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
	build := exec.Command("go", "build", "-o", binary, "../cmd/moat")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %s", err, out)
		return 1
	}
	return m.Run()
}

// user is somebody with a home of their own, whose containers carry a label of their own.
type user struct {
	*testing.T
	engine string
	home   string
	label  string
	env    []string // more of it
}

// newUser skips, or fails where CI requires it, when there is no engine. What the user
// leaves on the engine fails the test.
func newUser(t *testing.T) *user {
	t.Helper()
	engine := os.Getenv("MOAT_TEST_ENGINE")
	if engine == "" {
		if slices.Contains(strings.Split(os.Getenv("CONTRACT_REQUIRED"), ","), "docker") {
			t.Fatal("docker is required by CONTRACT_REQUIRED, and MOAT_TEST_ENGINE is not set")
		}
		t.Skip("MOAT_TEST_ENGINE is not set: make setup starts an engine")
	}
	u := &user{T: t, engine: engine, home: t.TempDir(), label: fmt.Sprintf("e2e=%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), os.Getpid())}
	t.Cleanup(func() {
		if left := u.left(); left != "" {
			t.Errorf("left on the engine: %s", left)
			u.docker(append([]string{"rm", "-f"}, strings.Fields(u.docker("ps", "-aq", "--filter", "label="+u.label))...)...)
		}
	})
	return u
}

// left lists the user's containers, whatever their state.
func (u *user) left() string {
	return u.docker("ps", "-a", "--filter", "label="+u.label, "--format", "{{.Names}} {{.Status}}")
}

// docker asks the engine past moat.
func (u *user) docker(args ...string) string {
	u.Helper()
	command := exec.Command("docker", append([]string{"-H", u.engine}, args...)...)
	out, err := command.CombinedOutput()
	if err != nil {
		u.Fatalf("docker %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// command is a moat process that has not been started.
func (u *user) command(args ...string) *exec.Cmd {
	command := exec.CommandContext(u.Context(), binary, args...)
	command.Dir = u.home
	command.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + u.home, "TMPDIR=" + u.home, "XDG_RUNTIME_DIR=" + u.home, "XDG_CACHE_HOME=" + u.home,
		"DOCKER_HOST=" + u.engine,
	}, u.env...)
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

func (u *user) finish(command *exec.Cmd) outcome {
	u.Helper()
	err := command.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		u.Fatalf("%q: %v", command.Args, err)
	} else if ok && exit.Sys().(syscall.WaitStatus).Signaled() {
		u.Fatalf("%q died: %v", command.Args, err)
	}
	found := outcome{code: command.ProcessState.ExitCode()}
	if out, ok := command.Stdout.(fmt.Stringer); ok {
		found.stdout = out.String()
	}
	found.stderr = command.Stderr.(fmt.Stringer).String()
	return found
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

// eventually waits for a state of the engine's, of which it has no event for us.
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

func TestExitCodes(t *testing.T) {
	for _, sandbox := range []string{"--no-sandbox=true", "--no-sandbox=false"} {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			for _, test := range []struct {
				code   int
				stderr string
				args   []string
			}{
				{0, "", []string{image, "true"}},
				{7, "", []string{image, "sh", "-c", "exit 7"}},
				{137, "", []string{image, "sh", "-c", "sh -c 'kill -9 $PPID' & wait; kill -9 $$; exit 137"}},
				{126, "/etc/passwd", []string{image, "/etc/passwd"}},
				{127, "no-such-program", []string{image, "no-such-program"}},
				{125, "moat/absent", []string{"--pull", "never", "moat/absent", "true"}},
				{125, "-x", []string{"-x", image}},
				{125, "-m", []string{"-m", "lots", image}},
				{125, "Pull", []string{"--pull", "sometimes", image}},
				{125, "/nonexistent/source", []string{"-v", "/nonexistent/source:/mnt", image, "true"}},
				{125, "no-such-network", []string{"--network", "no-such-network", image, "true"}},
				{125, "needs -d", []string{"--json", image, "true"}},
			} {
				found := u.run(append([]string{sandbox, "--rm"}, test.args...)...)
				want(u, fmt.Sprintf("the exit status of %q (%s)", test.args, found.stderr), found.code, test.code)
				if test.stderr == "" && strings.Contains(found.stderr, "moat:") {
					u.Errorf("%q: %s", test.args, found.stderr)
				}
				wantText(u, found.stderr, test.stderr)
			}
		})
	}
}

func TestOutput(t *testing.T) {
	u := newUser(t)
	found := u.run("--rm", image, "sh", "-c", "echo out; echo err >&2")
	want(u, "stdout", found.stdout, "out\n")
	want(u, "stderr", found.stderr, "err\n")

	found = u.run("--rm", "--no-sandbox", image, "sh", "-c", "yes 0123456789abcde | head -n 65536")
	if found.stdout != strings.Repeat("0123456789abcde\n", 65536) {
		u.Errorf("a megabyte came out as %d bytes, exit status %d, %s", len(found.stdout), found.code, found.stderr)
	}
	for range 20 {
		want(u, "a single line", u.run("--rm", "--no-sandbox", image, "echo", "line").stdout, "line\n")
	}
}

// A foreground run whose workload has said that it is ready.
type foreground struct {
	*exec.Cmd
	stdout *bufio.Reader
}

func (u *user) running(args ...string) *foreground {
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
	command := u.command(u.labelled(args...)...)
	command.Stdout = write
	f := &foreground{u.start(command), bufio.NewReader(read)}
	f.await(u, "ready")
	return f
}

// await reads the workload's next line.
func (f *foreground) await(u *user, line string) {
	u.Helper()
	if got, err := f.stdout.ReadString('\n'); got != line+"\n" {
		u.Fatalf("%q wrote %q, %v; want %q; %s", f.Args, got, err, line, f.Stderr)
	}
}

func TestSignals(t *testing.T) {
	for name, test := range map[string]struct {
		trap   string
		signal syscall.Signal
		times  int
		code   int
	}{
		"Ctrl-C":                  {"trap 'exit 130' INT", syscall.SIGINT, 1, 130},
		"the third Ctrl-C kills":  {"trap 'echo again' INT", syscall.SIGINT, 3, 137},
		"SIGTERM":                 {"trap 'exit 15' TERM", syscall.SIGTERM, 1, 15},
		"a terminal that is gone": {"trap 'exit 1' HUP", syscall.SIGHUP, 1, 1},
		"SIGUSR1":                 {"trap 'exit 10' USR1", syscall.SIGUSR1, 1, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUser(t)
			command := u.running("--rm", "--no-sandbox", image, "sh", "-c", test.trap+"; echo ready; while :; do sleep 0.1; done")
			for i := range test.times {
				if i > 0 {
					command.await(u, "again")
				}
				if err := command.Process.Signal(test.signal); err != nil {
					u.Fatal(err)
				}
			}
			want(u, "the exit status", u.finish(command.Cmd).code, test.code)
			want(u, "what is left", u.left(), "")
		})
	}
}

// TestInterruptedAnywhere interrupts a run at moments from its first to its last.
func TestInterruptedAnywhere(t *testing.T) {
	u := newUser(t)
	for moment := time.Duration(0); moment < 1200*time.Millisecond; moment += 60 * time.Millisecond {
		command := u.start(u.command(u.labelled("--rm", "--no-sandbox", image, "sleep", "0.5")...))
		time.AfterFunc(moment, func() { _ = command.Process.Signal(syscall.SIGINT) })
		err := command.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(syscall.WaitStatus).Signaled() && moment > 300*time.Millisecond {
			u.Errorf("interrupted after %s it died: %v", moment, err)
		}
		if left := u.left(); left != "" {
			u.Errorf("interrupted after %s it left %s", moment, left)
			u.docker("rm", "-f", strings.Fields(left)[0])
		}
	}
}

func TestReaderThatIsGone(t *testing.T) {
	u := newUser(t)
	command := u.command()
	line := strings.Join(append([]string{binary}, u.labelled("--rm", "--no-sandbox", image, "yes", "|", "head", "-n", "1")...), " ")
	command.Path, command.Args = "/bin/sh", []string{"sh", "-c", line}
	want(u, "what head got", u.finish(u.start(command)).stdout, "y\n")
	// The shell waits for head alone, or for both.
	u.eventually("nothing is left", func() bool { return u.left() == "" })
}

func TestNameTaken(t *testing.T) {
	u := newUser(t)
	name := fmt.Sprintf("e2e-name-%d", os.Getpid())
	u.must(u.labelled("-d", "--no-sandbox", "--name", name, image, "sleep", "1000")...)
	found := u.run("--rm", "--no-sandbox", "--name", name, image, "true")
	want(u, "the exit status", found.code, 125)
	wantText(u, found.stderr, name, "already exists")
	want(u, "the first one's state", u.docker("inspect", "-f", "{{.State.Status}}", name), "running")
	want(u, "rm", u.must("rm", "-f", name), name+"\n")
}

func TestSeveralAtOnce(t *testing.T) {
	u := newUser(t)
	var commands []*exec.Cmd
	for i := range 6 {
		commands = append(commands, u.start(u.command(u.labelled("--rm", "--no-sandbox", image, "sh", "-c", fmt.Sprintf("echo %d; exit %[1]d", i))...)))
	}
	for i, command := range commands {
		found := u.finish(command)
		want(u, "exit status", found.code, i)
		want(u, "output", found.stdout, fmt.Sprintf("%d\n", i))
	}
}

// TestKilled ends the CLI as nothing can be caught, and cleans up after it.
func TestKilled(t *testing.T) {
	u := newUser(t)
	stranger := u.docker("run", "-d", "--label", u.label, image, "true")
	defer u.docker("rm", "-f", stranger)
	live := u.running("--rm", "--no-sandbox", image, "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done")
	killed := u.running("--rm", "--no-sandbox", "--name", fmt.Sprintf("e2e-killed-%d", os.Getpid()), image, "sh", "-c", "echo ready; sleep 1")
	name := killed.Args[slices.Index(killed.Args, "--name")+1]
	_ = killed.Process.Kill()
	_ = killed.Wait()
	u.eventually("the workload has ended", func() bool {
		return u.docker("inspect", "-f", "{{.State.Status}}", name) == "exited"
	})

	wantText(u, u.must("clean", "--dry-run"), name, "its run is over")
	want(u, "dry runs remove", u.docker("inspect", "-f", "{{.Name}}", name), "/"+name)
	wantText(u, u.must("clean"), name)
	if strings.Contains(u.left(), name) {
		u.Errorf("%s is still there after moat clean", name)
	}
	want(u, "a stranger's container", u.docker("inspect", "-f", "{{.Id}}", stranger), stranger)
	_ = live.Process.Signal(syscall.SIGTERM)
	want(u, "the live run", u.finish(live.Cmd).code, 0)
}

// rows reads what a command prints with --json: one array of objects with keys in
// lower case.
func (u *user) rows(args ...string) []map[string]any {
	u.Helper()
	var rows []map[string]any
	out := u.must(args...)
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		u.Fatalf("moat %q printed %q: %v", args, out, err)
	}
	for _, row := range rows {
		for key := range row {
			if key != strings.ToLower(key) {
				u.Errorf("moat %q: key %q", args, key)
			}
		}
	}
	return rows
}

var wholeID = regexp.MustCompile(`^[0-9a-f]{64}$`)

func TestLifeInTheBackground(t *testing.T) {
	u := newUser(t)
	name := fmt.Sprintf("e2e-life-%d", os.Getpid())
	started := u.rows(u.labelled("-d", "--json", "--no-sandbox", "--name", name, image, "sh", "-c",
		"echo one; echo two; echo three >&2; trap 'exit 5' TERM; while :; do sleep 0.1; done")...)
	id, _ := started[0]["id"].(string)
	if !wholeID.MatchString(id) || started[0]["name"] != name {
		u.Fatalf("started: %v", started)
	}
	u.eventually("three lines are logged", func() bool { return strings.Count(u.must("logs", "--json", name), `"line"`) == 3 })
	for _, reference := range []string{name, id, id[:10]} {
		found := u.moat("logs", reference)
		want(u, "stdout by "+reference, found.stdout, "one\ntwo\n")
		want(u, "stderr by "+reference, found.stderr, "three\n")
	}
	want(u, "--tail", len(u.rows("logs", "--json", "--tail", "2", name)), 2)
	wantText(u, u.must("ps"), name, id[:12], "running")
	inspected := u.rows("inspect", name)
	if len(inspected) != 1 || inspected[0]["id"] != id || inspected[0]["status"] != "running" {
		u.Errorf("inspect: %v", inspected)
	}
	listed := u.rows("ps", "--json")
	if !slices.ContainsFunc(listed, func(row map[string]any) bool { return row["id"] == id && row["status"] == "running" }) {
		u.Errorf("ps --json: %v", listed)
	}

	following := u.start(u.command("logs", "-f", name))
	waiting := u.start(u.command("wait", "--json", name))
	refused := u.moat("rm", name)
	want(u, "rm of what runs", refused.code, 1)
	wantText(u, refused.stderr, name, "-f")
	want(u, "stop", u.must("stop", "-t", "20", name), name+"\n")
	want(u, "the end of logs -f", u.finish(following).stdout, "one\ntwo\n")
	wantText(u, u.finish(waiting).stdout, `"exitcode": 5`, id)
	want(u, "wait after the end", u.must("wait", name), "5\n")
	if strings.Contains(u.must("ps"), name) || !strings.Contains(u.must("ps", "-a"), name) {
		u.Error("what has exited belongs to ps -a alone")
	}
	want(u, "rm", u.must("rm", id[:10]), name+"\n")

	for _, args := range [][]string{{"inspect"}, {"logs"}, {"wait"}, {"stop"}, {"rm"}} {
		missing := u.moat(append(args, "no-such-container")...)
		want(u, args[0]+" of what is missing", missing.code, 1)
		wantText(u, missing.stderr, "no-such-container", "not found", "moat ps -a")
	}
}

func TestSettings(t *testing.T) {
	u := newUser(t)
	if err := os.WriteFile(filepath.Join(u.home, "vars"), []byte("# comment\nFROM_FILE=file\nFROM_BOTH=file\n"), 0o600); err != nil {
		u.Fatal(err)
	}
	u.env = append(u.env, "PASSED_ON=passed")
	for _, test := range []struct {
		args   []string
		script string
		want   string
	}{
		{[]string{"-e", "A=a b", "-e", "PASSED_ON", "--env-file", "vars", "-e", "FROM_BOTH=flag"}, `echo "$A $PASSED_ON $FROM_FILE $FROM_BOTH"`, "a b passed file flag\n"},
		{[]string{"-v", "./vars:/vars:ro"}, "grep FROM_FILE /vars; echo x 2>/dev/null >/vars || echo refused", "FROM_FILE=file\nrefused\n"},
		{[]string{"-w", "/made"}, "pwd", "/made\n"},
		{[]string{"-u", "1234:5678", "--group-add", "4321"}, "id -u; id -g; id -G", "1234\n5678\n5678 4321\n"},
		{[]string{"--network", "none"}, "ls /sys/class/net 2>/dev/null || ip -o link | cut -d: -f2 | tr -d ' '", "lo\n"},
		{[]string{"--add-host", "example.test:192.0.2.7"}, "grep example.test /etc/hosts | tr '\t' ' '", "192.0.2.7 example.test\n"},
		{[]string{"--dns", "192.0.2.53"}, "cat /etc/resolv.conf | grep nameserver", "nameserver 192.0.2.53\n"},
		{[]string{"-m", "64m"}, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max", "67108864\n"},
	} {
		found := u.run(append(append([]string{"--rm", "--no-sandbox"}, test.args...), image, "sh", "-c", test.script)...)
		want(u, fmt.Sprintf("%q (%s)", test.args, found.stderr), found.stdout, test.want)
	}
}

func TestImages(t *testing.T) {
	u := newUser(t)
	const pulled = "127.0.0.1:5000/moat/test-pull:latest"
	defer u.moat("rmi", pulled)
	u.must("rmi", pulled)
	found := u.moat("pull", pulled)
	want(u, "the exit status of pull", found.code, 0)
	want(u, "the output of pull", found.stdout, pulled+"\n")
	wantText(u, found.stderr, pulled)
	if strings.ContainsAny(found.stderr, "\r\x1b") {
		u.Errorf("pull rewrites lines where there is no terminal: %q", found.stderr)
	}
	wantText(u, u.must("images"), image)
	for _, row := range u.rows("images", "--json") {
		if id, _ := row["id"].(string); !wholeID.MatchString(strings.TrimPrefix(id, "sha256:")) {
			u.Errorf("images --json: %v", row)
		}
	}
	want(u, "rmi", u.rows("rmi", "--json", pulled)[0]["image"], any(pulled))
	absent := u.moat("pull", "127.0.0.1:5000/moat/absent:latest")
	want(u, "the exit status of a pull of nothing", absent.code, 1)
	wantText(u, absent.stderr, "127.0.0.1:5000/moat/absent:latest", "not found")
}

func TestWithoutAnEngine(t *testing.T) {
	u := newUser(t)
	u.engine = "unix://" + filepath.Join(u.home, "nobody.sock")
	for _, args := range [][]string{{"--version"}, {"version"}, {"--help"}, {"run", "--help"}, {"completion", "bash"}} {
		if out := u.must(args...); out == "" {
			u.Errorf("moat %q prints nothing", args)
		}
	}
	for _, args := range [][]string{{"run", image, "true"}, {"run", "--no-sandbox", image, "true"}, {"ps"}, {"doctor"}} {
		found := u.moat(args...)
		want(u, fmt.Sprintf("the exit status of %q", args), found.code, map[bool]int{true: 125, false: 1}[args[0] == "run"])
		wantText(u, found.stdout+found.stderr, u.engine, "DOCKER_HOST")
	}
	u.engine = os.Getenv("MOAT_TEST_ENGINE")
	wantText(u, u.must("doctor"), "docker", "gvisor")
	want(u, "an unknown runtime's exit status", u.moat("--runtime", "lxc", "ps").code, 1)
	wantText(u, u.moat("--runtime", "lxc", "ps").stderr, "lxc", "docker", "gvisor")
}

// TestWithoutPermission runs as somebody who may not use the socket.
func TestWithoutPermission(t *testing.T) {
	u := newUser(t)
	if os.Getuid() != 0 {
		t.Skip("only root can run a process as somebody else")
	}
	home, err := os.MkdirTemp("/tmp", "moat-e2e-nobody-")
	if err != nil {
		u.Fatal(err)
	}
	defer os.RemoveAll(home)
	copied := filepath.Join(home, "moat")
	data, err := os.ReadFile(binary)
	if err = errors.Join(err, os.WriteFile(copied, data, 0o755), os.Chmod(home, 0o777)); err != nil {
		u.Fatal(err)
	}
	command := u.command("run", "--no-sandbox", image, "true")
	command.Path, command.Dir = copied, home
	command.Env = []string{"HOME=" + home, "TMPDIR=" + home, "DOCKER_HOST=" + u.engine}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	found := u.finish(u.start(command))
	want(u, "the exit status", found.code, 125)
	wantText(u, found.stderr, "permission denied", "group")
}

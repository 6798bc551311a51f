package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestStreamsManyBytes(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			sent, received := sha256.New(), sha256.New()
			command := u.command(u.labelled("-i", "--rm", sandbox, image, "cat")...)
			command.Stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), 100<<20), sent)
			command.Stdout = received
			found := u.finish(u.start(command))
			want(u, "the exit status ("+found.stderr+")", found.code, 0)
			want(u, "the hash of what came back", fmt.Sprintf("%x", received.Sum(nil)), fmt.Sprintf("%x", sent.Sum(nil)))
		})
	}
}

// lives is how many containers TestStreamsShortLives starts, unless this variable says:
// CI has a thousand.
const (
	lives         = 60
	livesVariable = "MOAT_E2E_LIVES"
	atOnce        = 8
	sandboxed     = 9 // each that many
)

// TestStreamsShortLives loses no line of programs that end at once.
func TestStreamsShortLives(t *testing.T) {
	u := newUser(t)
	count := lives
	if text, set := os.LookupEnv(livesVariable); set {
		var err error
		if count, err = strconv.Atoi(text); err != nil {
			u.Fatalf("%s: %v", livesVariable, err)
		}
	}
	ways := [][]string{nil, {"-i"}, {"-t"}, {"-i", "-t"}}
	var workers sync.WaitGroup
	for first := range atOnce {
		workers.Go(func() {
			for i := first; i < count; i += atOnce {
				u.live(i, ways[i%len(ways)])
			}
		})
	}
	workers.Wait()
}

// live runs one of them.
func (u *user) live(number int, flags []string) {
	sandbox := fmt.Sprintf("--no-sandbox=%v", number%sandboxed != 0)
	args := u.labelled(slices.Concat(flags, []string{"--rm", sandbox, image, "sh", "-c", fmt.Sprintf("echo line %d; exit %d", number, number%100)})...)
	var code int
	var got string
	if slices.Contains(flags, "-i") && slices.Contains(flags, "-t") {
		p := u.sit(args...)
		code, got = p.leaves(), p.written.String()
		if number%sandboxed != 0 {
			_, got, _ = strings.Cut(got, "\n") // the warning
		}
	} else {
		command := u.start(u.command(args...))
		_ = command.Wait()
		code, got = command.ProcessState.ExitCode(), fmt.Sprint(command.Stdout)
	}
	want(u, fmt.Sprintf("%q: the exit status of %d", flags, number), code, number%100)
	want(u, fmt.Sprintf("%q: the output of %d", flags, number), strings.ReplaceAll(got, "\r\n", "\n"), fmt.Sprintf("line %d\n", number))
}

// background starts a container that does nothing, for as long as the test lasts.
func (u *user) background(flags ...string) (name string) {
	u.Helper()
	name = unique(u.T)
	u.must(u.labelled(slices.Concat([]string{"-d", "--name", name}, flags, []string{image, "sleep", "1000"})...)...)
	u.Cleanup(func() { u.docker("rm", "-f", name) })
	return name
}

// TestAttachToAPipe leaves somebody else's workload alone.
func TestAttachToAPipe(t *testing.T) {
	u := newUser(t)
	name := unique(t)
	u.must(u.labelled("-d", "--no-sandbox", "--name", name, image, "sh", "-c", "trap 'echo again' INT; while :; do echo ready; sleep 0.1; done")...)
	u.Cleanup(func() { u.docker("rm", "-f", name) })
	runs := func() {
		u.Helper()
		want(u, "its state", u.docker("inspect", "-f", "{{.State.Status}}", name), "running")
	}

	leaving := u.reading("attach", name)
	leaving.until(u, "ready")
	leaving.end.Close()
	want(u, "the exit status where nobody reads any more", u.finish(leaving.Cmd).code, 128+int(syscall.SIGPIPE))
	runs()

	stubborn := u.reading("attach", name)
	stubborn.until(u, "ready")
	for range 2 {
		u.signal(stubborn.Cmd, syscall.SIGINT)
		stubborn.until(u, "again")
	}
	u.signal(stubborn.Cmd, syscall.SIGINT)
	want(u, "the exit status after the third Ctrl-C", u.finish(stubborn.Cmd).code, 130)
	runs()
}

// TestAttachUntilTheEnd wants the exit status of what is removed as soon as it has one.
func TestAttachUntilTheEnd(t *testing.T) {
	u := newUser(t)
	name := unique(t)
	u.must(u.labelled("-di", "--rm", "--no-sandbox", "--name", name, image, "sh", "-c", "read line; exit 7")...)
	gate := u.gate("POST .*/wait$", false)
	command := u.command("attach", "--no-sandbox", name)
	command.Stdin = strings.NewReader("\n")
	attached := u.start(command)
	gate.await(u)
	u.eventually("it is removed", func() bool { return u.left() == "" })
	gate.pass()
	found := u.finish(attached)
	want(u, "the exit status ("+found.stderr+")", found.code, 7)
}

func TestAttachWithoutTerminal(t *testing.T) {
	u := newUser(t)
	name := unique(t)
	u.must(u.labelled("-dit", "--no-sandbox", "--name", name, image, "sh", "-c", "while :; do echo ready; sleep 0.1; done")...)
	u.Cleanup(func() { u.docker("rm", "-f", name) })
	found := u.moat("attach", name)
	want(u, "the exit status", found.code, 1)
	wantText(u, found.stderr, "not a terminal", "--no-stdin")
	watching := u.reading("attach", "--no-stdin", name)
	watching.until(u, "ready\r")
	u.must("stop", "-t", "0", name)
	want(u, "the exit status of what is stopped meanwhile", u.finish(watching.Cmd).code, 137)
	found = u.moat("attach", "--no-stdin", name)
	want(u, "the exit status of attach to what is stopped", found.code, 1)
	wantText(u, found.stderr, "not running")
}

func TestExec(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			name := u.background(sandbox)
			for _, test := range []struct {
				code           int
				stdout, stderr string
				flags, program []string
			}{
				{0, "out\n", "err\n", nil, []string{"sh", "-c", "echo out; echo err >&2"}},
				{7, "", "", nil, []string{"sh", "-c", "exit 7"}},
				{126, "", "/etc/passwd", nil, []string{"/etc/passwd"}},
				{127, "", "no-such-program", nil, []string{"no-such-program"}},
				{0, "a /tmp\n", "", []string{"-e", "A=a", "-w", "/tmp"}, []string{"sh", "-c", "echo $A $PWD"}},
				{1, "", "not a terminal", []string{"-it"}, []string{"true"}},
			} {
				found := u.moat(slices.Concat([]string{"exec"}, test.flags, []string{name}, test.program)...)
				want(u, fmt.Sprintf("the exit status of %q (%s)", test.program, found.stderr), found.code, test.code)
				want(u, fmt.Sprintf("the output of %q", test.program), found.stdout, test.stdout)
				wantText(u, found.stderr, test.stderr)
			}
			want(u, "the exit status of a program that is only started", u.moat("exec", "-d", name, "sleep", "1000").code, 0)
			for code, program := range map[int]string{127: "no-such-program", 126: "/etc/passwd"} {
				found := u.moat("exec", "-d", name, program)
				want(u, fmt.Sprintf("the exit status of exec -d %s (%s)", program, found.stderr), found.code, code)
				p := u.sit("exec", "-it", name, program)
				want(u, "the exit status of exec -it "+program, p.leaves(), code)
				wantText(u, p.written.String(), program)
			}
			command := u.command("exec", "-i", name, "wc", "-c")
			command.Stdin = io.LimitReader(rand.NewChaCha8([32]byte{}), 1<<20)
			want(u, "the output with input", u.finish(u.start(command)).stdout, fmt.Sprintln(1<<20))
		})
	}
}

// TestCopy makes copies that docker makes in another way, or that fail.
func TestCopy(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			name := u.background(sandbox, "--cap-add", "MKNOD")
			u.shell("cd $0 && mkdir folder && echo leaf >folder/leaf && echo file >file && mkfifo fifo", u.home)
			u.must("exec", name, "sh", "-c", "cd /tmp && mknod device c 1 3 || mkfifo device; mkdir set && echo 1 >set/uid && chmod 6755 set/uid && ln -s ../../.. set/up && echo there >there")

			command := u.command("cp", "-", name+":/tmp")
			command.Stdin = strings.NewReader(u.must("cp", name+":/tmp/there", "-"))
			u.must("exec", name, "rm", "/tmp/there")
			want(u, "the exit status of an archive's copy", u.finish(u.start(command)).code, 0)
			want(u, "what an archive brought", u.must("exec", name, "cat", "/tmp/there"), "there\n")
			u.must("cp", "folder", name+":.")
			u.must("cp", "file", name+":/.")
			want(u, "what the root has", u.must("exec", name, "cat", "/folder/leaf", "/file"), "leaf\nfile\n")
			u.must("cp", name+":/tmp/set", ".")
			want(u, "what is not lent", u.shell("cd $0/set && stat -c '%a' uid && readlink up", u.home), "755\n../../..\n")

			for _, test := range []struct {
				from, to string
				texts    []string
			}{
				{name + ":/tmp/device", "device", []string{"device"}},
				{name + ":/tmp", "all", []string{"device"}},
				{name + ":/file", "fifo", []string{"fifo", "not a file or a directory"}},
				{"file", name + ":/tmp/device", []string{"device", "not a file or a directory"}},
				{"fifo", name + ":/tmp", []string{"fifo"}},
				{"file", "folder", []string{"CONTAINER:PATH"}},
				{"-", name + ":/absent", []string{"/absent", "not found"}},
			} {
				found := u.moat("cp", test.from, test.to)
				want(u, fmt.Sprintf("the exit status of cp %q %q", test.from, test.to), found.code, 1)
				wantText(u, found.stderr, test.texts...)
			}
			want(u, "what is here", u.shell("cd $0 && test ! -e device && test ! -e all/device && test ! -e all/tmp && test -p fifo && echo so", u.home), "so\n")
			want(u, "what is there", u.must("exec", name, "sh", "-c", "test ! -f /tmp/device && test ! -e /tmp/fifo && echo so"), "so\n")
		})
	}
}

// TestCopyByNobody is about what root may do whatever a file's mode says.
func TestCopyByNobody(t *testing.T) {
	u := newUser(t)
	name := u.background("--no-sandbox")
	u.must("exec", name, "sh", "-c", "cd /tmp && mkdir -p closed/inner && echo 1 >closed/inner/leaf && echo 2 >closed/-leaf && chmod 555 closed/inner && chmod 444 closed")
	u.becomeNobody()
	u.shell("cd $0 && mkdir folder && echo >folder/secret && chmod 600 folder/secret", u.home)
	found := u.moat("cp", "folder", name+":/tmp")
	want(u, "the exit status of a copy without a file", found.code, 1)
	wantText(u, found.stderr, "folder/secret", "permission denied")
	u.must("cp", name+":/tmp/closed", ".")
	want(u, "what is here", u.shell("cd $0/closed && cat inner/leaf ./-leaf && stat -c %a . inner inner/leaf", u.home), "1\n2\n444\n555\n644\n")
	u.shell("chmod -R 755 $0/closed", u.home)
}

func TestEvents(t *testing.T) {
	u := newUser(t)
	events := u.reading("events", "--json", "--since", time.Now().Format(time.RFC3339Nano))
	name := unique(t)
	want(u, "the exit status of the run", u.run("--rm", "--no-sandbox", "--name", name, image, "sh", "-c", "exit 3").code, 3)
	rows := json.NewDecoder(events.stdout)
	if _, err := rows.Token(); err != nil {
		u.Fatal(err)
	}
	var seen []string
	for !slices.Contains(seen, "removed 0") && rows.More() {
		var row map[string]any
		if err := rows.Decode(&row); err != nil {
			u.Fatalf("after %q: %v", seen, err)
		}
		if u.checkRow(events.Args, row); row["name"] == name {
			seen = append(seen, fmt.Sprint(row["type"], " ", row["exitcode"]))
		}
	}
	want(u, "the events", strings.Join(seen, ", "), "started 0, died 3, removed 0")
	u.signal(events.Cmd, syscall.SIGINT)
	for rows.More() {
		var others any
		if err := rows.Decode(&others); err != nil {
			u.Fatal(err)
		}
	}
	if end, err := rows.Token(); err != nil || end != json.Delim(']') {
		u.Errorf("the array ends with %v, %v", end, err)
	}
	want(u, "the exit status of events", u.finish(events.Cmd).code, 0)
}

func TestStats(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			name := u.background(sandbox)
			measured := u.rows("stats", "--no-stream", "--json", name)
			want(u, "how many rows", len(measured), 1)
			row := measured[0]
			want(u, "the name", row["name"], any(name))
			for _, key := range []string{"memory", "memorylimit", "pids", "cpu"} {
				if number, _ := row[key].(float64); number <= 0 {
					u.Errorf("%s is %v", key, row[key])
				}
			}
			wantText(u, u.must("stats", "--no-stream", name), "CONTAINER ID", name)
			u.must("stop", "-t", "0", name)
			found := u.moat("stats", "--no-stream", name)
			want(u, "the exit status for what is stopped", found.code, 1)
			wantText(u, found.stderr, name, "not running")
		})
	}
}

// copier is one of two command lines, with a container and a folder of its own.
type copier struct{ program, container, folder string }

// prepareCopies makes the same files in a folder, here or in a container.
const prepareCopies = `cd "$0" && mkdir -p from/inner/empty to/there && cd from && echo leaf >inner/leaf && chmod 640 inner/leaf && chmod 711 inner &&
	echo file >file && ln inner/leaf hard && ln -s inner folderlink && ln -s folderlink folderlink2 && ln -s inner/leaf link && ln -s link link2 && ln -s absent dangling &&
	cd ../to && ln -s there link && ln -s link link2 && ln -s absent dangling && echo old >old && ln -s old oldlink`

// listCopies prints all that is known of the files in a folder.
const listCopies = `cd "$0" && find . | sort | while read f; do echo "$f $(stat -c '%a %F' "$f") $(readlink "$f" || test -d "$f" || stat -c %h "$f") $(test ! -f "$f" || cat "$f")"; done`

func (u *user) copier(program, container string) copier {
	c := copier{program, container, u.TempDir()}
	u.shell(prepareCopies, c.folder)
	return c
}

// shell runs a script on this machine.
func (u *user) shell(script string, args ...string) string {
	u.Helper()
	out, err := exec.Command("sh", append([]string{"-c", script}, args...)...).CombinedOutput()
	if err != nil {
		u.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// copies tells whether a copy was made.
func (c copier) copies(u *user, flags, from, to string) bool {
	command := u.command(slices.Concat([]string{"cp"}, strings.Fields(flags), []string{
		strings.ReplaceAll(from, "CONTAINER", c.container), strings.ReplaceAll(to, "CONTAINER", c.container),
	})...)
	if c.program != binary {
		command.Args[0] = c.program
		command.Path, command.Err = exec.LookPath(c.program)
	}
	command.Dir = c.folder
	found := u.finish(u.start(command))
	u.Logf("%v: %d %s", command.Args[1:], found.code, found.stderr)
	return found.code == 0
}

// TestCopyAsDocker makes the same copies by both command lines. A sandbox's files are
// none that docker could see: its container has no sandbox.
func TestCopyAsDocker(t *testing.T) {
	copies := []struct{ flags, from, to string }{
		{"", "from/file", "to/new"}, {"", "from/file", "to/there"}, {"", "from/file", "to/there/"}, {"", "from/file", "to/old"},
		{"", "from/file", "to/link"}, {"", "from/file", "to/link2/second"}, {"", "from/file", "to/dangling"}, {"", "from/file", "to/oldlink"},
		{"", "from/file", "to/none/"}, {"", "from/file", "to/none/file"}, {"", "from/file", "to/old/"}, {"", "from/absent", "to/there"},
		{"", "from/file/", "to/there"}, {"", "from/inner", "to/made"}, {"", "from/inner", "to/made"}, {"", "from/inner/", "to/there"},
		{"", "from/inner/.", "to/contents"}, {"", "from/inner/.", "to/there"}, {"", "from/inner", "to/old"}, {"", "from", "to/whole"},
		{"", "from/.", "to/there"}, {"", "from", "to/made/leaf"}, {"", "from/link", "to/link-itself"}, {"-L", "from/link", "to/followed"},
		{"-L", "from/link", "to/there"}, {"-L", "from/link2", "to/there"}, {"-L", "from/folderlink2", "to/made"}, {"-L", "from/folderlink", "to/followed-folder"},
		{"", "from/folderlink", "to/there"}, {"", "from/folderlink/", "to/slash"}, {"", "from/folderlink/.", "to/dot"}, {"-L", "from/dangling", "to/there"},
		{"", "from/dangling", "to/there"}, {"", "from/file", "to/there/inner"}, {"", "from/inner", "to/there/file"}, {"", "from/inner/..", "to/parent"},
	}
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			moat, docker := u.copier(binary, u.background(sandbox)), u.copier("docker", unique(t)+"-docker")
			u.docker("run", "-d", "--label", u.label, "--name", docker.container, image, "sleep", "1000")
			u.Cleanup(func() { u.docker("rm", "-f", docker.container) })
			u.must("exec", moat.container, "sh", "-c", prepareCopies, "/")
			u.docker("exec", docker.container, "sh", "-c", prepareCopies, "/")
			for _, copied := range copies {
				in, out := "CONTAINER:/"+copied.to, "CONTAINER:/"+copied.from
				want(u, fmt.Sprintf("%v in", copied), moat.copies(u, copied.flags, copied.from, in), docker.copies(u, copied.flags, copied.from, in))
				want(u, fmt.Sprintf("%v out", copied), moat.copies(u, copied.flags, out, copied.to), docker.copies(u, copied.flags, out, copied.to))
			}
			want(u, "what is here", u.shell(listCopies, moat.folder), u.shell(listCopies, docker.folder))
			want(u, "what is there", u.must("exec", moat.container, "sh", "-c", listCopies, "/to"), u.docker("exec", docker.container, "sh", "-c", listCopies, "/to")+"\n")
		})
	}
}

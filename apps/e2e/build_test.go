package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

const from = "FROM " + image + "\n"

// tag is a name for what the user builds, which is gone after the test.
func (u *user) tag() string {
	u.Helper()
	tag := "moat/e2e-" + strings.ToLower(unique(u.T)) + ":latest"
	u.Cleanup(func() {
		if u.isThere(tag) {
			u.docker("rmi", "-f", tag)
		}
	})
	return tag
}

func (u *user) isThere(tag string) bool {
	u.Helper()
	return u.imageID(tag) != ""
}

func (u *user) imageID(tag string) string {
	u.Helper()
	return u.docker("images", "-q", "--no-trunc", tag)
}

// folder makes files in a new folder of the user's.
func (u *user) folder(files map[string]string) string {
	u.Helper()
	folder := u.TempDir()
	for name, content := range files {
		u.write(filepath.Join(folder, name), content)
	}
	return folder
}

func (u *user) write(name, content string) {
	u.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		u.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		u.Fatal(err)
	}
}

// printed is what a container of an image prints.
func (u *user) printed(flag, tag string, command ...string) string {
	u.Helper()
	found := u.run(append([]string{"--rm", flag, tag}, command...)...)
	if found.code != 0 {
		u.Fatalf("%q of %s exited with %d: %s%s", command, tag, found.code, found.stdout, found.stderr)
	}
	return found.stdout
}

func TestBuild(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			tag := u.tag()
			folder := u.folder(map[string]string{
				// The tag keeps builds that run at once from sharing the step: BuildKit may show it to only one of them.
				"Dockerfile": from + "ARG A\nARG PASSED\nCOPY . /app\nRUN echo \"built $A $PASSED\" >/built # " + tag + "\nCMD [\"/app/run.sh\"]\n",
				"run.sh":     "#!/bin/sh\ncat /built /app/link; ls -A /app\n", "sub/file": "linked\n", "secret": "no", ".dockerignore": "secret\n.dockerignore\nDockerfile\n",
			})
			if err := os.Chmod(filepath.Join(folder, "run.sh"), 0o755); err != nil {
				u.Fatal(err)
			}
			if err := os.Symlink("sub/file", filepath.Join(folder, "link")); err != nil {
				u.Fatal(err)
			}
			u.env = append(u.env, "PASSED=of the environment")
			found := u.moat("build", sandbox, "-t", tag, "--build-arg", "A=an argument", "--build-arg", "PASSED", "--label", "of=e2e", folder)
			want(u, "the exit status ("+found.stderr+")", found.code, 0)
			want(u, "what is printed", found.stdout, tag+"\n")
			wantText(u, found.stderr, "#1 ", "RUN echo", " done\n")
			if strings.ContainsAny(found.stderr, "\r\x1b") {
				u.Errorf("lines are rewritten where there is no terminal: %q", found.stderr)
			}
			want(u, "what it runs", u.printed(sandbox, tag), "built an argument of the environment\nlinked\nlink\nrun.sh\nsub\n")
			want(u, "where the link leads", u.printed(sandbox, tag, "readlink", "/app/link"), "sub/file\n")
			want(u, "its labels", u.docker("inspect", "-f", `{{index .Config.Labels "of"}} {{index .Config.Labels "moat.managed"}}`, tag), "e2e true")
			wantText(u, u.must("images"), tag)

			want(u, "with --json", u.rows("build", sandbox, "--json", "-q", "-t", tag, folder)[0]["image"], any(tag))
		})
	}
}

func TestBuildHere(t *testing.T) {
	u := newUser(t)
	tag := u.tag()
	u.home = filepath.Join(u.home, strings.TrimSuffix(strings.TrimPrefix(tag, "moat/"), ":latest"))
	u.write(filepath.Join(u.home, "Dockerfile"), from)
	found := u.moat("build", "--no-sandbox", "-q")
	want(u, "the exit status", found.code, 0)
	want(u, "what is told with -q", found.stderr, "")
	want(u, "the tag after the folder", found.stdout, tag+"\n")
	want(u, "the image is there", u.isThere(tag), true)
}

func TestBuildFromStdin(t *testing.T) {
	u := newUser(t)
	tag, folder := u.tag(), u.folder(map[string]string{"file": "of the context\n"})
	for _, test := range []struct{ args, dockerfile, file string }{
		{"-", "RUN echo without >/file", "without\n"},
		{"-f - " + folder, "COPY file /file", "of the context\n"},
	} {
		command := u.command(append([]string{"build", "--no-sandbox", "-t", tag}, strings.Fields(test.args)...)...)
		command.Stdin = strings.NewReader(from + test.dockerfile)
		found := u.finish(u.start(command))
		want(u, "the exit status ("+found.stderr+")", found.code, 0)
		want(u, "what is built", u.printed("--no-sandbox", tag, "cat", "/file"), test.file)
	}
}

func TestBuildFails(t *testing.T) {
	for name, test := range map[string]struct {
		dockerfile string
		texts      []string
	}{
		"a step fails":        {from + "\nRUN echo before; echo oops >&2; exit 7\n", []string{"line 3", "RUN echo before", "oops", "7"}},
		"no instruction":      {from + "FROBNICATE x\n", []string{"line 2", "FROBNICATE"}},
		"empty":               {"", []string{"Dockerfile"}},
		"nothing to copy":     {from + "COPY absent /x\n", []string{"line 2", "absent"}},
		"a file outside":      {from + "COPY ../secret /x\n", []string{"line 2", "secret"}},
		"no image to go from": {"FROM 127.0.0.1:5000/moat/absent\n", []string{"127.0.0.1:5000/moat/absent", "not found"}},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			tag, folder := u.tag(), u.folder(map[string]string{"context/Dockerfile": from, "context/x": "y", "secret": "s"})
			folder = filepath.Join(folder, "context")
			u.must("build", "--no-sandbox", "-t", tag, folder)
			before := u.imageID(tag)
			u.write(filepath.Join(folder, "Dockerfile"), test.dockerfile)
			for _, flag := range []string{"--progress=plain", "--quiet"} {
				found := u.moat("build", "--no-sandbox", flag, "-t", tag, folder)
				want(u, "the exit status", found.code, 1)
				want(u, "what is printed", found.stdout, "")
				wantText(u, found.stderr, test.texts...)
				if told := strings.Count(found.stderr, "\noops") + strings.Count(found.stderr, "| oops"); name == "a step fails" && told != 1 {
					u.Errorf("the output is told %d times: %s", told, found.stderr)
				}
				want(u, "the image with the tag", u.imageID(tag), before)
			}
		})
	}
}

func TestBuildNoCache(t *testing.T) {
	u := newUser(t)
	tag, folder := u.tag(), u.folder(map[string]string{"Dockerfile": from + "RUN cat /proc/sys/kernel/random/uuid >/id\n"})
	build := func(flags ...string) (id, progress string) {
		u.Helper()
		found := u.moat(append([]string{"build", "--no-sandbox", "-t", tag, folder}, flags...)...)
		want(u, "the exit status", found.code, 0)
		return u.printed("--no-sandbox", tag, "cat", "/id"), found.stderr
	}
	first, _ := build("--no-cache")
	again, progress := build()
	want(u, "what has not changed", again, first)
	wantText(u, progress, " cached\n")
	if anew, _ := build("--no-cache"); anew == first {
		u.Error("--no-cache reuses a step")
	}
}

func TestBuildLarge(t *testing.T) {
	const size = 100 << 20
	u := newUser(t)
	tag, folder := u.tag(), u.folder(map[string]string{"Dockerfile": from + "COPY large /large\n"})
	file, err := os.Create(filepath.Join(folder, "large"))
	if err != nil {
		u.Fatal(err)
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(file, sum), rand.NewChaCha8([32]byte{}), size); err != nil {
		u.Fatal(err)
	}
	found := u.moat("build", "--no-sandbox", "-t", tag, folder)
	want(u, "the exit status ("+found.stderr+")", found.code, 0)
	wantText(u, u.printed("--no-sandbox", tag, "sha256sum", "/large"), hex.EncodeToString(sum.Sum(nil)))
}

func TestBuildsAtOnce(t *testing.T) {
	u := newUser(t)
	var builds []*exec.Cmd
	tag := u.tag()
	names := map[string]string{tag: "one", strings.Replace(tag, ":latest", ":other", 1): "other"}
	for tag, name := range names {
		folder := u.folder(map[string]string{"Dockerfile": from + "COPY name /name\nRUN cat /name\n", "name": name + "\n"})
		builds = append(builds, u.start(u.command("build", "--no-sandbox", "--no-cache", "-t", tag, folder)))
		defer u.moat("rmi", tag)
	}
	for _, build := range builds {
		found := u.finish(build)
		want(u, "the exit status ("+found.stderr+")", found.code, 0)
	}
	for tag, name := range names {
		want(u, tag, u.printed("--no-sandbox", tag, "cat", "/name"), name+"\n")
	}
}

// TestBuildInterrupted ends builds in the middle of a step.
func TestBuildInterrupted(t *testing.T) {
	for name, test := range map[string]struct {
		flag      string
		interrupt func(*person)
		code      int
	}{
		"Ctrl-C":           {"--progress=auto", func(p *person) { p.types("\x03") }, 130},
		"Ctrl-C at plain":  {"--progress=plain", func(p *person) { p.types("\x03") }, 130},
		"SIGTERM":          {"--progress=auto", func(p *person) { p.signal(p.Cmd, syscall.SIGTERM) }, 143},
		"SIGTERM at plain": {"--progress=plain", func(p *person) { p.signal(p.Cmd, syscall.SIGTERM) }, 143},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			// A step of each test's own: once one of several builds that share a step is interrupted,
			// BuildKit in Docker Engine 20.10 may end no build any more.
			tag := u.tag()
			folder := u.folder(map[string]string{"Dockerfile": from + "RUN echo is ready; sleep 60; : " + tag + "\n"})
			p := u.sit("build", "--no-sandbox", "--no-cache", test.flag, "-t", tag, folder)
			p.reads("| is ready")
			test.interrupt(p)
			want(u, "the exit status", p.leaves(), test.code)
			want(u, "the image is there", u.isThere(tag), false)
			if screen := strings.Join(p.looks(), "\n"); test.flag == "--progress=auto" && strings.Contains(screen, "| is ready") {
				u.Errorf("what was rewritten is still there:\n%s", screen)
			}
		})
	}
}

// TestBuildAtTerminal has progress on a terminal and the result elsewhere.
func TestBuildAtTerminal(t *testing.T) {
	u := newUser(t)
	tag, folder := u.tag(), u.folder(map[string]string{"Dockerfile": from + `RUN printf '\033[2J\033]0;title\007\033[31mred'` + "\n"})
	keyboard, tty, err := pty.Open()
	if err != nil {
		u.Fatal(err)
	}
	defer keyboard.Close()
	command := u.command("build", "--no-sandbox", "--no-cache", "-t", tag, folder)
	var stdout bytes.Buffer
	command.Stdout, command.Stderr = &stdout, tty
	if err := command.Start(); err != nil {
		u.Fatal(err)
	}
	tty.Close()
	shown, _ := io.ReadAll(keyboard) // Linux ends it with an error
	if err := command.Wait(); err != nil {
		u.Fatalf("%v: %s", err, shown)
	}
	want(u, "the result", stdout.String(), tag+"\n")
	wantText(u, string(shown), "\x1b[J", "red\x1b[K", "done   ")
	for _, hostile := range []string{"\x1b[2J", "\x1b]", "\x1b[31m"} {
		if strings.Contains(string(shown), hostile) {
			u.Errorf("%q reaches the terminal: %q", hostile, shown)
		}
	}
	if !strings.HasSuffix(string(shown), "\x1b[K\r\n\x1b[J") {
		u.Errorf("the last line has no end: %q", shown)
	}
}

// TestContextOfOddNames has names that a shell can make, and most builders cannot carry.
func TestContextOfOddNames(t *testing.T) {
	for _, variable := range []string{engine, newest} {
		t.Run(variable, func(t *testing.T) {
			u := newUserOn(t, variable)
			tag, folder := u.tag(), u.folder(map[string]string{
				"Dockerfile": from + "# M\xfcller\nCOPY . /c\nRUN cd /c && cat ./* | sort\n", "\x01\n": "content 1\n", "back\\slash": "content 2\n",
				"*[?": "content 3\n", "\u202e": "content 4\n", strings.Repeat("l", 255): "content 5\n", "bad\xff": "content 6\n",
			})
			for _, builder := range []string{"", "MOAT_DISABLE_BUILDKIT=1"} {
				u.env = []string{builder}
				u.write(filepath.Join(folder, ".dockerignore"), "Dockerfile\n")
				refused := u.moat("build", "--no-sandbox", "-t", tag, folder)
				want(u, builder+": the exit status", refused.code, 1)
				wantText(u, refused.stderr, `"bad\xff" is not UTF-8`, "Rename it, or exclude it in .dockerignore")
				for _, pattern := range []string{"bad?", "bad\xff", "bad*"} {
					u.write(filepath.Join(folder, ".dockerignore"), "Dockerfile\n# \xff\n"+pattern+"\n")
					built := u.moat("build", "--no-sandbox", "--no-cache", "-t", tag, folder)
					want(u, fmt.Sprintf("%s: the exit status with %q ignored", builder, pattern), built.code, 0)
					wantText(u, built.stderr, "content 1", "content 2", "content 3", "content 4", "content 5")
				}
			}
		})
	}
}

// TestBuildWithoutBuilder has moat alone in a directory, and called by a link from another.
func TestBuildWithoutBuilder(t *testing.T) {
	u := newUser(t)
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(u.home, "alone")
	if err := os.WriteFile(alone, program, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(u.home, "link")
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	folder := u.folder(map[string]string{"Dockerfile": from})
	for program, want := range map[string]int{alone: 1, link: 0} {
		tag := u.tag()
		build := u.command("build", "-q", "-t", tag, folder)
		build.Path = program
		got := u.finish(u.start(build))
		if got.code != want || u.isThere(tag) != (want == 0) {
			t.Errorf("%s: got %+v, want status %d", program, got, want)
		}
		if want != 0 && !strings.Contains(got.stderr, "`make build` makes both") {
			t.Errorf("%s: no remedy in %q", program, got.stderr)
		}
	}
}

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// conformer builds moat-conform beside the other binary.
var conformer = sync.OnceValues(func() (program string, err error) {
	program = filepath.Join(filepath.Dir(binary), "moat-conform")
	build := exec.Command("go", "build", "-o", program, "./cmd/moat-conform")
	build.Dir = ".."
	build.Env = slices.Concat(os.Environ(), goCaches, []string{"CGO_ENABLED=0"})
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return program, nil
})

// conforming is a moat-conform process for the engine that has not been started. It serves the
// image to pull, so it is where the engine's 127.0.0.1 is.
func (u *user) conforming(args ...string) *exec.Cmd {
	u.Helper()
	program, err := conformer()
	if err != nil {
		u.Fatal(err)
	}
	busybox := filepath.Join(u.home, "busybox")
	id := u.docker("create", "--label", u.label, image, "true")
	u.docker("cp", id+":/bin/busybox", busybox)
	u.docker("rm", id)
	command := u.command(append([]string{"--busybox", busybox}, args...)...)
	command.Path, command.Args[0] = program, program
	if namespace := os.Getenv("MOAT_TEST_NETNS"); namespace != "" {
		command.Args = append([]string{"nsenter", "--net=" + namespace}, command.Args...)
		if command.Path, err = exec.LookPath("nsenter"); err != nil {
			u.Fatal(err)
		}
	}
	return command
}

// objects lists the containers and images of an image that moat-conform has made.
func (u *user) objects(made string) string {
	u.Helper()
	images := u.docker("images", "-q", "--filter", "reference="+strings.Replace(made, "-base:", "-*:", 1))
	if images == "" {
		return ""
	}
	return u.docker("ps", "-aq", "--filter", "ancestor="+made) + images
}

// madeImage returns the name of the image that moat-conform has made, "" where it does not say it.
func madeImage(said string) string {
	_, after, _ := strings.Cut(said, " with the image ")
	made, _, _ := strings.Cut(after, "\n")
	return made
}

// TestConform certifies an engine with nothing but the program, a BusyBox and the engine.
func TestConform(t *testing.T) {
	u := newUser(t)
	found := u.finish(u.start(u.conforming("--runtime", "docker", "--run", "RT-10_|RT-13_|RT-83_|RT-85_|RT-117_|BM-16_|CF-02_")))
	want(u, "the exit status", found.code, 0)
	wantText(u, strings.Join(strings.Fields(found.stdout), " "),
		"unsupported RT-117", "the engine closes stdin together with the attachment", "not run docker 6 1 0 0 ")
	made := madeImage(found.stderr)
	if !strings.HasPrefix(made, "moat/contract-") {
		t.Fatalf("it says %s", found.stderr)
	}
	want(u, "left on the engine", u.objects(made), "")

	another := u.finish(u.start(u.conforming("--runtime", "podman")))
	want(u, "the exit status for another engine", another.code, 2)
	wantText(u, another.stderr, "Docker Engine")
}

func TestConformInterrupted(t *testing.T) {
	u := newUser(t)
	command := u.conforming("--runtime", "docker", "--run", "RT-|CF-")
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stdout = new(bytes.Buffer)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(stderr)
	made := ""
	for made == "" && said.Scan() {
		made = madeImage(said.Text())
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for said.Scan() { // or the process could not go on
		}
	}()
	u.eventually("a container runs", func() bool { return u.docker("ps", "-q", "--filter", "ancestor="+made) != "" })
	u.signal(command, syscall.SIGINT)
	<-drained
	command.Stderr = new(bytes.Buffer)
	want(u, "the exit status", u.finish(command).code, 130)
	want(u, "left on the engine", u.objects(made), "")
	wantText(u, command.Stdout.(*bytes.Buffer).String(), "not run")
}

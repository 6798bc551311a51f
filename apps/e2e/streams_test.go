package e2e

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
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

// lives is how many containers TestStreamsShortLives starts, unless this variable says.
const (
	lives         = 60
	livesVariable = "MOAT_E2E_LIVES"
	atOnce        = 8
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
	args := u.labelled(slices.Concat(flags, []string{"--rm", "--no-sandbox", image, "sh", "-c", fmt.Sprintf("echo line %d; exit %d", number, number%100)})...)
	var code int
	var got string
	if slices.Contains(flags, "-i") && slices.Contains(flags, "-t") {
		p := u.sit(args...)
		code, got = p.leaves(), p.written.String()
		_, got, _ = strings.Cut(got, "\n") // the warning
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
			command := u.command("exec", "-i", name, "wc", "-c")
			command.Stdin = io.LimitReader(rand.NewChaCha8([32]byte{}), 1<<20)
			want(u, "the output with input", u.finish(u.start(command)).stdout, fmt.Sprintln(1<<20))
		})
	}
}

func TestCopy(t *testing.T) {
	u := newUser(t)
	name := u.background("--no-sandbox", "--cap-add", "MKNOD")
	at := func(path ...string) string { return filepath.Join(append([]string{u.home}, path...)...) }
	if err := os.MkdirAll(at("folder", "inner"), 0o755); err != nil {
		u.Fatal(err)
	}
	for path, text := range map[string]string{at("file"): "file", at("folder", "inner", "leaf"): "leaf"} {
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			u.Fatal(err)
		}
	}
	u.must("cp", "file", name+":/tmp/renamed")
	u.must("cp", "folder", name+":/tmp")
	want(u, "what is inside", u.must("exec", name, "sh", "-c", "cd /tmp; stat -c '%n %a' renamed; cat renamed folder/inner/leaf"), "renamed 640\nfileleaf")
	u.must("cp", name+":/tmp/renamed", "back")
	u.must("cp", name+":/tmp/folder", "copy")
	for path, text := range map[string]string{at("back"): "file", at("copy", "inner", "leaf"): "leaf"} {
		if got, err := os.ReadFile(path); string(got) != text {
			u.Errorf("%s: %q, %v", path, got, err)
		}
	}
	archive := tar.NewReader(strings.NewReader(u.must("cp", name+":/tmp/renamed", "-")))
	if header, err := archive.Next(); err != nil || header.Name != "renamed" {
		u.Errorf("the archive begins with %v, %v", header, err)
	}

	u.must("exec", name, "mknod", "/tmp/device", "c", "1", "3")
	for _, test := range []struct {
		args  []string
		texts []string
	}{
		{[]string{"absent", name + ":/tmp"}, []string{"absent"}},
		{[]string{name + ":/tmp/absent", "absent"}, []string{"/tmp/absent", "not found"}},
		{[]string{"file", name + ":/absent/folder/"}, []string{"/absent"}},
		{[]string{"folder", name + ":/tmp/renamed"}, []string{"folder", "/tmp/renamed"}},
		{[]string{name + ":/tmp/folder", "file"}, []string{"/tmp/folder", "file"}},
		{[]string{name + ":/tmp/device", "device"}, []string{"device"}},
		{[]string{name + ":/tmp", "all"}, []string{"device"}},
		{[]string{"file", "folder"}, []string{"CONTAINER:PATH"}},
	} {
		found := u.moat(append([]string{"cp"}, test.args...)...)
		want(u, fmt.Sprintf("the exit status of cp %q", test.args), found.code, 1)
		wantText(u, found.stderr, test.texts...)
	}
	for _, path := range []string{at("device"), at("all", "device"), at("all", "tmp", "device")} {
		if _, err := os.Lstat(path); err == nil {
			u.Errorf("%s was made", path)
		}
	}
	want(u, "what a folder was to replace", u.must("exec", name, "cat", "/tmp/renamed"), "file")
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
		})
	}
}

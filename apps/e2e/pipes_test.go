package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// printing are commands that print, with a running container where they need one.
func printing(container string) [][]string {
	commands := [][]string{
		{"logs", container}, {"logs", "-f", container}, {"logs", "--json", container}, {"images"}, {"images", "--json"}, {"ps"}, {"ps", "--json"},
		{"inspect", container}, {"events", "--since", "1h", container}, {"events", "--since", "1h", "--json", container},
		{"stats", container}, {"stats", "--no-stream", container}, {"stats", "--json", container}, {"doctor"}, {"doctor", "--json"},
		{"version"}, {"version", "--json"}, {"network", "ls"}, {"network", "ls", "--json"}, {"clean", "--dry-run"}, {"clean", "--dry-run", "--json"},
		{"--version"}, {"--help"}, {"help", "run"}, {"run", "--help"}, {"completion", "bash"}, {"cp", container + ":/bin", "-"},
		{"attach", "--no-stdin", container}, {"exec", container, "yes"}, {"exec", "-t", container, "yes"},
	}
	return commands
}

// chatty runs a container that goes on to write.
func (u *user) chatty() (name string) {
	u.Helper()
	name = unique(u.T)
	u.must(u.labelled("-d", "--no-sandbox", "--name", name, image, "sh", "-c", "while :; do echo tick; sleep 0.1; done")...)
	u.Cleanup(func() { u.docker("rm", "-f", name) })
	return name
}

// brokenPipe is the end to write to of a pipe that nobody reads.
func (u *user) brokenPipe() *os.File {
	u.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		u.Fatal(err)
	}
	read.Close()
	u.Cleanup(func() { write.Close() })
	return write
}

// quietly removes the warning of a run without a sandbox.
func quietly(stderr string) string {
	return strings.Join(slices.DeleteFunc(strings.SplitAfter(stderr, "\n"), func(line string) bool { return strings.HasPrefix(line, "WRN") }), "")
}

// TestReaderGone ends each command as SIGPIPE would.
func TestReaderGone(t *testing.T) {
	u := newUser(t)
	commands := printing(u.chatty())
	for _, sandbox := range sandboxes {
		for _, flags := range [][]string{{"--rm"}, {"--rm", "-t"}} {
			commands = append(commands, u.labelled(slices.Concat(flags, []string{sandbox, image, "yes"})...))
		}
	}
	commands = append(commands, u.labelled("-d", "--no-sandbox", "--name", unique(t)+"-detached", image, "true"))
	u.Cleanup(func() { u.docker("rm", "-f", unique(t)+"-detached") })
	for _, args := range commands {
		command := u.command(args...)
		command.Stdout = u.brokenPipe()
		found := u.finish(u.start(command))
		if said := quietly(found.stderr); found.code != 128+int(syscall.SIGPIPE) || said != "" {
			u.Errorf("moat %q: exit status %d, %q", args, found.code, said)
		}
	}
	want(u, "how many containers are left", len(strings.Split(u.left(), "\n")), 2)

	// It is known at the next write only, also of what both outputs share.
	both := u.command(u.labelled("--rm", "--no-sandbox", image, "sh", "-c", "echo error >&2; sleep 1000")...)
	both.Stdout = u.brokenPipe()
	both.Stderr = both.Stdout
	if err := both.Run(); both.ProcessState.ExitCode() != 128+int(syscall.SIGPIPE) {
		u.Errorf("with a shared pipe: %v", err)
	}
}

// TestFullDisk tells that the output could not be written.
func TestFullDisk(t *testing.T) {
	u := newUser(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		u.Fatal(err)
	}
	defer full.Close()
	commands := append(printing(u.chatty()), u.labelled("--rm", "--no-sandbox", image, "yes"))
	for _, args := range commands {
		status := 1
		if args[0] == "run" {
			status = 125
		}
		command := u.command(args...)
		command.Stdout = full
		found := u.finish(u.start(command))
		if found.code != status || !strings.Contains(found.stderr, "no space left on device") {
			u.Errorf("moat %q: exit status %d, %q", args, found.code, found.stderr)
		}
	}
}

// TestUnreadableInput takes the workload's exit status, whose input ends.
func TestUnreadableInput(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newServiceUser(t)
			directory, err := os.Open(u.home)
			if err != nil {
				u.Fatal(err)
			}
			defer directory.Close()
			script := []string{"sh", "-c", "cat; echo the end; exit 3"}
			name := unique(t)
			u.must(u.labelled(slices.Concat([]string{"-d", "-i", sandbox, "--name", name + "-attached", image}, script)...)...)
			u.Cleanup(func() { u.docker("rm", "-f", name+"-attached") })
			u.background(sandbox)
			for _, args := range [][]string{
				u.labelled("--rm", "-i", sandbox, image), u.labelled("--rm", "-i", sandbox, "--service", "redis:7", image),
				{"exec", "-i", name}, {"attach", name + "-attached"},
			} {
				what := fmt.Sprintf("moat %q", args)
				if args[0] != "attach" {
					args = slices.Concat(args, script)
				}
				command := u.command(args...)
				command.Stdin = directory
				found := u.finish(u.start(command))
				want(u, what+": the exit status ("+found.stderr+")", found.code, 3)
				want(u, what+": the output", found.stdout, "the end\n")
				wantText(u, found.stderr, "standard input", "is a directory")
			}
		})
	}
}

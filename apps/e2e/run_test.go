package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestExitCodes(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			for _, test := range []struct {
				code   int
				stderr string
				args   []string
			}{
				{0, "", []string{image, "true"}},
				{7, "", []string{image, "sh", "-c", "exit 7"}},
				{126, "/etc/passwd", []string{image, "/etc/passwd"}},
				{127, "no-such-program", []string{image, "no-such-program"}},
				{127, "no-such-program", []string{"-d", image, "no-such-program"}},
				{125, "moat/absent", []string{"--pull", "never", "moat/absent", "true"}},
				{125, "/nonexistent/source", []string{"-v", "/nonexistent/source:/mnt", image, "true"}},
				{125, "no-such-network", []string{"--network", "no-such-network", image, "true"}},
				{125, "-x", []string{"-x", image}},
				{125, "-m", []string{"-m", "lots", image}},
				{125, "Pull", []string{"--pull", "sometimes", image}},
				{125, "needs -d", []string{"--json", image, "true"}},
				{125, "not a terminal", []string{"-it", image, "true"}},
			} {
				found := u.run(append([]string{sandbox, "--rm"}, test.args...)...)
				want(u, fmt.Sprintf("the exit status of %q (%s)", test.args, found.stderr), found.code, test.code)
				if test.stderr == "" && strings.Contains(found.stderr, "moat:") {
					u.Errorf("%q: %s", test.args, found.stderr)
				}
				wantText(u, found.stderr, test.stderr)
			}

			name := unique(t)
			killed := u.reading(u.labelled("--rm", sandbox, "--name", name, image, "sh", "-c", "echo ready; sleep 1000")...)
			killed.await(u, "ready")
			u.docker("kill", name)
			want(u, "the exit status of a workload that is killed", u.finish(killed.Cmd).code, 137)
		})
	}
}

func TestOutput(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			const size = 1 << 20
			out, err := strings.Repeat("o", 63), strings.Repeat("e", 63)
			found := u.run("--rm", sandbox, image, "sh", "-c", fmt.Sprintf("yes %s | head -c %d; yes %s | head -c %[2]d >&2", out, size, err))
			for line, got := range map[string]string{out: found.stdout, err: strings.TrimPrefix(found.stderr, warning(found.stderr))} {
				if got != strings.Repeat(line+"\n", size/64) {
					u.Errorf("%d bytes of %q came out as %d; exit status %d", size, line[:1], len(got), found.code)
				}
			}
		})
	}
}

// warning is the line that says that there is no sandbox.
func warning(stderr string) string {
	if line, _, _ := strings.Cut(stderr, "\n"); strings.HasPrefix(line, "WRN without a sandbox") {
		return line + "\n"
	}
	return ""
}

// TestSeveralAtOnce also shows that a single line is never lost.
func TestSeveralAtOnce(t *testing.T) {
	u := newUser(t)
	for range 5 {
		var commands []*exec.Cmd
		for i := range 6 {
			script := fmt.Sprintf("echo %d; exit %[1]d", i)
			commands = append(commands, u.start(u.command(u.labelled("--rm", "--no-sandbox", image, "sh", "-c", script)...)))
		}
		for i, command := range commands {
			found := u.finish(command)
			want(u, "the exit status", found.code, i)
			want(u, "the output", found.stdout, fmt.Sprintf("%d\n", i))
		}
	}
}

func TestNameTaken(t *testing.T) {
	u := newUser(t)
	name := unique(t)
	u.must(u.labelled("-d", "--no-sandbox", "--name", name, image, "sleep", "1000")...)
	found := u.run("--rm", "--no-sandbox", "--name", name, image, "true")
	want(u, "the exit status", found.code, 125)
	wantText(u, found.stderr, name, "already exists")
	want(u, "the first one's state", u.docker("inspect", "-f", "{{.State.Status}}", name), "running")
	want(u, "rm", u.must("rm", "-f", name), name+"\n")
}

func TestReaderThatIsGone(t *testing.T) {
	for _, flag := range []string{"--rm", "-i"} {
		t.Run(flag, func(t *testing.T) {
			u := newUser(t)
			command := u.command()
			line := strings.Join(append([]string{binary}, u.labelled("--rm", flag, "--no-sandbox", image, "yes", "|", "head", "-n", "1")...), " ")
			command.Path, command.Args = "/bin/sh", []string{"sh", "-c", line}
			want(u, "what head got", u.finish(u.start(command)).stdout, "y\n")
			// Some shells wait for head alone.
			u.eventually("nothing is left", func() bool { return u.left() == "" })
			locks := filepath.Join(u.home, "moat/runs/*")
			u.eventually("moat has ended", func() bool { left, _ := filepath.Glob(locks); return left == nil })
		})
	}
}

func TestSettings(t *testing.T) {
	u := newUser(t)
	if err := os.WriteFile(filepath.Join(u.home, "vars"), []byte("# comment\nFROM_FILE=file\nFROM_BOTH=file\n"), 0o600); err != nil {
		u.Fatal(err)
	}
	u.env = append(u.env, "PASSED_ON=passed")
	hasNetRaw := "echo $(( 0x$(grep CapEff /proc/self/status | cut -f2) >> 13 & 1 ))"
	for _, test := range []struct{ args, script, want []string }{
		{
			[]string{"-e", "A=a b", "-e", "PASSED_ON", "--env-file", "vars", "-e", "FROM_BOTH=flag", "-w", "/made"},
			[]string{`echo "$A" $PASSED_ON $FROM_FILE $FROM_BOTH`, "pwd"},
			[]string{"a b passed file flag", "/made"},
		},
		{
			[]string{"-v", "./vars:/kept:ro", "-v", "./vars:/changed"},
			[]string{"grep FROM_FILE /kept", "echo x 2>/dev/null >/kept || echo refused", "echo WRITTEN=yes >>/changed"},
			[]string{"FROM_FILE=file", "refused"},
		},
		{[]string{"--env-file", "vars"}, []string{"echo $WRITTEN"}, []string{"yes"}},
		{
			[]string{"-u", "1234:5678", "--group-add", "4321"},
			[]string{"id -u", "id -g", "id -G"},
			[]string{"1234", "5678", "5678 4321"},
		},
		{
			[]string{"-m", "64m", "--cpus", "0.5", "--cap-add", "cap_net_raw"},
			[]string{
				"cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max",
				"cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max", hasNetRaw,
			},
			[]string{"67108864", "50000", "1"},
		},
		{
			[]string{"--add-host", "example.test:192.0.2.7", "--dns", "192.0.2.53"},
			[]string{"grep example.test /etc/hosts | tr '\t' ' '", "grep nameserver /etc/resolv.conf"},
			[]string{"192.0.2.7 example.test", "nameserver 192.0.2.53"},
		},
		{[]string{"--network", "none"}, []string{"ls /sys/class/net", hasNetRaw}, []string{"lo", "0"}},
	} {
		found := u.run(append(append([]string{"--rm", "--no-sandbox"}, test.args...), image, "sh", "-c", strings.Join(test.script, "\n"))...)
		want(u, fmt.Sprintf("%q (%s)", test.args, found.stderr), found.stdout, strings.Join(test.want, "\n")+"\n")
	}
}

// TestSettingsOfAServer is about those that show while a container runs.
func TestSettingsOfAServer(t *testing.T) {
	u := newUser(t)
	name := unique(t)
	u.must(u.labelled("-d", "--rm", "--no-sandbox", "--name", name, "-l", "kind=server", "--stop-timeout", "1", "-p", "8080", image,
		"sh", "-c", "trap 'echo ignored' TERM; while :; do echo served | nc -l -p 8080; done")...)
	want(u, "the label", u.docker("inspect", "-f", `{{.Config.Labels.kind}}`, name), "server")

	address := u.docker("port", name, "8080")
	wantText(u, address, "127.0.0.1:")
	u.answers(address, "served\n")

	// Without the timeout of one second it would be Moat's default of ten: the container ends by SIGKILL in any case.
	want(u, "the stop timeout", u.docker("inspect", "-f", `{{.Config.StopTimeout}}`, name), "1")
	u.must("stop", name)
	u.eventually("--rm has removed it", func() bool { return u.left() == "" })
}

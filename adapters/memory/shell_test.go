package memory_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
)

func newRuntime(t testing.TB, opts memory.Options) *memory.Runtime {
	rt := memory.New(opts)
	t.Cleanup(func() { rt.Close() })
	return rt
}

func start(t testing.TB, rt core.Runtime, cfg core.Config) string {
	t.Helper()
	if cfg.Image == "" {
		cfg.Image = memory.BaseImage
	}
	id, err := rt.CreateContainer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

// finish waits for a container and returns its code and output.
func finish(t testing.TB, rt core.Runtime, id string) (int64, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code, err := rt.WaitContainer(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	out, err := rt.ContainerLogsAll(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return code, string(out)
}

func shell(script string) core.Config { return core.Config{Cmd: []string{"sh", "-c", script}} }

func TestShell(t *testing.T) {
	tests := []struct {
		name, script string
		code         int64
		out          string
	}{
		{"missing program", "nothing-of-that-name", 127, "nothing-of-that-name: not found\n"},
		{"not executable", "/etc/passwd", 126, "passwd: permission denied\n"},
		{"pipes and loops", "seq 3 | while read n; do echo n$n; done", 0, "n1\nn2\nn3\n"},
		{"endless writer", "yes no | head -n 2", 0, "no\nno\n"},
		{"here document", "cat <<EOF\n$((1+2))\nEOF", 0, "3\n"},
		{"files", "cd /tmp; echo a >f; echo b >>f; cat <f; echo *; rm f; ls", 0, "a\nb\nf\n"},
		{"no such folder", "echo x >/none/f", 1, "open /none/f: no such file or directory\n"},
		{"dev null", "echo x >/dev/null; cat /dev/null; read x </dev/null; echo $?", 0, "1\n"},
		{"output devices", "echo a >/dev/stdout; echo b >/dev/stderr; (echo c >/dev/stderr) 2>/dev/null", 0, "a\nb\n"},
		{"a redirected file too long for a pipe", "seq 100000 >/tmp/f; head -n 1 </tmp/f", 0, "1\n"},
		{"status in a subshell", "false; (echo $?); false; x=$(echo $?); echo $x; (exit 4); echo $?", 0, "1\n1\n4\n"},
		{"subshell under set -e", "set -e; false || (echo in); false; echo no", 1, "in\n"},
		{"functions and eval", `f() { echo "f $1"; return 3; }; eval 'f "a  b"'; echo $?`, 0, "f a  b\n3\n"},
		{"sourced file", "echo 'v=sourced' >/tmp/s; . /tmp/s; echo $v", 0, "sourced\n"},
		{"script file", "printf '#!/bin/sh\\necho ran $0 $1\\n' >/tmp/s; sh /tmp/s x; sh </tmp/s", 0, "ran /tmp/s x\nran sh\n"},
		{"command -v", "command -v cat echo; command -v nothing || echo none", 0, "/bin/cat\necho\nnone\n"},
		{"syntax error", "if", 2, ""},
		{"exit trap", "trap 'echo bye $?' EXIT; exit 5", 5, "bye 5\n"},
		{"own signal", "trap 'echo got' USR1; kill -USR1 $$; echo on", 0, "got\non\n"},
		{"own signal at the end", "trap 'exit 3' TERM; kill -TERM $$", 3, ""},
		{"ignored signal", "trap '' TERM; kill $$; echo on", 0, "on\n"},
		{"default again", "trap '' TERM; trap - TERM; kill $$; echo on", 143, ""},
		{"killed by itself", "kill -9 1; echo on", 137, ""},
		{"signal from a job", "trap 'exit 3' TERM; (kill -TERM $$)& while :; do sleep 1000; done", 3, ""},
		{"wait for a job", "(exit 7) & wait $!; echo $?", 0, "7\n"},
		{"wait for all", "(echo a; exit 7) & wait; echo $?", 0, "a\n0\n"},
		{"killed job", "sleep 1000 & kill $!; wait $!; echo $?", 0, "143\n"},
		{"busy job", "while :; do :; done & kill -9 $!; wait $!; echo $?", 0, "137\n"},
		{"jobs of a subshell", "sleep 1000 & (exit 3) & (true & wait $!; echo $?); wait $!; echo $?; kill g1", 0, "0\n3\n"},
		{"no such process", "kill 4711", 1, "kill: 4711: no such process\n"},
		{"a shell of its own", "trap 'echo no' TERM; sh -c 'kill $$; echo no'; echo $?", 0, "143\n"},
		{"exec", "trap 'echo no' EXIT; exec sh -c 'echo $0; exit 6' name", 6, "name\n"},
		{"exec in a subshell", "(exec true; echo no); echo on", 0, "on\n"},
		{"env of one command", "A=1 env | grep ^A=; echo ${A-unset}", 0, "A=1\nunset\n"},
		{"the host's pipes", "TMPDIR=/tmp sh -c 'echo x >/tmp/sh-interp-0; cat /tmp/sh-interp-0; echo $TMPDIR'", 0, "x\n/tmp\n"},
		{"not the host's programs", "command -v gofmt; builtin command -v gofmt; type gofmt || echo none", 0, "none\n"},
		{"error trap", "trap 'echo failed' ERR; false; trap - ERR; false; echo on", 0, "failed\non\n"},
		{"process substitution", "cat <(echo x)", 2, "sh: process substitution is not supported\n"},
		{"process substitution in eval", "eval 'cat <(echo x)'; echo no", 2, "sh: process substitution is not supported\n"},
	}
	rt := newRuntime(t, memory.Options{})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cfg := shell(test.script)
			cfg.WorkingDir = "/tmp"
			code, out := finish(t, rt, start(t, rt, cfg))
			if code != test.code || (out != test.out && test.out != "") {
				t.Errorf("code %d and %q, want %d and %q", code, out, test.code, test.out)
			}
		})
	}
}

func TestKillEnds(t *testing.T) {
	rt := newRuntime(t, memory.Options{LogLimit: 1 << 10})
	for _, script := range []string{
		"echo ready; while :; do :; done",
		"echo ready; yes",
		"echo ready; yes | sleep 1000",
		"echo ready; yes | while :; do :; done",
		"echo ready; cat",
		"echo ready; read line",
		"echo ready; sleep 1000 | cat",
		"echo ready; cat & wait",
		"echo ready; for ((;;)); do x=1; done",
		"echo ready; until [ a = b ]; do x=$(echo y); done",
		"trap '' TERM; echo ready; sh -c 'while :; do sleep 0; done'",
	} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			cfg := shell(script)
			cfg.Interactive = true
			id := start(t, rt, cfg)
			awaitOutput(t, rt, id, "y\n") // of ready, or of yes
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := rt.StopContainerTimeout(ctx, id, 0); err != nil {
				t.Fatal(err)
			}
			if code, _ := finish(t, rt, id); code != 137 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestTrapInterrupts(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	for _, command := range []string{
		"sleep 1000", "cat", "read line", "sleep 1000 | cat", "x=$(sleep 1000)", "(sleep 1000)",
		"(while :; do sleep 1000; done)", "sleep 1000 & wait", "while :; do sleep 1000; done", "sh -c 'sleep 1000'",
	} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			cfg := shell("trap 'exit 3' TERM; echo ready; " + command)
			cfg.Interactive = true
			id := start(t, rt, cfg)
			awaitReady(t, rt, id)
			if err := rt.StopContainer(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if code, out := finish(t, rt, id); code != 3 || out != "ready\n" {
				t.Errorf("exit code %d: %s", code, out)
			}
		})
	}
}

func TestHandlerGoesOn(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	id := start(t, rt, shell(`n=0; trap 'n=$((n+1)); echo got $n' USR1; echo ready; while [ $n -lt 3 ]; do sleep 0.1 & wait; done`))
	awaitReady(t, rt, id)
	for _, want := range []string{"got 1\n", "got 2\n", "got 3\n"} {
		if err := rt.SignalContainer(t.Context(), id, 10); err != nil {
			t.Fatal(err)
		}
		awaitOutput(t, rt, id, want)
	}
	if code, out := finish(t, rt, id); code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
}

func TestDefaultSignal(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	id := start(t, rt, core.Config{Cmd: []string{"sleep", "1000"}})
	if err := rt.SignalContainer(t.Context(), id, 28); err != nil { // SIGWINCH
		t.Fatal(err)
	}
	if err := rt.SignalContainer(t.Context(), id, 19); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("SIGSTOP: %v", err)
	}
	if err := rt.StopContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if code, _ := finish(t, rt, id); code != 143 {
		t.Errorf("exit code %d", code)
	}
}

func awaitReady(t testing.TB, rt core.Runtime, id string) {
	t.Helper()
	awaitOutput(t, rt, id, "ready\n")
}

func awaitOutput(t testing.TB, rt core.Runtime, id, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := rt.ContainerLogs(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var seen strings.Builder
	for buf := make([]byte, 512); !strings.Contains(seen.String(), text); {
		n, err := stream.Read(buf)
		seen.Write(buf[:n])
		if err == io.EOF && strings.Contains(seen.String(), text) {
			return
		}
		if err != nil {
			t.Fatalf("%q, then %v", seen.String(), err)
		}
	}
}

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
		{"pipes and loops", "for n in 1 2; do echo $n; done | while read n; do echo n$n; done", 0, "n1\nn2\n"},
		{"here document", "cat <<EOF\n$((1+2))\nEOF", 0, "3\n"},
		{"files", "cd /tmp; echo a >f; echo b >>f; cat <f; echo *; ls", 0, "a\nb\nf\nf\n"},
		{"no such folder", "echo x >/none/f", 1, "open /none/f: no such file or directory\n"},
		{"dev null", "echo x >/dev/null; cat /dev/null; read x </dev/null; echo $?", 0, "1\n"},
		{"output devices", "echo a >/dev/stdout; echo b >/dev/stderr; (echo c >/dev/stderr) 2>/dev/null", 0, "a\nb\n"},
		{"status in a subshell", "false; (echo $?); false; x=$(echo $?); echo $x; (exit 4); echo $?", 0, "1\n1\n4\n"},
		{"functions and eval", `f() { echo "f $1"; return 3; }; eval 'f "a  b"'; echo $?`, 0, "f a  b\n3\n"},
		{"script file", "printf '#!/bin/sh\\necho ran $0 $1\\n' >/tmp/s; sh /tmp/s x; sh </tmp/s", 0, "ran /tmp/s x\nran sh\n"},
		{"syntax error", "if", 2, ""},
		{"exec", "exec sh -c 'echo $0; exit 6' name; echo no", 6, "name\n"},
		{"exec in a subshell", "(exec true; echo no); echo on", 0, "on\n"},
		{"env of one command", "A=1 sh -c 'echo $A'; echo ${A-unset}", 0, "1\nunset\n"},
		{"variables of this process", "echo $UID $HOME", 0, "0 /root\n"},
		{"process substitution", "cat <(echo x)", 2, "sh: process substitution is not supported\n"},
		{"background", "(sleep 1000 & echo no)", 2, "sh: commands in the background are not supported\n"},
		{"traps", "trap 'echo no' TERM; echo no", 2, "sh: trap is not supported\n"},
		{"not the host's programs", "command -v gofmt || echo no", 2, "sh: command is not supported\n"},
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
	rt := newRuntime(t, memory.Options{})
	for _, script := range []string{
		"echo ready; while :; do :; done",
		"echo ready; cat",
		"echo ready; read line",
		"echo ready; sleep 1000 | cat",
		"echo ready; for ((;;)); do x=1; done",
		"echo ready; until [ a = b ]; do x=$(echo y); done",
		"echo ready; exec sh -c 'while :; do sleep 0; done'",
	} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			cfg := shell(script)
			cfg.Interactive = true
			id := start(t, rt, cfg)
			awaitReady(t, rt, id)
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

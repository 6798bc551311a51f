package docker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

const (
	execRoute      = "POST /containers/{id}/exec"
	execStartRoute = "POST /exec/{id}/start"
	execJSONRoute  = "GET /exec/{id}/json"
)

func TestExecRequests(t *testing.T) {
	engine := startFake(t)
	var asked []container.ExecOptions
	var begun []container.ExecStartOptions
	engine.on(execRoute, recorded(&asked, usualRoutes()[execRoute]))
	engine.on(execStartRoute, func(w http.ResponseWriter, r *http.Request) {
		recorded(&begun, func(http.ResponseWriter, *http.Request) {})(w, r)
		upgraded(func(conn io.ReadWriter) {
			_, _ = conn.Write(frame(streamStdout, "out"))
			_, _ = conn.Write(frame(streamStderr, "err"))
		})(w, r)
	})
	var stdout, stderr bytes.Buffer
	opts := optional.ExecOptions{Cmd: []string{"ls", "-l"}, Env: []string{"A=1"}, WorkingDir: "/tmp", User: "1000"}
	opts.Stdout, opts.Stderr = &stdout, &stderr
	code, err := engine.runtime(t).Exec(t.Context(), testID, opts)
	if code != 3 || err != nil || stdout.String() != "out" || stderr.String() != "err" {
		t.Errorf("%d, %v, %q, %q", code, err, stdout.String(), stderr.String())
	}
	engine.wantRequests(t, "POST /containers/"+testID+"/exec", "POST /exec/"+execID+"/start", "GET /exec/"+execID+"/json")
	if a := asked[0]; strings.Join(a.Cmd, " ") != "ls -l" || a.Env[0] != "A=1" || a.WorkingDir != "/tmp" || a.User != "1000" ||
		a.Tty || a.AttachStdin || !a.AttachStdout || !a.AttachStderr || a.Privileged || begun[0].Detach || begun[0].Tty {
		t.Errorf("it asked for %+v, %+v", a, begun[0])
	}
}

func TestExecDetachedRequests(t *testing.T) {
	engine := startFake(t)
	engine.on(execStartRoute, status(http.StatusOK))
	code, err := engine.runtime(t).Exec(t.Context(), testID, optional.ExecOptions{Cmd: []string{"true"}, Detach: true})
	if code != 0 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
	engine.wantRequests(t, "POST /containers/"+testID+"/exec", "POST /exec/"+execID+"/start")
}

// showSizes has the program of an exec write the first sizes of its terminal, and exit.
func (e *fakeEngine) showSizes(times int) {
	resized := make(chan string, times)
	e.on("POST /exec/{id}/resize", func(_ http.ResponseWriter, r *http.Request) { resized <- r.URL.RawQuery })
	e.on(execStartRoute, upgraded(func(conn io.ReadWriter) {
		for range times {
			_, _ = io.WriteString(conn, <-resized+" ")
		}
	}))
}

func TestExecOnATerminal(t *testing.T) {
	engine := startFake(t)
	engine.on("/_ping", ping("1.44")) // an engine that sets the size before the start
	engine.showSizes(2)
	sizes := make(chan optional.TerminalSize, 2)
	sizes <- optional.TerminalSize{Height: 0, Width: 1} // that no terminal has
	sizes <- optional.TerminalSize{Height: 50, Width: 132}
	close(sizes)
	var screen bytes.Buffer
	opts := optional.ExecOptions{Cmd: []string{"top"}, Resize: sizes}
	opts.TTY, opts.Stdout, opts.InitialHeight, opts.InitialWidth = true, &screen, 30, 90
	if _, err := engine.runtime(t).Exec(t.Context(), testID, opts); err != nil {
		t.Fatal(err)
	}
	if screen.String() != "h=30&w=90 h=50&w=132 " {
		t.Errorf("the terminal's sizes were %q", screen.String())
	}
}

func TestExecFaults(t *testing.T) {
	said := func(text string) http.HandlerFunc {
		return upgraded(func(conn io.ReadWriter) { _, _ = conn.Write(frame(streamStdout, text)) })
	}
	notStarted := func(code int) http.HandlerFunc {
		return answer(http.StatusOK, map[string]any{"Pid": 0, "ExitCode": code})
	}
	running := answer(http.StatusOK, map[string]any{"Running": true})
	for name, test := range map[string]struct {
		create, start, inspect http.HandlerFunc // nil: as usual
		class                  error
		field                  string
	}{
		"no container":               {failure(http.StatusNotFound, "No such container: x"), nil, nil, core.ErrNotFound, ""},
		"it does not run":            {failure(http.StatusConflict, "Container x is not running"), nil, nil, core.ErrNotRunning, ""},
		"no engine":                  {die, nil, nil, core.ErrUnavailable, ""},
		"no answer to the start":     {nil, die, nil, core.ErrUnavailable, ""},
		"the start is refused":       {nil, failure(http.StatusConflict, "Container x is not running"), nil, core.ErrNotRunning, ""},
		"no such program":            {nil, said("OCI runtime exec failed: exec: \"x\": executable file not found in $PATH: unknown\r\n"), notStarted(127), core.ErrInvalidConfig, "Cmd"},
		"it cannot be executed":      {nil, said("OCI runtime exec failed: exec: \"x\": permission denied: unknown\r\n"), notStarted(126), core.ErrInvalidConfig, "Cmd"},
		"no such user":               {nil, said("unable to find user x: no matching entries in passwd file\r\n"), notStarted(126), core.ErrInvalidConfig, "User"},
		"its exit is never known":    {nil, nil, running, core.ErrNotRunning, ""}, // and the container has ended
		"the engine dies meanwhile":  {nil, nil, inOrder(running, die), core.ErrUnavailable, ""},
		"the engine has forgotten":   {nil, nil, failure(http.StatusNotFound, "No such exec instance: x"), core.ErrNotRunning, ""},
		"no answer to its code":      {nil, nil, die, core.ErrUnavailable, ""},
		"the engine dies in a frame": {nil, upgraded(func(conn io.ReadWriter) { _, _ = conn.Write(frame(streamStdout, "cut")[:9]) }), nil, core.ErrUnavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			for route, handler := range map[string]http.HandlerFunc{execRoute: test.create, execStartRoute: test.start, execJSONRoute: test.inspect} {
				if handler != nil {
					engine.on(route, handler)
				}
			}
			var stdout bytes.Buffer
			opts := optional.ExecOptions{Cmd: []string{"x"}}
			opts.Stdout = &stdout
			_, err := engine.runtime(t).Exec(t.Context(), testID, opts)
			if !errors.Is(err, test.class) || core.FieldOf(err) != test.field || (test.field != "" && stdout.Len() > 0) {
				t.Errorf("got %v, field %q, output %q", err, core.FieldOf(err), stdout.String())
			}
		})
	}
}

// TestExecOfWhatClosesItsOutput has a program that runs on after that.
func TestExecOfWhatClosesItsOutput(t *testing.T) {
	engine := startFake(t)
	running := answer(http.StatusOK, map[string]any{"Running": true})
	engine.on(execJSONRoute, inOrder(running, running, answer(http.StatusOK, map[string]any{"Pid": 7, "ExitCode": 4})))
	engine.on(waitRoute, hang)
	if code, err := engine.runtime(t).Exec(t.Context(), testID, optional.ExecOptions{Cmd: []string{"x"}}); code != 4 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
}

func TestExecOfWhatSaysTheSame(t *testing.T) {
	const text = "OCI runtime exec failed: exec: \"x\": permission denied\n"
	engine := startFake(t)
	engine.on(execStartRoute, upgraded(func(conn io.ReadWriter) { _, _ = conn.Write(frame(streamStdout, text)) }))
	engine.on(execJSONRoute, answer(http.StatusOK, map[string]any{"Pid": 7, "ExitCode": 126}))
	var stdout bytes.Buffer
	opts := optional.ExecOptions{Cmd: []string{"x"}}
	opts.Stdout = &stdout
	if code, err := engine.runtime(t).Exec(t.Context(), testID, opts); code != 126 || err != nil || stdout.String() != text {
		t.Errorf("%d, %v, %q", code, err, stdout.String())
	}
}

func TestExecEndsWithItsContext(t *testing.T) {
	engine := startFake(t)
	engine.on(execStartRoute, upgraded(func(conn io.ReadWriter) { _, _ = io.Copy(io.Discard, conn) })) // until the other side closes
	ctx, cancel := context.WithCancel(t.Context())
	stdin, typed := io.Pipe()
	defer typed.Close()
	opts := optional.ExecOptions{Cmd: []string{"cat"}}
	opts.Stdin = stdin
	running := begin(func() (int64, error) { return engine.runtime(t).Exec(ctx, testID, opts) })
	if _, err := io.WriteString(typed, "x"); err != nil { // it reads by now
		t.Fatal(err)
	}
	cancel()
	if _, err := running.result(t); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

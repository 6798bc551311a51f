package docker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

const attachRoute = "POST /containers/{id}/attach"

// upgraded turns a request's connection into a stream, and ends it after talk.
func upgraded(talk func(conn io.ReadWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		talk(struct {
			io.Reader
			io.Writer
		}{buffered, conn})
	}
}

// TestStartAttachedRequests attaches before the start, and waits once after the end.
func TestStartAttachedRequests(t *testing.T) {
	engine := startFake(t)
	engine.on(attachRoute, upgraded(func(conn io.ReadWriter) {
		_, _ = conn.Write(frame(streamStdout, "out"))
		_, _ = conn.Write(frame(streamStderr, "err"))
	}))
	r := engine.created(t)
	var stdout, stderr bytes.Buffer
	if err := r.StartAttached(t.Context(), testID, core.AttachOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "out" || stderr.String() != "err" {
		t.Errorf("stdout is %q, stderr %q", stdout.String(), stderr.String())
	}
	engine.wantRequests(t,
		"POST /containers/"+testID+"/attach?detachKeys=%FF%2C%FE%2C%FF%2C%FE%2C%FF%2C%FE%2C%FF%2C%FE&stderr=1&stdout=1&stream=1",
		"POST /containers/"+testID+"/start",
		"POST /containers/"+testID+"/wait?condition=not-running")
}

func TestStartAttachedKnowsTheExitCode(t *testing.T) {
	engine := startFake(t)
	engine.on(attachRoute, upgraded(func(io.ReadWriter) {}))
	engine.on("POST /containers/{id}/wait", exits(3))
	r := engine.created(t)
	if err := r.StartAttached(t.Context(), testID, core.AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	asked := len(engine.requests())
	engine.on("POST /containers/{id}/wait", failure(http.StatusNotFound, "No such container: "+testID)) // it was to be removed
	if code, err := r.WaitContainer(t.Context(), testID); code != 3 || err != nil || len(engine.requests()) != asked {
		t.Errorf("got %d and %v, with %q", code, err, engine.requests()[asked:])
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.WaitContainer(ended, testID); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	engine.on("POST /containers/{id}/wait", exits(4))
	if err := r.StartContainer(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	if code, err := r.WaitContainer(t.Context(), testID); code != 4 || err != nil {
		t.Errorf("after another start: %d and %v", code, err)
	}
	if err := r.RemoveContainer(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	for _, route := range []string{"POST /containers/{id}/wait", "GET /containers/{id}/json"} {
		engine.on(route, failure(http.StatusNotFound, "No such container: "+testID))
	}
	if _, err := r.WaitContainer(t.Context(), testID); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("after the removal: %v", err)
	}
}

func TestAttachFaults(t *testing.T) {
	silent := func(io.ReadWriter) {}
	for name, test := range map[string]struct {
		attach  http.HandlerFunc
		inspect http.HandlerFunc
		wait    http.HandlerFunc
		class   error
	}{
		"the engine refuses":                     {failure(http.StatusNotFound, "No such container: x"), inspected("running"), exits(0), core.ErrNotFound},
		"it is paused":                           {failure(http.StatusConflict, "container x is paused"), inspected("paused"), exits(0), core.ErrInUse},
		"it does not run":                        {upgraded(silent), inspected("exited"), exits(0), core.ErrNotRunning},
		"the engine does not upgrade":            {status(http.StatusInternalServerError), inspected("running"), exits(0), nil},
		"the engine dies instead":                {die, inspected("running"), exits(0), core.ErrUnavailable},
		"the engine dies in the attachment":      {upgraded(silent), inspected("running"), die, core.ErrUnavailable},
		"the engine dies in a frame":             {upgraded(func(conn io.ReadWriter) { _, _ = conn.Write(frame(streamStdout, "cut")[:9]) }), inspected("running"), exits(0), core.ErrUnavailable},
		"the engine reports its own failure":     {upgraded(func(conn io.ReadWriter) { _, _ = conn.Write(frame(streamSystem, "lost")) }), inspected("running"), exits(0), nil},
		"the stream is not multiplexed":          {upgraded(func(conn io.ReadWriter) { _, _ = conn.Write([]byte("plain text")) }), inspected("running"), exits(0), nil},
		"it is gone before it can be waited for": {upgraded(silent), inspected("running"), gone, errNone},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on(attachRoute, test.attach)
			engine.on(inspectRoute, test.inspect)
			engine.on("POST /containers/{id}/wait", test.wait)
			err := engine.runtime(t).Attach(t.Context(), testID, core.AttachOptions{})
			switch {
			case errors.Is(test.class, errNone):
				if err != nil {
					t.Error(err)
				}
			case err == nil || (test.class != nil && !errors.Is(err, test.class)):
				t.Errorf("got %v, want %v", err, test.class)
			}
		})
	}
}

// TestAttachGivesTheTerminalItsSize has a container that was started with another.
func TestAttachGivesTheTerminalItsSize(t *testing.T) {
	for name, test := range map[string]struct {
		inspect, resize http.HandlerFunc
		resized         bool
		err             error
	}{
		"a terminal":                  {withTTY, status(http.StatusOK), true, nil},
		"a terminal that has ended":   {withTTY, failure(http.StatusConflict, "Container x is not running"), true, nil},
		"a terminal without engine":   {withTTY, die, true, core.ErrUnavailable},
		"no terminal":                 {inspected("running"), status(http.StatusOK), false, nil},
		"a size that no terminal has": {withTTY, status(http.StatusOK), false, core.ErrInvalidConfig},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on(attachRoute, upgraded(func(io.ReadWriter) {}))
			engine.on(inspectRoute, test.inspect)
			engine.on("POST /containers/{id}/resize", test.resize)
			opts := core.AttachOptions{TTY: true, InitialHeight: 30, InitialWidth: 90}
			if errors.Is(test.err, core.ErrInvalidConfig) {
				opts.InitialWidth = core.MaxTerminalSize + 1
			}
			if err := engine.runtime(t).Attach(t.Context(), testID, opts); !matches(err, test.err) {
				t.Errorf("got %v, want %v", err, test.err)
			}
			if resized := slices.Contains(engine.requests(), "POST /containers/"+testID+"/resize?h=30&w=90"); resized != test.resized {
				t.Errorf("the engine was asked for %q", engine.requests())
			}
		})
	}
}

func TestStartAttachedWithASizeThatNoTerminalHas(t *testing.T) {
	engine := startFake(t)
	opts := core.AttachOptions{TTY: true, InitialHeight: core.MaxTerminalSize + 1, InitialWidth: 80}
	if err := engine.runtime(t).StartAttached(t.Context(), testID, opts); core.FieldOf(err) != "height" {
		t.Errorf("got %v", err)
	}
	engine.wantRequests(t)
}

// gatedAs describes a container behind a gate with a mark.
func gatedAs(mark string, tty bool) http.HandlerFunc {
	return answer(http.StatusOK, container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: testID, State: &container.State{Running: true, StartedAt: "2026-01-02T03:04:05Z"}},
		Config:            &container.Config{Tty: tty, Entrypoint: []string{gatePath, "s" + mark}, Cmd: []string{"x"}},
	})
}

// TestStartAttachedBehindTheGate has the gate tell what it cannot become, and a program
// that says the same, which does not know the mark.
func TestStartAttachedBehindTheGate(t *testing.T) {
	const missing = "x: no such program, or no interpreter for it\r\n"
	for name, test := range map[string]struct {
		said  string
		wait  http.HandlerFunc
		class error
	}{
		"no such program":              {"moat-MARK: " + missing, exits(127), fs.ErrNotExist},
		"no such program, and removed": {"moat-MARK: " + missing, gone, fs.ErrNotExist},
		"it cannot be executed":        {"moat-MARK: x: cannot be executed: exec format error\r\n", exits(126), fs.ErrPermission},
		"a program that says the same": {"moat: " + missing, exits(127), nil},
		"another mark":                 {"moat-MARS: " + missing, exits(127), nil},
		"a line that begins like it":   {"moat-MARK", exits(127), nil},
		"after other output":           {"output\r\nmoat-MARK: " + missing, exits(127), nil},
		"runc's words":                 {"exec /x: exec format error\r\n", exits(1), nil},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on(inspectRoute, gatedAs("MARK", true))
			engine.on(waitRoute, test.wait)
			engine.on(attachRoute, upgraded(func(conn io.ReadWriter) { _, _ = io.WriteString(conn, test.said) }))
			var screen bytes.Buffer
			err := engine.runtime(t).StartAttached(t.Context(), testID, core.AttachOptions{Stdout: &screen, TTY: true})
			if test.class == nil {
				if err != nil || screen.String() != test.said {
					t.Errorf("got %v, and %q on the terminal", err, screen.String())
				}
			} else if !errors.Is(err, test.class) || core.FieldOf(err) != "Cmd" || screen.Len() > 0 {
				t.Errorf("got %v, and %q on the terminal", err, screen.String())
			}
		})
	}
}

// slowWriter is still at its first Write for a while after the context's end.
type slowWriter struct {
	ctx  context.Context
	busy chan struct{} // closed in the first Write
	done atomic.Bool   // the first Write has returned
}

func (w *slowWriter) Write(p []byte) (int, error) {
	close(w.busy)
	<-w.ctx.Done()
	<-time.After(20 * time.Millisecond)
	w.done.Store(true)
	return len(p), nil
}

// TestNothingIsWrittenLater ends a context in the middle of a Write.
func TestNothingIsWrittenLater(t *testing.T) {
	for name, do := range map[string]func(context.Context, *Runtime, io.Writer) error{
		"Attach": func(ctx context.Context, r *Runtime, w io.Writer) error {
			return r.Attach(ctx, testID, core.AttachOptions{Stdout: w})
		},
		"Exec": func(ctx context.Context, r *Runtime, w io.Writer) error {
			_, err := r.Exec(ctx, testID, optional.ExecOptions{Cmd: []string{"x"}, AttachOptions: core.AttachOptions{Stdout: w}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			talk := upgraded(func(conn io.ReadWriter) {
				for { // a second Write would follow the first
					if _, err := conn.Write(frame(streamStdout, strings.Repeat("x", demuxBuffer))); err != nil {
						return
					}
				}
			})
			engine.on(attachRoute, talk)
			engine.on(execStartRoute, talk)
			engine.on(inspectRoute, inspected("running"))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			slow := &slowWriter{ctx: ctx, busy: make(chan struct{})}
			attached := begin(func() (struct{}, error) { return struct{}{}, do(ctx, engine.runtime(t), slow) })
			await(t, slow.busy, "a write")
			cancel()
			if _, err := attached.result(t); !errors.Is(err, context.Canceled) || !slow.done.Load() {
				t.Errorf("got %v; the write has returned: %t", err, slow.done.Load())
			}
		})
	}
}

// TestAStuckWriterIsLeft ends the context of an attachment whose writer never returns.
func TestAStuckWriterIsLeft(t *testing.T) {
	engine := startFake(t)
	engine.on(attachRoute, upgraded(func(conn io.ReadWriter) {
		_, _ = conn.Write(frame(streamStdout, "x"))
		_, _ = io.Copy(io.Discard, conn)
	}))
	engine.on(inspectRoute, inspected("running"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, writer := io.Pipe()
	defer reader.Close()
	attached := begin(func() (struct{}, error) {
		return struct{}{}, engine.runtime(t).Attach(ctx, testID, core.AttachOptions{Stdout: writer})
	})
	if _, err := reader.Read(nil); err != nil { // it writes
		t.Fatal(err)
	}
	cancel()
	if _, err := attached.result(t); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestContainersEndInTheEnginesPlace has a stream that the engine does not end: what it
// had sent arrives, in spite of a slow writer.
func TestContainersEndInTheEnginesPlace(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	var stdout bytes.Buffer
	s := newStream(halfClosing{ours}, core.AttachOptions{Stdout: &stdout})
	go func() {
		_, _ = theirs.Write(frame(streamStdout, "all"))
		_, _ = theirs.Write(frame(streamStdout, "cut")[:frameHeader+1])
		_, _ = theirs.Write(nil) // what was before it is kept by then
		s.backlog.End(errContainerEnded)
	}()
	code, err := s.run(t.Context(), func(context.Context) (int64, error) { return 137, nil })
	if code != 137 || err != nil || stdout.String() != "allc" {
		t.Errorf("got %d and %q, %v", code, stdout.String(), err)
	}
}

type halfClosing struct{ net.Conn }

func (halfClosing) CloseWrite() error { return nil }

// errNone stands for success in tables of failures.
var errNone = errors.New("none")

// TestEndOfStdin closes the container's stdin only where the engine does not take
// that for the end of the attachment.
func TestEndOfStdin(t *testing.T) {
	engine := startFake(t)
	engine.on(attachRoute, upgraded(func(conn io.ReadWriter) {
		sent, _ := io.ReadAll(conn) // to the half-close
		_, _ = conn.Write(frame(streamStdout, "got "+string(sent)))
	}))
	r := engine.runtime(t)
	if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", Interactive: true}); err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	if err := r.StartAttached(t.Context(), testID, core.AttachOptions{Stdin: strings.NewReader("input"), Stdout: &stdout}); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "got input" {
		t.Errorf("after the end of stdin came %q", stdout.String())
	}
}

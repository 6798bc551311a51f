package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/versions"
	"github.com/moatproject/moat/core"
)

// Exec runs a program in a running container. Its output ends two seconds after it
// where a child keeps that open. A size that no terminal has is passed over, in
// Resize. In images without a shell some programs may begin before their terminal has
// its initial size: under a sandbox, and on engines before Docker 23.
func (r *Runtime) Exec(ctx context.Context, id string, opts core.ExecOptions) (int64, error) {
	if err := opts.Validate(); err != nil {
		return 0, err
	}
	c, err := r.on(ctx, 0, "exec in container", id)
	if err != nil {
		return 0, err
	}
	defer c.end()
	e := &execution{runtime: r, call: c, opts: opts}
	if opts.TTY {
		if err := e.setUpTerminal(); err != nil {
			return 0, err
		}
	}
	if err := e.create(); err != nil {
		return 0, err
	}
	if opts.Detach {
		_, err := ask(c.ctx, r, c.op, id, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, r.engine.ContainerExecStart(ctx, e.id, container.ExecStartOptions{Detach: true, Tty: opts.TTY})
		})
		return 0, err
	}
	code, err := e.run()
	return code, c.failed(err)
}

// execution is an exec in progress.
type execution struct {
	runtime *Runtime
	call    *call // on the container
	opts    core.ExecOptions
	id      string            // the engine's for the exec
	size    core.TerminalSize // at first, where there is a terminal
	gated   bool              // the gate is before the program
}

// noExecDetachKeys are noDetachKeys that JSON can carry.
const noExecDetachKeys = "\x00,\x1e,\x00,\x1e,\x00,\x1e,\x00,\x1e"

func (e *execution) create() error {
	opts := e.opts
	request := container.ExecOptions{
		Cmd: opts.Cmd, Env: opts.Env, WorkingDir: opts.WorkingDir, User: opts.User, Tty: opts.TTY,
		AttachStdin: opts.Stdin != nil, AttachStdout: !opts.Detach, AttachStderr: !opts.Detach,
	}
	if opts.TTY {
		request.DetachKeys = noExecDetachKeys
	}
	if e.gated {
		request.Cmd = slices.Concat([]string{gatePath, gateSize}, opts.Cmd)
	}
	created, err := ask(e.call.ctx, e.runtime, e.call.op, e.call.object, func(ctx context.Context) (container.ExecCreateResponse, error) {
		return e.runtime.engine.ContainerExecCreate(ctx, e.call.object, request)
	})
	e.id = created.ID
	return err
}

// run starts the program, carries its streams, and returns its exit code.
func (e *execution) run() (int64, error) {
	start := container.ExecStartOptions{Tty: e.opts.TTY}
	if e.opts.TTY && e.sizedAtStart() {
		start.ConsoleSize = &[2]uint{e.size.Height, e.size.Width}
	}
	body, err := json.Marshal(start)
	if err != nil {
		return 0, err
	}
	conn, err := e.runtime.hijack(e.call.ctx, "/exec/"+e.id+"/start", nil, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(e.call.ctx)
	defer cancel()
	stdout := &startFailure{to: e.opts.Stdout, program: e.opts.Cmd[0]}
	streams := e.opts.AttachOptions
	streams.Stdout = stdout
	carried := newStream(conn, streams)
	carried.tty, carried.halfClose = e.opts.TTY, !e.opts.TTY
	if e.opts.TTY {
		go e.followSizes(ctx)
	}
	if e.runtime.options.Sandbox != nil {
		go func() {
			if e.containerEnds(ctx) {
				_ = carried.backlog.add(nil, errContainerEnded)
			}
		}()
	}
	if err := carried.run(ctx); err != nil {
		return 0, err
	}
	return e.result(ctx, stdout)
}

// result asks for the exit code, which engines note before they end the streams.
func (e *execution) result(ctx context.Context, stdout *startFailure) (int64, error) {
	found, err := e.inspect(ctx)
	if err == nil && found.Running {
		found, err = e.awaitExit(ctx)
	}
	switch {
	case errors.Is(err, core.ErrNotFound):
		return 0, e.gone()
	case err != nil:
		return 0, err
	}
	// The gate is a process, one that the engine could not start is not.
	if failure := stdout.text(); failure != "" && (found.Pid == 0 || e.gated) && found.ExitCode >= cannotExecute {
		return 0, errors.New(failure)
	}
	if err := stdout.release(); err != nil {
		return 0, &callerError{err}
	}
	return int64(found.ExitCode), nil
}

func (e *execution) inspect(ctx context.Context) (container.ExecInspect, error) {
	return ask(ctx, e.runtime, e.call.op, e.call.object, func(ctx context.Context) (container.ExecInspect, error) {
		return e.runtime.engine.ContainerExecInspect(ctx, e.id)
	})
}

// gone reports a container that has ended, and with it the program.
func (e *execution) gone() error {
	return e.call.wrong(core.ErrNotRunning, "", "the container has ended, and the program with it", "")
}

// awaitExit polls for the exit of a program that has closed its output and runs on:
// the engine has no request that waits for it.
func (e *execution) awaitExit(ctx context.Context) (container.ExecInspect, error) {
	ended := make(chan bool, 1)
	go func() { ended <- e.containerEnds(ctx) }()
	over := false
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		select {
		case <-time.After(pause):
		case over = <-ended:
		case <-ctx.Done():
			return container.ExecInspect{}, ctx.Err()
		}
		found, err := e.inspect(ctx)
		if err != nil || !found.Running {
			return found, err
		}
		if over {
			return found, e.gone()
		}
	}
}

// cannotExecute is the first of the two exit codes of what could not be started.
const cannotExecute = 126

// errContainerEnded ends a backlog in the engine's place: a sandbox that is killed does
// not always end the streams of what ran in it.
var errContainerEnded = errors.New("the container has ended")

// endGrace is longer than engines wait for the end of the streams themselves.
const endGrace = 3 * time.Second

// containerEnds returns true some time after the container has ended, false when ctx
// ends, or that cannot be known.
func (e *execution) containerEnds(ctx context.Context) bool {
	if _, err := receive(e.runtime.engine.ContainerWait(ctx, e.call.object, container.WaitConditionNotRunning)); err != nil && !errdefs.IsNotFound(err) {
		return false
	}
	select {
	case <-time.After(endGrace):
		return true
	case <-ctx.Done():
		return false
	}
}

// sizedAtStart tells whether a terminal has its size when the program begins: gVisor
// never sees what the engine passes on.
func (e *execution) sizedAtStart() bool {
	return e.runtime.options.Sandbox == nil && versions.GreaterThanOrEqualTo(e.runtime.engine.ClientVersion(), "1.42")
}

// setUpTerminal settles the terminal's first size and, where the engine sets it too
// late, has the gate wait for it.
func (e *execution) setUpTerminal() error {
	e.size = core.TerminalSize{Height: e.opts.InitialHeight, Width: e.opts.InitialWidth}
	if e.size.Height == 0 || e.size.Width == 0 {
		e.size = core.TerminalSize{Height: usualHeight, Width: usualWidth}
	}
	if err := core.ValidateTerminalSize(e.size.Height, e.size.Width); err != nil || e.opts.Detach || e.sizedAtStart() {
		return err
	}
	return e.bringGate()
}

// bringGate puts the gate into the running container by the container's own shell: a
// sandbox need not see what the engine writes. Without a shell there is no gate.
func (e *execution) bringGate() error {
	version, err := ask(e.call.ctx, e.runtime, e.call.op, e.call.object, func(ctx context.Context) (types.Version, error) {
		return e.runtime.engine.ServerVersion(ctx)
	})
	if err != nil {
		return err
	}
	program, err := programs.ReadFile("programs/gate-" + version.Arch)
	if err != nil {
		return nil
	}
	const script = `test -x ` + gatePath + ` || { cat >` + gatePath + `.$$ && chmod 555 ` + gatePath + `.$$ && mv ` + gatePath + `.$$ ` + gatePath + `; }`
	opts := core.ExecOptions{Cmd: []string{"sh", "-c", script}, User: "0", WorkingDir: "/"}
	opts.Stdin = bytes.NewReader(program)
	code, err := e.runtime.Exec(e.call.ctx, e.call.object, opts)
	if core.FieldOf(err) == "Cmd" {
		return nil
	}
	e.gated = err == nil && code == 0
	return err
}

// followSizes gives the terminal its sizes. That it has ended by then is no failure.
func (e *execution) followSizes(ctx context.Context) {
	e.resize(ctx, e.size)
	for {
		select {
		case size, open := <-e.opts.Resize:
			if !open {
				return
			}
			e.resize(ctx, size)
		case <-ctx.Done():
			return
		}
	}
}

func (e *execution) resize(ctx context.Context, size core.TerminalSize) {
	err := core.ValidateTerminalSize(size.Height, size.Width)
	if err == nil {
		err = e.runtime.engine.ContainerExecResize(ctx, e.id, container.ResizeOptions{Height: size.Height, Width: size.Width})
	}
	if err != nil && ctx.Err() == nil {
		e.runtime.options.Logger.Debug("the terminal keeps its size", "container", e.call.object, "error", err)
	}
}

// startFailure passes output on, but holds back what may be the one line in which the
// engine, or the gate, tells why a program could not be started. They write it first,
// and in one piece: a first key's echo is not held.
type startFailure struct {
	to      io.Writer // nil discards
	program string    // empty: any
	held    []byte
	passed  bool
}

func (f *startFailure) Write(p []byte) (int, error) {
	if f.passed {
		return f.pass(p)
	}
	f.held = append(f.held, p...)
	if f.possible() {
		return len(p), nil
	}
	return len(p), f.release()
}

func (f *startFailure) possible() bool {
	if line := bytes.IndexByte(f.held, '\n'); len(f.held) > systemErrorMax || (line >= 0 && line < len(f.held)-1) {
		return false
	}
	gate := "moat: "
	if f.program != "" {
		gate += f.program + ": "
	}
	for _, sign := range []string{"OCI runtime exec failed: ", "unable to find user ", "unable to find group ", gate} {
		if bytes.HasPrefix(f.held, []byte(sign)) {
			return true
		}
	}
	return false
}

// text returns what is held, if it is such a line.
func (f *startFailure) text() string {
	line, whole := strings.CutSuffix(string(f.held), "\n")
	if !whole {
		return ""
	}
	return strings.TrimSpace(line)
}

// gates returns what the gate said in the place of a container's program, which exited
// with code, or passes on what is held.
func (f *startFailure) gates(code int64) error {
	text := f.text()
	if (strings.HasSuffix(text, gateMissing) || strings.HasSuffix(text, gateRefused)) && (code >= cannotExecute || code == unknownCode) {
		return errors.New(text)
	}
	if err := f.release(); err != nil {
		return &callerError{err}
	}
	return nil
}

// release passes on what is held.
func (f *startFailure) release() error {
	held := f.held
	f.held, f.passed = nil, true
	_, err := f.pass(held)
	return err
}

func (f *startFailure) pass(p []byte) (int, error) {
	if f.to == nil || len(p) == 0 {
		return len(p), nil
	}
	return f.to.Write(p)
}

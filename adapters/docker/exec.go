package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/versions"
	"github.com/moatproject/moat/core"
)

// consoleSizeAPI is the first version in which the start of an exec sets its
// terminal's size.
const consoleSizeAPI = "1.42"

// Exec runs a program in a running container.
func (r *Runtime) Exec(ctx context.Context, id string, opts core.ExecOptions) (int64, error) {
	if err := opts.Validate(); err != nil {
		return 0, err
	}
	c, err := r.on(ctx, 0, "exec in container", id)
	if err != nil {
		return 0, err
	}
	defer c.end()
	if sized(opts) && !r.sizesAtStart() {
		if err := r.gateExec(c, &opts); err != nil {
			return 0, c.failed(err)
		}
	}
	exec, err := ask(c.ctx, r, c.op, id, func(ctx context.Context) (container.ExecCreateResponse, error) {
		return r.engine.ContainerExecCreate(ctx, id, execRequest(opts))
	})
	if err != nil {
		return 0, err
	}
	if opts.Detach {
		return 0, c.failed(r.engine.ContainerExecStart(c.ctx, exec.ID, container.ExecStartOptions{Detach: true, Tty: opts.TTY}))
	}
	code, err := r.exec(c, exec.ID, opts)
	return code, c.failed(err)
}

func execRequest(opts core.ExecOptions) container.ExecOptions {
	return container.ExecOptions{
		Cmd: opts.Cmd, Env: opts.Env, WorkingDir: opts.WorkingDir, User: opts.User, Tty: opts.TTY,
		AttachStdin: opts.Stdin != nil, AttachStdout: !opts.Detach, AttachStderr: !opts.Detach,
	}
}

// sized tells a program whose terminal has a size from its beginning.
func sized(opts core.ExecOptions) bool {
	return opts.TTY && opts.InitialHeight > 0 && opts.InitialWidth > 0
}

func (r *Runtime) sizesAtStart() bool {
	return versions.GreaterThanOrEqualTo(r.engine.ClientVersion(), consoleSizeAPI)
}

// exec starts an exec, carries its streams, and returns its exit code.
func (r *Runtime) exec(c *call, exec string, opts core.ExecOptions) (int64, error) {
	start := container.ExecStartOptions{Tty: opts.TTY}
	if sized(opts) && r.sizesAtStart() {
		start.ConsoleSize = &[2]uint{opts.InitialHeight, opts.InitialWidth}
	}
	body, err := json.Marshal(start)
	if err != nil {
		return 0, err
	}
	conn, err := r.hijack(c.ctx, "/exec/"+exec+"/start", nil, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	resizing, cancel := context.WithCancel(c.ctx)
	defer cancel()
	if sized(opts) && !r.sizesAtStart() {
		_ = r.resizeExec(resizing, exec, core.TerminalSize{Height: opts.InitialHeight, Width: opts.InitialWidth})
	}
	go r.followSizes(resizing, exec, opts.Resize)

	stdout := &failureFilter{to: opts.Stdout}
	opts.Stdout = stdout
	s := &stream{conn: conn, opts: opts.AttachOptions, tty: opts.TTY, halfClose: !opts.TTY}
	if err := s.run(c.ctx); err != nil {
		return 0, err
	}
	found, err := r.execEnd(c.ctx, c.object, exec)
	if err != nil {
		return 0, err
	}
	// One that was started has a process, whatever it wrote.
	if failure := strings.TrimSpace(stdout.held.String()); failure != "" && found.Pid == 0 {
		return 0, errors.New(failure)
	}
	if err := stdout.release(); err != nil {
		return 0, &callerError{err}
	}
	return int64(found.ExitCode), nil
}

// execEnd returns what has become of an exec whose output has ended. The engine may
// take a moment more to note its end, or a program may have closed its output.
func (r *Runtime) execEnd(ctx context.Context, id, exec string) (container.ExecInspect, error) {
	found, err := r.engine.ContainerExecInspect(ctx, exec)
	if err != nil || !found.Running {
		return found, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages, failures := r.engine.Events(ctx, events.ListOptions{Filters: filters.NewArgs(
		filters.Arg("container", id), filters.Arg("event", string(events.ActionExecDie)), filters.Arg("event", string(events.ActionDie)),
	)})
	for {
		// Asked for before the look, so that no end falls between them.
		found, err := r.engine.ContainerExecInspect(ctx, exec)
		if err != nil || !found.Running {
			return found, err
		}
		select {
		case <-messages:
		case err := <-failures:
			return found, err
		}
	}
}

// followSizes gives an exec's terminal each size that comes.
func (r *Runtime) followSizes(ctx context.Context, exec string, sizes <-chan core.TerminalSize) {
	for {
		select {
		case size, open := <-sizes:
			if !open {
				return
			}
			if err := r.resizeExec(ctx, exec, size); err != nil && ctx.Err() == nil {
				r.options.Logger.Warn("the terminal keeps its size", "exec", exec, "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r *Runtime) resizeExec(ctx context.Context, exec string, size core.TerminalSize) error {
	if err := core.ValidateTerminalSize(size.Height, size.Width); err != nil {
		return err
	}
	return r.engine.ContainerExecResize(ctx, exec, container.ResizeOptions{Height: size.Height, Width: size.Width})
}

// execFailed is how engines begin to tell, in the output, that a program could not
// be started.
const execFailed = "OCI runtime exec failed: "

// failureFilter passes output on, but holds back what may be the engine's account of
// a program that it could not start.
type failureFilter struct {
	to     io.Writer
	passed bool
	held   bytes.Buffer
}

func (f *failureFilter) Write(p []byte) (int, error) {
	if f.passed {
		return f.pass(p)
	}
	f.held.Write(p)
	seen := f.held.Bytes()
	expected := execFailed[:min(len(execFailed), len(seen))]
	if bytes.HasPrefix(seen, []byte(expected)) && len(seen) <= systemErrorMax {
		return len(p), nil
	}
	return len(p), f.release()
}

// release passes on what is held.
func (f *failureFilter) release() error {
	f.passed = true
	_, err := f.pass(f.held.Next(f.held.Len()))
	return err
}

func (f *failureFilter) pass(p []byte) (int, error) {
	if f.to == nil || len(p) == 0 {
		return len(p), nil
	}
	return f.to.Write(p)
}

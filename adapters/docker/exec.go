package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/versions"
	"github.com/moatproject/moat/adapters/docker/programs"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// Exec runs a program in a running container. If a child process keeps the output open,
// Exec stops reading two seconds after the program has exited. Invalid sizes from Resize
// are ignored. In an image without a shell, a program may begin before its terminal has its
// initial size, under a sandbox and on engines before Docker 23.
func (r *Runtime) Exec(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
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
	opts    optional.ExecOptions
	id      string                // the engine's for the exec
	size    optional.TerminalSize // at first, where there is a terminal
	mark    string                // of the gate before the program; empty: there is none
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
	if e.mark != "" {
		request.Cmd = slices.Concat([]string{gatePath, gateSize + e.mark}, opts.Cmd)
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
	carried := newStream(conn, e.opts.AttachOptions)
	carried.tty, carried.halfClose = e.opts.TTY, !e.opts.TTY
	refusal := e.runtime.kind().execRefusal
	unstarted := func(said string) bool { return refusal([]byte(said)) && e.isUnstarted(ctx, said) }
	unexecuted := func(said string) bool { return e.runtime.isUnexecuted(ctx, e.call, said) }
	all := &opening{
		gate:   gatesWords(e.mark),
		others: func(said []byte) bool { return refusal(said) || isInitRefusal(said) },
		prove:  func(said string) bool { return unstarted(said) || unexecuted(said) },
	}
	carried.stdout = &opening{gate: gatesWords(e.mark), others: refusal, prove: unstarted}
	carried.stderr = &opening{others: isInitRefusal, prove: unexecuted}
	switch {
	case e.opts.TTY && e.mark == "":
		carried.stdout = all
	case e.runtime.kind().refusesOnStderr && !e.opts.TTY:
		carried.stdout, carried.stderr = &opening{gate: all.gate}, all
		all.gate = ""
	}
	if e.opts.TTY {
		go e.followSizes(ctx)
	}
	if e.runtime.options.Sandbox != nil {
		go func() {
			if e.containerEnds(ctx) {
				carried.backlog.End(errContainerEnded)
			}
		}()
	}
	return carried.run(ctx, func(ctx context.Context) (int64, error) { return e.result(ctx, carried) })
}

// isUnstarted tells whether the engine could not start the program, once it has said so.
func (e *execution) isUnstarted(ctx context.Context, said string) bool {
	found, err := e.inspect(ctx)
	return err == nil && e.runtime.kind().unstarted(e.opts, found, said)
}

// result asks for the exit code, which engines note before they end the streams.
func (e *execution) result(ctx context.Context, carried *stream) (int64, error) {
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
	code := int64(found.ExitCode)
	for _, first := range []*opening{carried.stdout, carried.stderr} {
		said := first.words()
		if said != "" && e.runtime.kind().execRefusal([]byte(said)) && e.runtime.kind().unstarted(e.opts, found, said) {
			return 0, errors.New(said)
		}
		if err := e.runtime.opened(ctx, e.call, first, code); err != nil {
			return 0, err
		}
	}
	return code, nil
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

// errContainerEnded ends a backlog in the engine's place: a sandbox that is killed does
// not always end the streams of what ran in it.
var errContainerEnded = errors.New("the container has ended")

// endGrace is longer than engines wait for the end of the streams themselves.
const endGrace = 3 * time.Second

// containerEnds returns true some time after the container has ended, false when ctx
// ends, or that cannot be known.
func (e *execution) containerEnds(ctx context.Context) bool {
	if _, err := e.runtime.kind().awaitExit(ctx, e.runtime, e.call.object); err != nil && !errdefs.IsNotFound(err) {
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
	e.size = optional.TerminalSize{Height: e.opts.InitialHeight, Width: e.opts.InitialWidth}
	if e.size.Height == 0 || e.size.Width == 0 {
		e.size = optional.TerminalSize{Height: usualHeight, Width: usualWidth}
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
	program, err := programs.Read("gate", version.Arch)
	if err != nil {
		return nil
	}
	const script = `test -x ` + gatePath + ` || { cat >` + gatePath + `.$$ && chmod 555 ` + gatePath + `.$$ && mv ` + gatePath + `.$$ ` + gatePath + `; }`
	opts := optional.ExecOptions{Cmd: []string{"sh", "-c", script}, User: "0", WorkingDir: "/"}
	opts.Stdin = bytes.NewReader(program)
	code, err := e.runtime.Exec(e.call.ctx, e.call.object, opts)
	if core.ProgramFailure(err) != nil {
		return nil
	}
	if err == nil && code == 0 {
		e.mark = newMark()
	}
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

func (e *execution) resize(ctx context.Context, size optional.TerminalSize) {
	err := core.ValidateTerminalSize(size.Height, size.Width)
	for try := 0; err == nil; try++ {
		err = e.runtime.sendSize(ctx, func() error {
			return e.runtime.engine.ContainerExecResize(ctx, e.id, container.ResizeOptions{Height: size.Height, Width: size.Width})
		})
		if err == nil || try >= e.runtime.kind().resizeTries {
			break
		}
		select {
		case <-time.After(firstPause):
			err = nil
		case <-ctx.Done():
		}
	}
	if err != nil && ctx.Err() == nil {
		e.runtime.options.Logger.Debug("the terminal keeps its size", "container", e.call.object, "error", err)
	}
}
